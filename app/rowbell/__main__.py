"""`python -m rowbell` is `rowbell`."""

import sys

from rowbell.cli import main

sys.exit(main())
