"""JSON objects that come from strangers: the parts of a token, and lists of keys."""

from __future__ import annotations

import json
from typing import Any


def read_object(data: bytes) -> dict[str, Any]:
    """The JSON object that these bytes are, in UTF-8. ValueError, which quotes nothing, for anything else.

    A name that stands twice is refused, at any depth: readers differ in which of the two counts, and what one has
    checked another would not use. So are NaN and Infinity, which are no JSON.

    Source: RFC 7515, 4, and RFC 7519, 4 (names must be unique); RFC 8259, 4
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON, or holds a name twice") from None
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError
