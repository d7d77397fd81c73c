"""Taking back the tokens of a user."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from rowbell.inbox.tables import notification_revocation


def revoke(connection: Connection, user: str, before: datetime | None) -> datetime:
    """Refuse the user's tokens that were issued before this time, or now; returns the time that holds, which may be a
    later one that was said earlier.

    In the connection's transaction: gateways see it within seconds of its commit.
    """
    row = {"user_id": user} | ({} if before is None else {"before": before})
    connection.execute(insert(notification_revocation).values(row))
    latest = select(func.max(notification_revocation.c.before)).where(notification_revocation.c.user_id == user)
    at: datetime = connection.execute(latest).scalar_one()
    return at
