"""BEGIN, COMMIT and ABORT: what waits for COMMIT, what becomes of it, and how much may wait."""

from __future__ import annotations

import pytest

from rowbell.stomp.errors import LocalProtocolError
from rowbell.stomp.headers import VERSIONS
from rowbell.stomp.server import (
    Abort,
    Ack,
    Begin,
    Commit,
    Connection,
    Disconnect,
    Event,
    Invalid,
    Nack,
    Send,
    Subscribe,
    Unsubscribe,
)
from rowbell.stomp.transaction import HELD_FRAMES_LIMIT, HELD_OCTETS_LIMIT, OPEN_LIMIT

BEGIN = "BEGIN\ntransaction:t\n\n\0"
COMMIT = "COMMIT\ntransaction:t\n\n\0"
ABORT = "ABORT\ntransaction:t\n\n\0"
SEND = "SEND\ndestination:/app/x\ntransaction:t\n\n\0"


# ---- What becomes of what is held ----


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_transaction_holds_happens_at_commit_in_its_order(version):
    """COMMIT's own receipt comes last: it says that all of it stands. Those of the frames are due with their effects,
    not before."""
    connection = connect(version, client="client-individual")
    first, second = messages(connection, "client", 2)

    held = receive(
        connection,
        "BEGIN\ntransaction:t\nreceipt:0\n\n\0"
        + ack(second, version, headers="transaction:t\nreceipt:1\n")
        + "SEND\ndestination:/app/x\ntransaction:t\nreceipt:2\n\nbody\0"
        + ack(first, version, command="NACK", headers="transaction:t\n"),
    )
    waiting = list(connection.unacknowledged("client"))
    committed = receive(connection, "COMMIT\ntransaction:t\nreceipt:3\n\n\0")

    assert held == [Begin("0")]
    assert waiting == ["client 1", "client 2"]
    headers = {"destination": "/app/x", "transaction": "t", "receipt": "2"}
    assert committed == [
        Ack(["client 2"], "1"),
        Send("/app/x", headers, b"body", "2"),
        Nack(["client 1"], None),
        Commit("3"),
    ]
    assert not connection.unacknowledged("client")


def test_what_is_outside_of_it_happens_meanwhile():
    connection = connect()

    events = receive(
        connection,
        BEGIN + "BEGIN\ntransaction:u\n\n\0" + SEND + "SEND\ndestination:/app/now\n\n\0"
        "SEND\ndestination:/app/u\ntransaction:u\n\n\0COMMIT\ntransaction:u\n\n\0" + COMMIT,
    )

    assert summary(events) == [Begin, Begin, "/app/now", "/app/u", Commit, "/app/x", Commit]


def test_an_empty_transaction_is_one():
    assert receive(connect(), BEGIN + COMMIT + BEGIN + ABORT) == [Begin(None), Commit(None), Begin(None), Abort(None)]


def test_abort_forgets_what_is_held():
    """What was acknowledged in it still waits; its receipts would say that something has happened, so none is due."""
    connection = connect(client="client")
    (sent,) = messages(connection, "client", 1)

    events = receive(
        connection,
        BEGIN + SEND + ack(sent, headers="transaction:t\nreceipt:1\n") + "ABORT\ntransaction:t\nreceipt:2\n\n\0",
    )

    assert events == [Begin(None), Abort("2")]
    assert list(connection.unacknowledged("client")) == ["client 1"]
    assert receive(connection, ack(sent)) == [Ack(["client 1"], None)]


def test_an_id_can_be_begun_again_after_its_end_and_holds_nothing_of_before():
    connection = connect()

    assert summary(receive(connection, (BEGIN + SEND + ABORT) * 2)) == [Begin, Abort] * 2
    assert summary(receive(connection, (BEGIN + SEND + COMMIT) * 2)) == [Begin, "/app/x", Commit] * 2


def test_disconnect_aborts_what_is_open():
    """They are "implicitly aborted if the client sends a DISCONNECT frame"."""
    connection = connect(client="client")
    (sent,) = messages(connection, "client", 1)

    events = receive(
        connection, BEGIN + SEND + ack(sent, headers="transaction:t\n") + "DISCONNECT\nreceipt:bye\n\n\0" + COMMIT
    )

    assert events == [Begin(None), Disconnect("bye")]
    assert connection.receipt("bye")


def test_an_error_aborts_what_is_open():
    connection = connect()

    events = receive(connection, BEGIN + SEND + "NONSENSE\n\n\0" + COMMIT)

    assert summary(events) == [Begin, "The command is unknown"]


def test_nothing_that_came_after_commit_overtakes_what_was_held():
    """It may have come in the same message. The application may take its time, and answer, between the events."""
    connection = connect(client="client")
    connection.receive_data(
        BEGIN + SEND + "COMMIT\ntransaction:t\nreceipt:1\n\n\0" + "SEND\ndestination:/app/after\n\n\0"
    )
    assert connection.next_event() == Begin(None)

    held = connection.next_event()
    connection.receive_data("UNSUBSCRIBE\nid:client\n\n\0")
    assert connection.message("client", "", "{}", "token").startswith("MESSAGE\n")
    assert connection.receipt("0").startswith("RECEIPT\n")

    assert isinstance(held, Send)
    assert connection.next_event() == Commit("1")
    assert connection.receipt("1").startswith("RECEIPT\n")
    after = connection.next_event()
    assert isinstance(after, Send)
    assert after.destination == "/app/after"
    assert connection.next_event() == Unsubscribe("client", None)
    assert connection.next_event() is None


def test_an_error_of_the_applications_ends_a_commit():
    """A destination that does not exist is found at COMMIT. ERROR is the last frame, so nothing else of it happens."""
    connection = connect()
    connection.receive_data(BEGIN + SEND + SEND + COMMIT)
    assert isinstance(connection.next_event(), Begin)
    assert isinstance(connection.next_event(), Send)

    connection.error("there is no destination")

    assert connection.next_event() is None
    with pytest.raises(LocalProtocolError):
        connection.receipt("1")


# ---- Which messages are acknowledged ----


def test_a_cumulative_ack_is_of_what_was_sent_before_its_message_not_before_commit():
    """It "operates on the message specified in the ACK frame and all messages sent to the subscription before"."""
    connection = connect(client="client")
    _, second, _ = messages(connection, "client", 3)

    receive(connection, BEGIN + ack(second, headers="transaction:t\n"))
    (fourth,) = messages(connection, "client", 1)

    assert receive(connection, COMMIT) == [Ack(["client 1", "client 2"], None), Commit(None)]
    assert receive(connection, ack(fourth)) == [Ack(["client 3", "client 4"], None)]


def test_what_was_acknowledged_meanwhile_is_not_acknowledged_again():
    connection = connect(client="client")
    first, second, third = messages(connection, "client", 3)

    events = receive(
        connection,
        BEGIN
        + ack(third, headers="transaction:t\n", command="NACK")
        + ack(second, headers="transaction:t\n")
        + ack(first)
        + COMMIT,
    )

    assert events[1:] == [
        Ack(["client 1"], None),
        Nack(["client 2", "client 3"], None),
        Ack([], None),
        Commit(None),
    ]


def test_of_two_transactions_that_acknowledge_one_message_the_first_to_commit_does():
    connection = connect(client="client-individual")
    (sent,) = messages(connection, "client", 1)

    events = receive(
        connection,
        BEGIN
        + "BEGIN\ntransaction:u\n\n\0"
        + ack(sent, headers="transaction:t\n")
        + ack(sent, headers="transaction:u\n", command="NACK")
        + "COMMIT\ntransaction:u\n\n\0"
        + COMMIT,
    )

    assert events[2:] == [Nack(["client 1"], None), Commit(None), Ack([], None), Commit(None)]


def test_what_a_subscription_waited_for_is_forgotten_with_it_even_if_its_id_comes_again():
    connection = connect(client="client")
    (sent,) = messages(connection, "client", 1)

    receive(connection, BEGIN + ack(sent, headers="transaction:t\n") + "UNSUBSCRIBE\nid:client\n\n\0")
    receive(connection, "SUBSCRIBE\nid:client\ndestination:/d\nack:client\n\n\0")
    messages(connection, "client", 1)

    assert receive(connection, COMMIT) == [Ack([], None), Commit(None)]
    assert len(connection.unacknowledged("client")) == 1


def test_acknowledgements_that_nothing_wants_are_ignored_in_a_transaction_too():
    """stompjs 5 to 7.1 send `id:undefined` for a message of an auto subscription. Whether anything wants one is seen
    when it comes: a subscription that begins later must not turn COMMIT into an ERROR."""
    connection = connect()

    events = receive(
        connection,
        BEGIN
        + "ACK\nid:undefined\ntransaction:t\n\n\0"
        + "SUBSCRIBE\nid:client\ndestination:/d\nack:client\n\n\0"
        + COMMIT,
    )

    assert [type(event) for event in events] == [Begin, Subscribe, Ack, Commit]
    assert events[2] == Ack([], None)


def test_subscribing_is_in_no_transaction():
    """SEND, ACK and NACK are: on other frames the header means nothing."""
    connection = connect()

    events = receive(
        connection,
        "SUBSCRIBE\nid:s\ndestination:/d\ntransaction:t\n\n\0UNSUBSCRIBE\nid:s\ntransaction:t\n\n\0"
        "DISCONNECT\ntransaction:t\n\n\0",
    )

    assert [type(event) for event in events] == [Subscribe, Unsubscribe, Disconnect]


# ---- What is refused ----


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ("BEGIN\nreceipt:7\n\n\0", "BEGIN needs the header transaction"),
        ("BEGIN\ntransaction:\nreceipt:7\n\n\0", "BEGIN needs the header transaction"),
        ("COMMIT\nreceipt:7\n\n\0", "COMMIT needs the header transaction"),
        ("ABORT\nreceipt:7\n\n\0", "ABORT needs the header transaction"),
        (BEGIN + "BEGIN\ntransaction:t\nreceipt:7\n\n\0", "The transaction is already open"),
        ("COMMIT\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        ("ABORT\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        (BEGIN + COMMIT + "COMMIT\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        (BEGIN + COMMIT + "ABORT\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        (BEGIN + "COMMIT\ntransaction:T\nreceipt:7\n\n\0", "The transaction is not open"),
        ("SEND\ndestination:/app/x\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        ("SEND\ndestination:/app/x\ntransaction:\nreceipt:7\n\n\0", "The transaction is not open"),
        ("ACK\nid:undefined\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        ("NACK\nid:undefined\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        (BEGIN + ABORT + "SEND\ndestination:/app/x\ntransaction:t\nreceipt:7\n\n\0", "The transaction is not open"),
        (BEGIN + "SEND\ntransaction:t\nreceipt:7\n\n\0", "SEND needs the header destination"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_frame_that_cannot_be_part_of_a_transaction_is_an_error(version, frames, message):
    """To obey a frame at once that was to wait for COMMIT, or to forget one, would be a lie that nobody notices."""
    event = receive(connect(version), frames)[-1]

    assert isinstance(event, Invalid)
    assert (event.message, event.receipt) == (message, "7")


def test_a_held_acknowledgement_is_checked_when_it_comes():
    """So that the ERROR names its receipt, and nothing of the transaction has been done."""
    connection = connect(client="client")
    (sent,) = messages(connection, "client", 1)

    events = receive(
        connection, BEGIN + ack(sent, headers="transaction:t\n") + "ACK\nid:undefined\ntransaction:t\nreceipt:7\n\n\0"
    )

    assert isinstance(events[-1], Invalid)
    assert (len(events), events[-1].message, events[-1].receipt) == (2, "The message to acknowledge is unknown", "7")


def test_ids_are_compared_as_the_version_reads_them():
    modern, old = connect("1.2"), connect("1.0")

    assert summary(receive(modern, "BEGIN\ntransaction:a:b\n\n\0COMMIT\ntransaction:a\\cb\n\n\0")) == [Begin, Commit]
    assert isinstance(receive(old, "BEGIN\ntransaction:a:b\n\n\0COMMIT\ntransaction:a\\cb\n\n\0")[-1], Invalid)


# ---- How much may wait ----


def test_so_many_transactions_may_be_open():
    begin = [f"BEGIN\ntransaction:{number}\n\n\0" for number in range(OPEN_LIMIT + 1)]
    connection = connect()
    assert summary(receive(connection, "".join(begin[:-1]))) == [Begin] * OPEN_LIMIT

    assert summary(receive(connection, "COMMIT\ntransaction:0\n\n\0" + begin[-1])) == [Commit, Begin]
    assert summary(receive(connection, begin[0])) == [f"More than {OPEN_LIMIT} transactions are open"]


def test_so_many_frames_may_be_held_in_all_transactions_together():
    connection = connect()
    receive(connection, BEGIN + "BEGIN\ntransaction:u\n\n\0" + SEND * 10)
    other = SEND.replace("transaction:t", "transaction:u")
    assert receive(connection, other * (HELD_FRAMES_LIMIT - 10)) == []

    assert len(receive(connection, COMMIT)) == 10 + 1
    assert receive(connection, BEGIN + SEND * 10) == [Begin(None)]
    assert summary(receive(connection, other)) == [f"Open transactions hold more than {HELD_FRAMES_LIMIT} frames"]


@pytest.mark.parametrize("end", [COMMIT, ABORT])
def test_so_many_octets_may_be_held_and_there_is_room_again_after_the_end(end):
    head = "SEND\ndestination:/app/x\ntransaction:t\n\n"
    eighth = head + "x" * (HELD_OCTETS_LIMIT // 8 - len(head)) + "\0"
    connection = connect()

    for _ in range(2):
        assert summary(receive(connection, BEGIN + eighth * 8)) == [Begin]
        assert receive(connection, end)

    receive(connection, BEGIN + eighth * 8)
    assert summary(receive(connection, SEND)) == [f"Open transactions hold more than {HELD_OCTETS_LIMIT} octets"]


# ---- How these tests talk to a connection ----


def connect(version: str = "1.2", **modes: str) -> Connection:
    """A connection with subscriptions: id=mode."""
    connection = Connection("session-1")
    receive(connection, f"CONNECT\naccept-version:{version}\n\n\0")
    connection.connected("alice")
    for id, mode in modes.items():
        receive(connection, f"SUBSCRIBE\nid:{id}\ndestination:/d\nack:{mode}\n\n\0")
    return connection


def receive(connection: Connection, data: str) -> list[Event]:
    connection.receive_data(data)
    return list(iter(connection.next_event, None))


def messages(connection: Connection, subscription: str, count: int) -> list[str]:
    """Send messages, whose tokens are numbered on; the ids to acknowledge them by."""
    sent = []
    for _ in range(count):
        token = f"{subscription} {connection._number + 1}"
        frame = connection.message(subscription, "", "{}", token)
        sent.append(frame.partition("message-id:")[2].partition("\n")[0])
    return sent


def ack(id: str, version: str = "1.2", *, command: str = "ACK", headers: str = "") -> str:
    return f"{command}\n{'id' if version == '1.2' else 'message-id'}:{id}\n{headers}\n\0"


def summary(events: list[Event]) -> list[object]:
    """Of a SEND where to, of an error what, of other events only which."""
    short: list[object] = []
    for event in events:
        match event:
            case Send():
                short.append(event.destination)
            case Invalid():
                short.append(event.message)
            case _:
                short.append(type(event))
    return short
