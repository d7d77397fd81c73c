from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from rowbell.changes.pgoutput import COLUMNS as NEEDED
from rowbell.changes.pgoutput import CopyStream, Decoder, lsn, payload
from rowbell.errors import UndecodableRecord
from rowbell.notification import DELETED, Change, with_event
from tests.changes.messages import (
    BEGIN,
    BIGINT,
    COLUMNS,
    COMMIT,
    COMMITTED_AT,
    CREATED,
    DELETED_ROW,
    END,
    HEARTBEAT,
    HEARTBEAT_RELATION,
    IN_STREAM,
    KEEPALIVE,
    POSITION,
    RELATION,
    RELATION_IN_STREAM,
    ROW,
    TEXT,
    TIMESTAMPTZ,
    TOASTED,
    UPDATED_WITH_TOASTED_BODY,
    inserted,
    key,
    relation,
    removed,
    updated,
    values,
)

YEAR_2000 = 946684800000


def decoder(*told: bytes) -> Decoder:
    """One that is within a transaction and knows the table, or was told otherwise."""
    decoder = Decoder()
    for message in told or (BEGIN, RELATION):
        assert decoder.decode(message) is None
    return decoder


def decode(message: bytes) -> Change:
    change = decoder().decode(message)
    assert change is not None
    return change


# Changes


def test_an_insert_is_a_whole_change() -> None:
    assert decode(CREATED) == Change(
        1,
        "alice",
        1,
        inserted_tx=732,
        tx=732,
        json='"id":1,"version":1,"recipientId":"alice","type":"COMMENT","title":"New comment",'
        '"body":"Bob: \\"hi\\" ünïcödé","data":{"postId": "p-100"},"actorId":"user-123","channel":"IN_APP",'
        '"createdAt":1795338840791,"expiresAt":null,"readAt":null}',
        committed_at=COMMITTED_AT,
    )


def test_messages_are_made_after_the_captured_pattern() -> None:
    assert relation(COLUMNS) == RELATION
    assert inserted() == CREATED
    assert removed(key(id=1, recipient_id="alice")) == DELETED_ROW


def test_an_update_carries_the_newer_version_and_whether_it_is_read() -> None:
    change = decode(updated(version=2, changed_tx=760, read_at=1_000_500))

    assert (change.version, change.inserted_tx, change.tx, change.read) == (2, 732, 760, True)
    assert json.loads(with_event("updated", change))["readAt"] == YEAR_2000 + 1000


def test_an_update_is_the_same_whatever_is_told_of_the_old_row() -> None:
    expected = decode(updated(version=2))

    for old in (key(id=1, recipient_id="alice"), key(b"O", **ROW)):
        assert decode(updated(old, version=2)) == expected


def test_a_deletion_has_the_key_and_the_transaction_of_the_commit() -> None:
    expected = Change(1, "alice", DELETED, inserted_tx=0, tx=732, committed_at=COMMITTED_AT)

    assert decode(DELETED_ROW) == expected
    assert decode(removed(key(b"O", **ROW))) == expected


def test_an_update_that_leaves_a_toasted_body_alone_is_incomplete() -> None:
    change = decode(UPDATED_WITH_TOASTED_BODY)

    assert change == Change(2, "bob", 2, inserted_tx=735, tx=736, read=True, committed_at=COMMITTED_AT)
    assert change.incomplete


@pytest.mark.parametrize("column", ["title", "type", "body", "data", "actor_id", "channel"])
def test_a_row_that_lacks_any_column_is_incomplete(column: str) -> None:
    change = decode(updated(**{column: TOASTED}))

    assert change.incomplete
    assert not change.hidden


def test_a_row_for_another_channel_is_hidden() -> None:
    for change in (decode(inserted(channel="EMAIL")), decode(updated(channel="EMAIL", body=TOASTED))):
        assert change.hidden
        assert change.json is None
        assert not change.incomplete


def test_a_toasted_recipient_is_taken_from_the_old_key() -> None:
    change = decode(updated(key(id=1, recipient_id="alice"), recipient_id=TOASTED))

    assert change == decode(updated())


def test_what_the_old_key_does_not_hold_is_not_taken_from_it() -> None:
    change = decode(updated(key(id=1, recipient_id="alice"), body=TOASTED))

    assert change.incomplete


def test_a_toasted_body_is_taken_from_a_whole_old_row() -> None:
    whole = decoder(BEGIN, relation(COLUMNS, keys=tuple(COLUMNS)))

    assert whole.decode(updated(key(b"O", **ROW), body=TOASTED)) == decode(updated())


def test_columns_are_found_by_name_and_others_left_out() -> None:
    # given
    order = [*reversed(COLUMNS), "dedup_key"]
    shuffled = decoder(BEGIN, relation({name: COLUMNS.get(name, TEXT) for name in order}))
    row = values(*(ROW.get(name, "once") for name in order))
    # when
    change = shuffled.decode(b"I" + struct.pack("!I", 16393) + b"N" + row)
    # then
    assert change == decode(CREATED)


def test_a_table_that_changed_is_described_again() -> None:
    told = decoder()
    fewer = {name: type for name, type in COLUMNS.items() if name != "title"}

    told.decode(relation(fewer))
    with pytest.raises(UndecodableRecord, match="lacks the column `title`"):
        told.decode(CREATED)
    told.decode(RELATION)

    assert told.decode(CREATED) == decode(CREATED)


@pytest.mark.parametrize(
    ("microseconds", "milliseconds"),
    [
        (0, YEAR_2000),
        (999, YEAR_2000),
        (-1, YEAR_2000 - 1),
        (-946_684_800_000_000, 0),
        (1795338840791999 - YEAR_2000 * 1000, 1795338840791),
        ((253_402_300_799_999 - YEAR_2000) * 1000 + 999, 253_402_300_799_999),
    ],
)
def test_times_are_rounded_down_to_milliseconds(microseconds: int, milliseconds: int) -> None:
    change = decode(inserted(created_at=microseconds, expires_at=microseconds))
    shown = json.loads(with_event("created", change))

    assert (shown["createdAt"], shown["expiresAt"]) == (milliseconds, milliseconds)


@given(st.text(min_size=1), st.text(), st.dictionaries(st.text(), st.integers() | st.text() | st.none()))
def test_texts_and_data_come_out_as_they_went_in(title: str, body: str, data: dict[str, Any]) -> None:
    change = decode(inserted(title=title, body=body, data=b"\x01" + json.dumps(data).encode()))
    shown = json.loads(with_event("created", change))

    assert (shown["title"], shown["body"], shown["data"]) == (title, body, data)


def test_data_that_is_nested_deeply_is_taken_as_postgresql_printed_it() -> None:
    data = '{"a": ' + "[" * 12_000 + "]" * 12_000 + "}"

    change = decode(inserted(data=b"\x01" + data.encode()))

    assert f'"data":{data},' in (change.json or "")


# Who is wanted


def nobody() -> float:
    return REGISTRY.get_sample_value("rowbell_dispatched_total", {"outcome": "nobody"}) or 0.0


UNCHANGED_KEY = key(id=1, recipient_id="alice")


@pytest.mark.parametrize(
    "message",
    [
        CREATED,
        updated(version=2),
        updated(UNCHANGED_KEY, version=2),
        updated(UNCHANGED_KEY, recipient_id=TOASTED),
        updated(body=TOASTED),
        DELETED_ROW,
        removed(key(b"O", **ROW)),
    ],
)
def test_a_row_is_skipped_if_its_recipient_is_not_wanted_and_else_is_the_same(message: bytes) -> None:
    asked = []
    none, one = Decoder(lambda recipient: asked.append(recipient)), Decoder(lambda recipient: recipient == "alice")
    for told in (none, one):
        told.decode(BEGIN)
        told.decode(RELATION)

    counted = nobody()
    assert none.decode(message) is None
    assert asked == ["alice"]
    assert one.decode(message) == decode(message)
    assert (none.skipped, one.skipped) == (1, 0)
    assert nobody() == counted  # it only keeps the number


def test_a_row_that_does_not_say_at_once_whom_it_is_for_is_not_skipped() -> None:
    told = Decoder(lambda recipient: False)
    told.decode(BEGIN)
    told.decode(RELATION)

    with pytest.raises(UndecodableRecord, match="is the replica identity"):
        told.decode(removed(key(id=1)))


def test_who_is_wanted_is_asked_wherever_the_recipient_stands() -> None:
    order = {name: COLUMNS[name] for name in reversed(COLUMNS)}
    row = b"I" + struct.pack("!I", 16393) + b"N" + values(*(ROW[name] for name in order))
    for wanted in (True, False):
        told = Decoder(lambda recipient, wanted=wanted: wanted and recipient == "alice")
        told.decode(BEGIN)
        told.decode(relation(order))

        assert (told.decode(row) is not None) == wanted


# What tells of no change


@pytest.mark.parametrize("message", [b"T\x00", b"Oorigin", b"Ytype", b"M\x00", COMMIT, HEARTBEAT_RELATION])
def test_what_tells_of_no_change_is_skipped(message: bytes) -> None:
    assert decoder().decode(message) is None


def test_rows_of_other_tables_are_skipped() -> None:
    assert decoder(BEGIN, HEARTBEAT_RELATION).decode(HEARTBEAT) is None


# What cannot be decoded


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "not a message of pgoutput"),
        (b"x", "unknown type 'x'"),
        (inserted(id=None), "`id` is null"),
        (inserted(id=0), "`id` is 0"),
        (inserted(id=2**53), "`id` is 9007199254740992"),
        (inserted(id=b"1234"), "`id` is not a bigint"),
        (inserted(version=0), "`version` is 0"),
        (inserted(version=DELETED), "`version` is"),
        (inserted(changed_tx=-1), "`changed_tx` is negative"),
        (inserted(recipient_id=""), "`recipient_id` is empty"),
        (inserted(recipient_id=None), "`recipient_id` is null"),
        (inserted(title=b"\xff"), "`title` is not a text"),
        (inserted(created_at=None), "`created_at` is null"),
        (inserted(created_at=2**63 - 1), "`created_at` is not a timestamptz: it is not in the years 1 to 9999"),
        (inserted(read_at=-(2**63)), "`read_at` is not a timestamptz"),
        (inserted(read_at=b"1234"), "`read_at` is not a timestamptz"),
        (inserted(data=None), "`data` is null"),
        (inserted(data=b"\x02{}"), "`data` is not a jsonb: it has version 2"),
        (inserted(data=b""), "`data` is not a jsonb"),
        (updated(recipient_id=TOASTED), "`recipient_id` is not in the stream"),
        (updated(body=TOASTED, version=None), "`version` is null"),
        (updated(body=TOASTED, version=0), "`version` is 0"),
        (CREATED + b"x", "where its parts end at"),
        (CREATED.replace(b"b\x00\x00\x00\x05alice", b"t\x00\x00\x00\x05alice"), "of the kind 't'"),
        (CREATED.replace(b"N\x00\x0e", b"N\x00\x0d"), "13 values, where the table has 14 columns"),
        (CREATED.replace(b"\x00\x00@\t", b"\x00\x00@\x08"), "relation 16392, which was not described"),
        (CREATED.replace(b"N\x00\x0e", b"K\x00\x0e"), "a row without its new values"),
        (removed(b""), "not a message of pgoutput"),
        (removed(key(id=1)), "is the replica identity"),
        (removed(key(recipient_id="alice")), "is the replica identity"),
        (removed(key(id=0, recipient_id="alice")), "`id` is 0"),
        (removed(b"N" + values(*ROW.values())), "where its parts end at"),
    ],
)
def test_what_cannot_be_decoded_says_why(message: bytes, reason: str) -> None:
    told = decoder()

    with pytest.raises(UndecodableRecord, match=reason):
        told.decode(message)

    assert told.decode(CREATED) == decode(CREATED)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_that_is_missing_is_named(name: str) -> None:
    fewer = {column: type for column, type in COLUMNS.items() if column != name}

    with pytest.raises(UndecodableRecord, match=f"lacks the column `{name}`"):
        decoder(BEGIN, relation(fewer)).decode(CREATED)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_another_type_is_named(name: str) -> None:
    other = TIMESTAMPTZ if COLUMNS[name] == BIGINT else BIGINT

    with pytest.raises(UndecodableRecord, match=f"`{name}` of notification has the type with OID {other}"):
        decoder(BEGIN, relation(COLUMNS | {name: other})).decode(CREATED)


def test_a_row_outside_of_a_transaction_has_no_time() -> None:
    told = decoder(BEGIN, RELATION, COMMIT)

    with pytest.raises(UndecodableRecord, match="outside of a transaction"):
        told.decode(CREATED)


def test_every_column_of_a_notification_is_needed() -> None:
    assert NEEDED == COLUMNS


MESSAGES = [RELATION, BEGIN, CREATED, UPDATED_WITH_TOASTED_BODY, DELETED_ROW, COMMIT, HEARTBEAT_RELATION, HEARTBEAT]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_cut_short_is_undecodable_or_tells_nothing(message: bytes) -> None:
    for end in range(len(message)):
        try:
            assert decoder().decode(message[:end]) is None
        except UndecodableRecord:
            pass


@given(st.binary(max_size=200))
def test_garbage_is_undecodable_or_tells_nothing(message: bytes) -> None:
    try:
        assert decoder().decode(message) is None
    except UndecodableRecord:
        pass


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_message_raises_nothing_else(message: bytes, data: st.DataObject) -> None:
    told, damaged = Decoder(data.draw(st.sampled_from([None, bool]))), bytearray(message)
    for first in (BEGIN, RELATION):
        told.decode(first)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    for following in (bytes(damaged), CREATED, DELETED_ROW):
        try:
            told.decode(following)
        except UndecodableRecord:
            pass


# The copy stream


def test_the_stream_gives_the_changes_of_its_messages() -> None:
    stream = CopyStream()
    header = IN_STREAM[: -len(COMMIT)]

    for message in (header + BEGIN, RELATION_IN_STREAM):
        assert stream.receive(message) is None

    assert stream.receive(header + CREATED) == decode(CREATED)
    assert payload(header + CREATED) == CREATED


def test_what_was_received_is_confirmed() -> None:
    stream = CopyStream()

    stream.receive(IN_STREAM)
    stream.receive(RELATION_IN_STREAM)

    assert (stream.position, stream.received) == (POSITION, POSITION)
    assert stream.status(YEAR_2000 / 1000 + 1) == b"r" + struct.pack(
        "!QQQqB", POSITION, POSITION, POSITION, 1_000_000, 0
    )
    assert stream.confirmed == POSITION


def test_a_keep_alive_moves_what_is_confirmed_and_never_back() -> None:
    stream = CopyStream()

    stream.receive(KEEPALIVE)
    stream.receive(IN_STREAM)

    assert stream.received == END
    assert not stream.reply_wanted


def test_the_server_is_answered_when_it_asks_and_asked_when_wanted() -> None:
    stream = CopyStream()

    stream.receive(KEEPALIVE[:-1] + b"\x01")
    assert stream.reply_wanted
    status = stream.status(0, ask=True)

    assert not stream.reply_wanted
    assert status[-1] == 1
    assert stream.answer_wanted
    stream.receive(KEEPALIVE)
    assert not stream.answer_wanted


def test_the_lag_is_from_the_commit_to_when_the_server_sent_the_last_of_it() -> None:
    stream = CopyStream()
    committed = COMMITTED_AT - YEAR_2000 * 1000

    def sent(message: bytes, at: int) -> float:
        stream.receive(b"w" + struct.pack("!QQq", POSITION, POSITION, at) + message)
        return stream.lag

    assert (stream.lag, stream.in_transaction) == (0, False)
    assert sent(BEGIN, committed + 1_000) == 0.001
    assert sent(RELATION, committed + 200_000) == 0.2
    assert stream.in_transaction
    assert sent(CREATED, committed + 1_500_000) == 1.5
    stream.receive(KEEPALIVE)  # which was sent at another time
    assert stream.lag == 1.5
    assert sent(COMMIT, committed + 2_000_000) == 2
    assert not stream.in_transaction
    assert sent(BEGIN, committed - 1) == 0  # the server's clock was set back


@given(st.binary(max_size=60))
def test_garbage_in_the_stream_is_undecodable_or_tells_nothing(message: bytes) -> None:
    try:
        assert CopyStream().receive(message) is None
    except UndecodableRecord:
        pass


def test_a_position_is_printed_as_postgresql_does() -> None:
    assert lsn(0x16B374D848) == "16/B374D848"
