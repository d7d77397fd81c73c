from __future__ import annotations

from rowbell.bus import EVERY_GATEWAY, Bundle
from rowbell.bus.rabbitmq import encode_bundle
from rowbell.dispatch.bundles import MAX_BUNDLE_BYTES, addressed, bundled
from rowbell.notification import Change


def change(id: int, recipient: str = "alice", json: str = "{}") -> Change:
    return Change(id, recipient, 1, 1, 1, json)


def test_each_gateway_of_a_recipient_gets_each_of_their_changes_in_order() -> None:
    changes = [change(1), change(2, "bob"), change(3), change(4, "carol")]

    bundles = bundled(addressed(changes, {"alice": {"one"}, "bob": {"one", "two"}}))

    assert sorted(bundles, key=lambda bundle: bundle.gateway) == [
        Bundle("one", [changes[0], changes[1], changes[2]]),
        Bundle("two", [changes[1]]),
    ]


def test_nobody_connected_is_no_bundle() -> None:
    assert bundled(addressed([change(1)], {})) == []


def test_when_it_is_not_known_who_is_where_every_gateway_gets_all() -> None:
    changes = [change(1), change(2, "bob")]

    assert bundled(addressed(changes, None)) == [Bundle(EVERY_GATEWAY, changes)]


def test_a_bundle_is_split_before_it_exceeds_a_mebibyte_on_the_wire() -> None:
    changes = [change(id, "名" * 255, "é" * 16_000) for id in range(100)]

    bundles = bundled(("one", each) for each in changes)

    sizes = [len(encode_bundle(bundle.changes)) for bundle in bundles]
    assert max(sizes) <= MAX_BUNDLE_BYTES
    assert min(sizes[:-1]) > MAX_BUNDLE_BYTES - 40_000
    assert [each for bundle in bundles for each in bundle.changes] == changes


def test_a_full_bundle_for_one_gateway_does_not_split_that_of_another() -> None:
    large = change(1, json="x" * (MAX_BUNDLE_BYTES // 2))

    bundles = bundled([("one", large), ("two", change(2)), ("one", large), ("two", change(3))])

    assert [(bundle.gateway, len(bundle.changes)) for bundle in bundles] == [("one", 1), ("two", 2), ("one", 1)]


def test_a_change_larger_than_a_bundle_goes_alone() -> None:
    huge = change(1, json="x" * (2 * MAX_BUNDLE_BYTES))

    bundles = bundled(("one", each) for each in [change(2), huge, change(3)])

    assert [[each.id for each in bundle.changes] for bundle in bundles] == [[2], [1], [3]]
