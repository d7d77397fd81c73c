"""The JSON a client sees, to the byte."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell.notification import DELETED, Change, Notification, change_of, render, with_event

ROW = Notification(
    id=42,
    recipient_id="alice",
    version=1,
    type="COMMENT",
    title="New comment",
    body="Bob wrote: nice",
    data='{"postId": "p-100"}',
    actor_id="user-123",
    channel="IN_APP",
    created_at=1795338840791,
    expires_at=None,
    read_at=None,
    inserted_tx=700,
    changed_tx=700,
)

ROW_AS_SHOWN = (
    '"id":42,"version":1,"recipientId":"alice","type":"COMMENT","title":"New comment","body":"Bob wrote: nice",'
    '"data":{"postId": "p-100"},"actorId":"user-123","channel":"IN_APP","createdAt":1795338840791,'
    '"expiresAt":null,"readAt":null}'
)


def row(**changes: object) -> Notification:
    return msgspec.structs.replace(ROW, **changes)


def test_a_row_is_rendered_to_the_byte() -> None:
    assert render(ROW) == ROW_AS_SHOWN


@pytest.mark.parametrize("event", ["created", "updated"])
def test_the_event_stands_in_front_of_what_all_subscriptions_share(event: str) -> None:
    assert with_event(event, change_of(ROW)) == f'{{"event":"{event}",' + ROW_AS_SHOWN


@pytest.mark.parametrize(
    "data",
    [
        pytest.param('{"b": 1, "a": 2}', id="the order of keys and the spaces"),
        pytest.param('{"n": 1.50, "big": 12345678901234567890123}', id="numbers that floats do not hold"),
        pytest.param('{"text": "\\u2028 \\\\ \\" é"}', id="escapes and letters"),
        pytest.param("{}", id="nothing"),
    ],
)
def test_data_is_embedded_as_it_came(data: str) -> None:
    assert f'"data":{data},"actorId"' in render(row(data=data))


texts = st.text(st.characters(exclude_categories=["Cs"]))
times = st.none() | st.integers(0, 253402300799999)


@given(title=texts, body=st.none() | texts, actor=st.none() | texts, expires_at=times, read_at=times)
def test_whatever_the_columns_hold_the_client_reads_back(
    title: str, body: str | None, actor: str | None, expires_at: int | None, read_at: int | None
) -> None:
    # given
    change = change_of(row(title=title, body=body, actor_id=actor, expires_at=expires_at, read_at=read_at))

    # when
    shown = json.loads(with_event("created", change))

    # then
    assert (shown["title"], shown["body"], shown["actorId"]) == (title, body, actor)
    assert (shown["expiresAt"], shown["readAt"]) == (expires_at, read_at)


def test_letters_outside_ascii_go_out_as_themselves() -> None:
    assert '"title":"Grüße 👋 שלום"' in render(row(title="Grüße 👋 שלום"))


def test_line_ends_in_a_text_are_escaped_so_one_object_is_one_line() -> None:
    assert '"body":"one\\ntwo\\r\\n\\tthree"' in render(row(body="one\ntwo\r\n\tthree"))


def test_a_deletion_has_the_id_and_the_recipient_only() -> None:
    deletion = Change(42, 'al"ice', DELETED, 700, 800)

    assert with_event("deleted", deletion) == '{"event":"deleted","id":42,"recipientId":"al\\"ice"}'


def test_a_change_carries_what_ledgers_decide_by() -> None:
    change = change_of(row(version=3, inserted_tx=700, changed_tx=800), committed_at=1795338840791291)

    assert change == Change(42, "alice", 3, 700, 800, change.json, False, False, 1795338840791291)
    assert not change.deleted
    assert not change.incomplete


def test_a_read_row_says_so() -> None:
    assert change_of(row(read_at=0)).read
    assert not change_of(row(read_at=None)).read


def test_a_row_of_another_channel_is_hidden_and_not_rendered() -> None:
    change = change_of(row(channel="EMAIL"))

    assert change.hidden
    assert change.json is None
    assert not change.incomplete


def test_a_row_that_replication_could_not_give_whole_is_incomplete() -> None:
    change = Change(42, "alice", 2, 700, 800, json=None)

    assert change.incomplete


def test_a_deletion_is_newer_than_every_version_and_needs_no_row() -> None:
    deletion = Change(42, "alice", DELETED, 700, 800)

    assert deletion.deleted
    assert not deletion.incomplete
    assert deletion.version >= 2**63 - 1  # the largest of a bigint column


def test_a_change_survives_the_bus() -> None:
    for change in (change_of(ROW, 5), change_of(row(channel="EMAIL")), Change(42, "alice", DELETED, 700, 800)):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(change), type=Change) == change
