"""Requests to mark rows as read."""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST_IDS = 1000
"""Ids in one message; ALL marks more than that."""

ALL = '{"all":true}'

Id = Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
"""The id of a notification."""
Ids = Annotated[list[Id], msgspec.Meta(max_length=MOST_IDS)]

ADVICE = f'The body must be {{"ids":[42,43]}}, with at most {MOST_IDS} ids of notifications, or {ALL}.'


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    ids: Ids | None = None
    all: bool = False


_decode = msgspec.json.Decoder(_Body).decode


def parse_read(body: bytes) -> list[int] | None:
    """Return the ids, or None for everything received. ValueError says what is wrong with the body and what to send."""
    try:
        said = _decode(body)
        return which(said.ids, said.all)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"{error}. {ADVICE}") from None


def which(ids: list[int] | None, all: bool) -> list[int] | None:
    """Return the ids, or None for all. ValueError if both are given, or neither."""
    if all is (ids is not None):
        raise ValueError("Give either ids or all")
    return ids
