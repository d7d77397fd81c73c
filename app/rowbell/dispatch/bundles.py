"""Who gets what: changes gathered into one bundle for each gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rowbell.bus import EVERY_GATEWAY, Bundle
from rowbell.notification import Change

MAX_BUNDLE_BYTES = 1024 * 1024
"""1 MiB: the broker copies and the gateway decodes a message as a whole, while everything else there waits."""
_NUMBERS_BYTES = 64
"""What the numbers of a change and the encoding's own bytes take at most."""


def addressed(changes: Iterable[Change], gateways: Mapping[str, set[str]] | None) -> Iterator[tuple[str, Change]]:
    """(gateway, change) for each gateway of each recipient; EVERY_GATEWAY when it is not known who is where (None)."""
    for change in changes:
        if gateways is None:
            yield EVERY_GATEWAY, change
        else:
            for gateway in gateways.get(change.recipient_id, ()):
                yield gateway, change


def bundled(parcels: Iterable[tuple[str, Change]]) -> list[Bundle]:
    """One bundle for each gateway, its changes in the given order; another one where MAX_BUNDLE_BYTES is reached.

    A change that is larger by itself has a bundle of its own: the table's limits keep it below 100 KiB.
    """
    bundles: list[Bundle] = []
    filling: dict[str, Bundle] = {}
    room: dict[str, int] = {}
    for gateway, change in parcels:
        size = _size(change)
        if room.get(gateway, 0) < size:
            filling[gateway] = Bundle(gateway, [])
            bundles.append(filling[gateway])
            room[gateway] = MAX_BUNDLE_BYTES
        filling[gateway].changes.append(change)
        room[gateway] -= size
    return bundles


def _size(change: Change) -> int:
    """Bytes on the wire, or a few more."""
    return _NUMBERS_BYTES + _utf8_size(change.recipient_id) + _utf8_size(change.json or "")


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
