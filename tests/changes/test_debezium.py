from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell.changes.debezium import UNAVAILABLE, decode
from rowbell.errors import UndecodableRecord
from rowbell.notification import DELETED, Change, with_event
from tests.changes.envelopes import CREATED, DELETED_ROW, UPDATED_WITH_TOASTED_BODY, altered, created

COMMITTED_AT = 1795395881893134
COLUMNS_THAT_CAN_BE_TOASTED = ["title", "type", "body", "data", "actor_id"]


def test_an_insert_is_a_whole_change() -> None:
    change = decode(CREATED)

    assert change == Change(
        1,
        "alice",
        1,
        inserted_tx=752,
        tx=752,
        json='"id":1,"version":1,"recipientId":"alice","type":"COMMENT","title":"New comment",'
        '"body":"Bob: \\"hi\\" ünïcödé","data":{"postId": "p-100"},"actorId":"user-123","channel":"IN_APP",'
        '"createdAt":1795338840791,"expiresAt":null,"readAt":null}',
        committed_at=COMMITTED_AT,
    )


def test_an_update_carries_the_newer_version_and_whether_it_is_read() -> None:
    record = altered(created(version=2, changed_tx=760, read_at="2026-11-22T09:15:00.500000Z"), op="u")

    change = decode(record)

    assert change is not None
    assert (change.version, change.inserted_tx, change.tx, change.read) == (2, 752, 760, True)
    assert json.loads(with_event("updated", change))["readAt"] == 1795338900500


def test_a_deletion_has_only_what_is_real_in_before_and_the_transaction_of_the_source() -> None:
    change = decode(DELETED_ROW)

    assert change == Change(1, "alice", DELETED, inserted_tx=0, tx=752, committed_at=COMMITTED_AT)


def test_an_update_that_leaves_a_toasted_body_alone_is_incomplete() -> None:
    change = decode(UPDATED_WITH_TOASTED_BODY)

    assert change == Change(2, "bob", 2, inserted_tx=753, tx=754, read=True, committed_at=COMMITTED_AT)
    assert change.incomplete


@pytest.mark.parametrize("column", COLUMNS_THAT_CAN_BE_TOASTED)
def test_an_unavailable_value_in_any_column_is_never_shown(column: str) -> None:
    columns: dict[str, Any] = {column: UNAVAILABLE}

    change = decode(created(**columns))

    assert change is not None
    assert change.incomplete


def test_a_row_for_another_channel_is_hidden() -> None:
    change = decode(created(channel="EMAIL"))

    assert change is not None
    assert change.hidden
    assert change.json is None


def test_a_row_for_another_channel_is_hidden_though_its_body_is_unavailable() -> None:
    change = decode(created(channel="EMAIL", body=UNAVAILABLE))

    assert change is not None
    assert change.hidden
    assert not change.incomplete


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1970-01-01T00:00:00.000000Z", 0),
        ("2026-11-22T09:14:00Z", 1795338840000),
        ("2026-11-22T09:14:00.791Z", 1795338840791),
        ("2026-11-22T09:14:00.791999Z", 1795338840791),
        ("2026-11-22T10:14:00.791291+01:00", 1795338840791),
        ("9999-12-31T23:59:59.999999Z", 253402300799999),
    ],
)
def test_times_are_epoch_milliseconds_rounded_down(text: str, milliseconds: int) -> None:
    change = decode(created(created_at=text))

    assert change is not None
    assert json.loads(with_event("created", change))["createdAt"] == milliseconds


@given(st.integers(min_value=0, max_value=253402300799999))
def test_every_millisecond_survives(milliseconds: int) -> None:
    seconds, rest = divmod(milliseconds, 1000)
    text = (datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)).isoformat()

    change = decode(created(created_at=f"{text}.{rest:03}Z"))

    assert change is not None
    assert json.loads(with_event("created", change))["createdAt"] == milliseconds


def test_data_is_embedded_as_it_came() -> None:
    change = decode(created(data='{"b": 1.50, "a": [1,2], "é": "\\u0041"}'))

    assert change is not None
    assert '"data":{"b": 1.50, "a": [1,2], "é": "\\u0041"},' in str(change.json)


def test_a_row_of_debeziums_snapshot_tells_nothing() -> None:
    assert decode(altered(CREATED, op="r")) is None


def test_a_tombstone_tells_nothing() -> None:
    assert decode(None) is None


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "truncated"),
        (b"not json", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"null", "Expected `object`, got `null`"),
        (b"[" * 100_000, "Expected `object`"),
        (b'{"x":' + b"[" * 100_000, "recursion"),
        (altered(CREATED, op=...), "missing required field `op`"),
        (altered(CREATED, source=...), "missing required field `source`"),
        (altered(CREATED, source={}), "missing required field `ts_us` - at `$.source`"),
        (altered(CREATED, op="t"), "`op` is 't'"),
        (altered(CREATED, after=None), "`op` is 'c' and `after` is null"),
        (altered(DELETED_ROW, before=None), "`before` is null"),
        (altered(DELETED_ROW, source={"ts_us": 1}), "`source.txId` is missing"),
        (altered(DELETED_ROW, source={"ts_us": 1, "txId": 2**32}), "at `$.source.txId`"),
        (created(id="1"), "Expected `int`, got `str` - at `$.after.id`"),  # type: ignore[arg-type]
        (created(id=2**53), "at `$.after.id`"),
        (created(version=DELETED), "at `$.after.version`"),
        (created(changed_tx=-1), "at `$.after.changed_tx`"),
        (created(recipient=""), "at `$.after.recipient_id`"),
        (created(recipient=UNAVAILABLE), "`after.recipient_id` is unavailable"),
        (created(title=None), "at `$.after.title`"),
        (created(created_at="yesterday"), "at `$.after.created_at`"),
        (created(created_at="2026-11-22T09:14:00"), "at `$.after.created_at`"),
        (created(data="{"), "`after.data` is not a JSON object"),
        (created(data="[]"), "`after.data` is not a JSON object"),
        (created(data='{}, "event": "forged"'), "`after.data` is not a JSON object"),
    ],
)
def test_what_is_not_a_change_is_refused_with_a_reason_that_names_the_place(record: bytes, reason: str) -> None:
    with pytest.raises(UndecodableRecord) as refusal:
        decode(record)

    assert reason in str(refusal.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
    max_leaves=8,
)


def decodes_or_is_refused(record: bytes) -> None:
    try:
        change = decode(record)
    except UndecodableRecord:
        return
    assert change is None or isinstance(change, Change)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_is_on_the_topic_either_decodes_or_is_refused(record: bytes) -> None:
    decodes_or_is_refused(record)


@given(
    st.sampled_from([CREATED, UPDATED_WITH_TOASTED_BODY, DELETED_ROW]),
    st.sampled_from(["before", "after", "source", None]),
    st.sampled_from([*json.loads(CREATED)["after"], "ts_us", "txId", "op", "before", "after", "source"]),
    JSON,
)
def test_an_envelope_with_one_member_replaced_either_decodes_or_is_refused(
    record: bytes, where: str | None, member: str, value: Any
) -> None:
    envelope = json.loads(record)
    place = envelope if where is None else envelope[where]
    if isinstance(place, dict):
        place[member] = value

    decodes_or_is_refused(json.dumps(envelope).encode())


@given(st.integers(min_value=0, max_value=len(CREATED) - 1), st.binary(max_size=3))
def test_a_damaged_envelope_either_decodes_or_is_refused(position: int, damage: bytes) -> None:
    decodes_or_is_refused(CREATED[:position] + damage + CREATED[position + len(damage) + 1 :])
