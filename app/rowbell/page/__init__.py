"""The page at `/` of a gateway in development: an inbox in the browser, and a form that inserts rows.

Whoever reaches it can be any user and write to anybody: it is for the machine of a developer, and no part of a gateway
that others reach.
"""

from __future__ import annotations

from rowbell.page.routes import routes

__all__ = ["routes"]
