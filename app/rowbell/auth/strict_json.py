"""Parses untrusted JSON objects: the parts of a token, and key sets."""

from __future__ import annotations

import json
from typing import Any


def read_object(data: bytes) -> dict[str, Any]:
    """Parse a JSON object in UTF-8. Raises ValueError, which quotes nothing, for anything else.

    A repeated name is refused, at any depth: parsers differ in which of the two values they use, so one could be
    checked and the other used. NaN and Infinity, which are not JSON, are refused as well.

    Source: RFC 7515, 4, and RFC 7519, 4 (names must be unique); RFC 8259, 4
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON, or repeats a name") from None
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
