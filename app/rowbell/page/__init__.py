"""The page at `/` of a gateway in development: an inbox in the browser, and a form that inserts rows.

Anyone who can reach it can read as any user and write to anyone. It is for a developer's machine, and must not be part
of a gateway that others can reach.
"""

from __future__ import annotations

from rowbell.page.routes import routes

__all__ = ["routes"]
