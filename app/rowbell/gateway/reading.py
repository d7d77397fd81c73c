"""What a client says that its user has read."""

from __future__ import annotations

from typing import Annotated

import msgspec

MOST_IDS = 1000
"""Ids in one message; for more there is ALL."""

ALL = '{"all":true}'

ADVICE = f'The body must be {{"ids":[42,43]}}, with at most {MOST_IDS} ids of notifications, or {ALL}.'


class _Ids(msgspec.Struct, forbid_unknown_fields=True):
    ids: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]], msgspec.Meta(max_length=MOST_IDS)] | None = (
        None
    )
    all: bool = False


_decode = msgspec.json.Decoder(_Ids).decode


def parse_read(body: bytes) -> list[int] | None:
    """The ids, or None for all that has been given. ValueError says what is wrong with the body, and what is right."""
    try:
        said = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"{error}. {ADVICE}") from None
    if said.all is (said.ids is not None):
        raise ValueError(f"It names ids and all, or neither. {ADVICE}")
    return None if said.ids is None else said.ids
