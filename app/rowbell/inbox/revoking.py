"""Revokes the tokens of a user."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from rowbell.inbox.tables import notification_revocation


def revoke(connection: Connection, user: str, before: datetime | None) -> datetime:
    """Revoke the user's tokens issued before this time, by default now.

    Return the time that applies, which is later than `before` if an earlier revocation says so. Runs in the
    connection's transaction; gateways notice within seconds of its commit.
    """
    row = {"user_id": user} | ({} if before is None else {"before": before})
    connection.execute(insert(notification_revocation).values(row))
    latest = select(func.max(notification_revocation.c.before)).where(notification_revocation.c.user_id == user)
    at: datetime = connection.execute(latest).scalar_one()
    return at
