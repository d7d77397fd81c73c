"""Taking back the tokens of a user."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, insert

from rowbell.inbox.tables import notification_revocation


def revoke(connection: Connection, user: str, before: datetime | None) -> datetime:
    """Refuse the user's tokens that were issued before this time, or now; returns the time.

    In the connection's transaction: gateways see it within seconds of its commit.
    """
    row = {"user_id": user} | ({} if before is None else {"before": before})
    statement = insert(notification_revocation).values(row).returning(notification_revocation.c.before)
    at: datetime = connection.execute(statement).scalar_one()
    return at
