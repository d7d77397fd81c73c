"""Inserts a row as any application would, and explains why PostgreSQL refuses it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import psycopg
from psycopg import errors, sql

LIMITS = {
    "recipient_id": "1 to 255 characters, no control characters, none of / * # : except the colon of topic:NAME",
    "title": "1 to 500 characters, no control characters except tab and line ends",
    "type": "1 to 100 of A-Z a-z 0-9 _ . -",
    "body": "at most 16384 bytes of UTF-8, no control characters except tab and line ends",
    "data": 'a JSON object of at most 24576 bytes, for example \'{"postId": "p-100"}\'',
    "dedup_key": "1 to 255 characters",
}
"""The values that the CHECK of each column allows, in words."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row was not inserted."""

    reason: str
    column: str | None = None
    """The column with the invalid value, if PostgreSQL names it."""
    by_row: bool = True
    """False if no row could have been inserted: tables or rights are missing, or the server is not the primary."""

    def __str__(self) -> str:
        return f"the row was refused: {self.reason}" if self.by_row else self.reason


def insert(columns: Collection[str]) -> sql.Composed:
    """Return the statement, for parameters named like the columns. It returns no id if the dedup_key exists already."""
    return sql.SQL("INSERT INTO notification ({}) VALUES ({}) ON CONFLICT DO NOTHING RETURNING id").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join(map(sql.Placeholder, columns))
    )


def refusal(error: psycopg.Error) -> Refusal:
    """Return why the database refused the row, with the column if PostgreSQL names it, and with advice."""
    said = error.diag.message_primary or str(error)
    column = (error.diag.constraint_name or "").removeprefix("notification_").removesuffix("_check")
    if isinstance(error, errors.CheckViolation) and column in LIMITS:
        return Refusal(f"{column} must be {LIMITS[column]}", column)
    if isinstance(error, errors.InvalidTextRepresentation | errors.UntranslatableCharacter):
        return Refusal(f"data must be {LIMITS['data']} ({error.diag.message_detail or said})", "data")
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return Refusal(f"the database lacks Rowbell's tables ({said}): run `rowbell migrate`", by_row=False)
    if isinstance(error, errors.InsufficientPrivilege):
        return Refusal(f"{said}: grant the role rowbell_app to the login in ROWBELL_DATABASE_URL", by_row=False)
    if isinstance(error, errors.ReadOnlySqlTransaction):
        advice = "this is not the primary; add target_session_attrs=read-write to ROWBELL_DATABASE_URL"
        return Refusal(f"{said}: {advice}", by_row=False)
    return Refusal("\n".join(filter(None, (said, error.diag.message_detail, error.diag.message_hint))))
