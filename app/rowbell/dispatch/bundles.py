"""Groups changes into bundles, one for each gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rowbell.bus import EVERY_GATEWAY, Bundle
from rowbell.notification import Change

MAX_BUNDLE_BYTES = 1024 * 1024
"""1 MiB. The broker copies and the gateway decodes a message as a whole, while everything else there waits."""
_NUMBERS_BYTES = 64
"""The most bytes that the numbers of a change and the encoding itself take."""


def addressed(changes: Iterable[Change], gateways: Mapping[str, set[str]] | None) -> Iterator[tuple[str, Change]]:
    """Yield (gateway, change) for each gateway of each change's recipient.

    `gateways` maps recipient → gateways; if it is None, because presence is unknown, each change goes to EVERY_GATEWAY.
    """
    for change in changes:
        if gateways is None:
            yield EVERY_GATEWAY, change
        else:
            for gateway in gateways.get(change.recipient_id, ()):
                yield gateway, change


def bundled(parcels: Iterable[tuple[str, Change]]) -> list[Bundle]:
    """Return one bundle for each gateway, with its changes in the given order, or several of up to MAX_BUNDLE_BYTES.

    A larger change would get a bundle of its own, but the table's limits keep changes below 100 KiB.
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
    """Return an upper bound of the change's bytes on the wire, too high by only a few."""
    return _NUMBERS_BYTES + _utf8_size(change.recipient_id) + _utf8_size(change.json or "")


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
