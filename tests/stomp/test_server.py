"""What the server does with what clients do: each rule, and why it is one."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell.stomp.errors import LocalProtocolError
from rowbell.stomp.frames import Parser
from rowbell.stomp.headers import VERSIONS
from rowbell.stomp.limits import Limits
from rowbell.stomp.server import (
    HEART_BEAT,
    Abort,
    Ack,
    Begin,
    Commit,
    Connect,
    Connection,
    Disconnect,
    Event,
    Invalid,
    Nack,
    Send,
    Subscribe,
    Unsubscribe,
)

SUBSCRIBE = "SUBSCRIBE\nid:s\ndestination:/d\n\n\0"
SUBSCRIBE_CLIENT = "SUBSCRIBE\nid:s\ndestination:/d\nack:client\n\n\0"
SUBSCRIBE_INDIVIDUAL = "SUBSCRIBE\nid:s\ndestination:/d\nack:client-individual\n\n\0"


# ---- Connecting ----


@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_a_client_connects_with_either_command(command):
    """STOMP is CONNECT under a name that cannot be taken for HTTP's."""
    connection = Connection("session-1")

    events = receive(connection, f"{command}\naccept-version:1.2\nhost:anything\nlogin:a\npasscode:b\n\n\0")

    assert events == [
        Connect({"accept-version": "1.2", "host": "anything", "login": "a", "passcode": "b"}),
    ]
    assert connection.connected("alice") == (
        "CONNECTED\nversion:1.2\nheart-beat:10000,10000\nserver:rowbell\nsession:session-1\nuser-name:alice\n\n\0"
    )


def test_connected_has_a_heart_beat_header_on_every_version():
    """Two old clients crash without it. 1.0 knows no beats, so there it promises none."""
    assert "\nheart-beat:0,0\n" in connect("1.0")[1]
    assert "\nheart-beat:10000,10000\n" in connect("1.1")[1]


def test_beats_are_agreed_on_except_on_1_0():
    modern, _ = connect("1.2", "heart-beat:5000,20000\n")
    old, _ = connect("1.0", "heart-beat:5000,20000\n")
    silent, _ = connect("1.2")

    assert (modern.send_interval, modern.receive_timeout) == (16.0, 25.0)
    assert (old.send_interval, old.receive_timeout) == (None, None)
    assert (silent.send_interval, silent.receive_timeout) == (None, None)
    assert HEART_BEAT == "\n"


def test_a_malformed_heart_beat_is_an_error_and_no_crash():
    event = only_event(Connection("s"), "CONNECT\naccept-version:1.2\nheart-beat:soon,0\n\n\0")

    assert isinstance(event, Invalid)
    assert event.message == "The heart-beat header is malformed"


def test_a_client_of_another_version_is_told_which_ones_there_are():
    connection = Connection("s")

    event = only_event(connection, "CONNECT\naccept-version:3.0\n\n\0")

    assert isinstance(event, Invalid)
    assert headers_of(answer(connection, event))["version"] == "1.2,1.1,1.0"


def test_the_version_is_the_one_of_the_subprotocol():
    connection = Connection("s", subprotocol="v11.stomp")
    receive(connection, "CONNECT\naccept-version:1.0,1.1,1.2\n\n\0")

    assert "\nversion:1.1\n" in connection.connected("alice")
    assert connection.version == "1.1"


def test_nothing_is_unescaped_before_the_version_is_known():
    """Backslashes in CONNECT are literal, in passwords for example."""
    event = only_event(Connection("s"), "CONNECT\naccept-version:1.2\npasscode:a\\nb\\t\n\n\0")

    assert isinstance(event, Connect)
    assert event.headers["passcode"] == "a\\nb\\t"


def test_a_frame_that_came_along_with_connect_is_read_after_it():
    """Clients write CONNECT and SUBSCRIBE in one go. What the second means depends on the version of the first, and
    on whether the application lets the client in."""
    connection = Connection("s")
    connection.receive_data("CONNECT\naccept-version:1.2\n\n\0SUBSCRIBE\nid:a\\cb\ndestination:/d\n\n\0")

    first, second = connection.next_event(), connection.next_event()
    assert isinstance(first, Connect)
    assert second is None

    connection.connected("alice")
    assert connection.next_event() == Subscribe("a:b", "/d", "auto", {"id": "a:b", "destination": "/d"}, None)
    assert connection.next_event() is None


@pytest.mark.parametrize("command", ["SUBSCRIBE", "SEND", "ACK", "DISCONNECT", "CONNECTED", "GET"])
def test_the_first_frame_must_be_connect(command):
    """Nothing that a client says before it has said who it is has any effect."""
    connection = Connection("s")

    event = only_event(connection, f"{command}\ndestination:/d\nid:1\nreceipt:r\\n\n\n\0")

    assert isinstance(event, Invalid)
    assert event.message == "The first frame must be CONNECT"
    assert headers_of(answer(connection, event))["receipt-id"] == "r\\n"


@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_a_second_connect_is_an_error(command):
    connection, _ = connect()

    event = only_event(connection, f"{command}\naccept-version:1.2\n\n\0")

    assert isinstance(event, Invalid)
    assert event.message == "The client is already connected"


def test_the_first_frame_has_less_room_than_later_ones():
    """Whoever it is has not shown a token yet: 16 KiB are enough for one, and all it gets."""
    connection, _ = connect()
    stranger = Connection("s")
    large = "x" * Limits().first_frame

    assert isinstance(only_event(connection, f"SEND\ndestination:/d\n\n{large}\0"), Send)
    assert isinstance(only_event(stranger, f"CONNECT\n\n{large}\0"), Invalid)
    assert isinstance(only_event(connection, "x" * Limits().frame), Invalid)


def test_a_user_whose_name_would_become_a_header_is_refused():
    """CONNECTED has no escapes, so a line feed in the name cannot be written."""
    connection = Connection("s")
    receive(connection, "CONNECT\naccept-version:1.2\n\n\0")

    with pytest.raises(LocalProtocolError, match="user-name"):
        connection.connected("alice\nversion:9")
    assert "user-name:alice" in connection.connected("alice")


@pytest.mark.parametrize("session", ["", "a b", "a:b", "a\n", "é"])
def test_a_session_that_cannot_be_part_of_an_id_is_refused(session):
    """Weak parsers read ids: letters, digits, - and _ are what all of them read alike."""
    with pytest.raises(LocalProtocolError):
        Connection(session)


# ---- Subscribing ----


def test_a_message_names_its_subscription_and_destination_as_the_client_wrote_them():
    """Clients look their handlers up by id or by destination. Values that need escapes get those of the version."""
    connection, _ = connect("1.2")
    receive(connection, "SUBSCRIBE\nid:a\\cb\\\\ c\ndestination:/d:1\nack:auto\n\n\0")

    frame = connection.message("a:b\\ c", "event:created\nversion:1\n", '{"id":1}', 1)

    assert frame == (
        "MESSAGE\nsubscription:a\\cb\\\\ c\ndestination:/d\\c1\ncontent-type:application/json\nmessage-id:session-1-1\n"
        'event:created\nversion:1\ncontent-length:8\n\n{"id":1}\0'
    )


def test_content_length_counts_octets():
    """Counted in characters, the body would be cut short."""
    connection, _ = connect()
    receive(connection, SUBSCRIBE)

    assert headers_of(connection.message("s", "", '"ä€😀"'))["content-length"] == "11"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_message_has_an_id_of_its_own(version):
    connection, _ = connect(version)
    receive(connection, SUBSCRIBE + "SUBSCRIBE\nid:t\ndestination:/d\nack:client\n\n\0")

    ids = [headers_of(connection.message(id, "", "{}", 1))["message-id"] for id in "stst"]

    assert len(set(ids)) == 4


def test_an_ack_header_comes_only_where_an_acknowledgement_is_wanted():
    connection, _ = connect()
    receive(connection, SUBSCRIBE + "SUBSCRIBE\nid:c\ndestination:/d\nack:client-individual\n\n\0")

    assert "ack" not in headers_of(connection.message("s", "", "{}", 1))
    assert "ack" not in headers_of(connection.message("c", "", "{}", None))
    assert "ack" in headers_of(connection.message("c", "", "{}", 1))


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ("id:s\n", "SUBSCRIBE needs the header destination"),
        ("id:s\ndestination:\n", "SUBSCRIBE needs the header destination"),
        ("destination:/d\n", "SUBSCRIBE needs the header id"),
        ("destination:/d\nid:\n", "SUBSCRIBE needs the header id"),
        ("destination:/d\nid:s\nack:never\n", "The ack mode is unknown"),
        ("destination:/d\nid:s\nack:Client\n", "The ack mode is unknown"),
        ("destination:/d\nid:s\nack:\n", "The ack mode is unknown"),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_a_subscription_that_cannot_be_served_as_asked_is_refused(version, headers, message):
    connection, _ = connect(version)

    event = only_event(connection, f"SUBSCRIBE\n{headers}receipt:7\n\n\0")

    assert isinstance(event, Invalid)
    assert (event.message, event.receipt) == (message, "7")


def test_an_id_in_use_is_refused():
    """Messages of both would carry the same id, and the client could not tell them apart."""
    connection, _ = connect()

    events = receive(connection, SUBSCRIBE + "SUBSCRIBE\nid:s\ndestination:/other\n\n\0")

    assert isinstance(events[-1], Invalid)
    assert events[-1].message == "The subscription id is in use"


def test_an_id_may_be_used_again_after_unsubscribing():
    connection, _ = connect()

    events = receive(connection, SUBSCRIBE + "UNSUBSCRIBE\nid:s\nreceipt:7\n\n\0" + SUBSCRIBE)

    assert [type(event) for event in events] == [Subscribe, Unsubscribe, Subscribe]
    assert events[1] == Unsubscribe("s", "7")


def test_1_0_clients_may_subscribe_without_an_id():
    """On 1.0 the destination is what names a subscription, and its messages carry no `subscription`."""
    connection, _ = connect("1.0")

    subscribed, unsubscribed = receive(
        connection, "SUBSCRIBE\ndestination:/d\n\n\0UNSUBSCRIBE\ndestination:/d\n\n\0SUBSCRIBE\ndestination:/d\n\n\0"
    )[:2]

    assert isinstance(subscribed, Subscribe)
    assert unsubscribed == Unsubscribe(subscribed.id, None)
    assert connection.message(subscribed.id, "", "{}").startswith("MESSAGE\ndestination:/d\ncontent-type:")


def test_1_0_clients_may_unsubscribe_by_the_destination_of_a_subscription_with_an_id():
    connection, _ = connect("1.0")

    events = receive(connection, SUBSCRIBE + "UNSUBSCRIBE\ndestination:/d\n\n\0")

    assert events[1] == Unsubscribe("s", None)


def test_1_0_clients_cannot_subscribe_to_one_destination_twice_without_ids():
    """They would get every message twice and could not tell why."""
    connection, _ = connect("1.0")

    events = receive(connection, "SUBSCRIBE\ndestination:/d\n\n\0" * 2)

    assert isinstance(events[-1], Invalid)
    assert events[-1].message == "The subscription id is in use"


def test_unsubscribing_from_what_is_unknown_is_no_error():
    """Clients unsubscribe twice. The event says the id, and the receipt is due all the same."""
    connection, _ = connect("1.0")

    events = receive(connection, "UNSUBSCRIBE\nid:x\nreceipt:7\n\n\0UNSUBSCRIBE\ndestination:/x\n\n\0")

    assert events[0] == Unsubscribe("x", "7")
    assert isinstance(events[1], Unsubscribe)


@pytest.mark.parametrize("version", VERSIONS)
def test_unsubscribe_must_say_from_what(version):
    connection, _ = connect(version)

    assert isinstance(only_event(connection, "UNSUBSCRIBE\n\n\0"), Invalid)


def test_a_subscription_that_has_ended_gets_no_message():
    connection, _ = connect()
    receive(connection, SUBSCRIBE + "UNSUBSCRIBE\nid:s\n\n\0")

    with pytest.raises(LocalProtocolError, match="'s'"):
        connection.message("s", "", "{}")


# ---- Acknowledging ----

ACKS = {
    "1.2": lambda id: f"ACK\nid:{id}\n\n\0",
    "1.1": lambda id: f"ACK\nmessage-id:{id}\nsubscription:s\n\n\0",
    "1.0": lambda id: f"ACK\nmessage-id:{id}\n\n\0",
    "1.1, as some write it": lambda id: f"ACK\nid:{id}\n\n\0",
    "1.2, as some write it": lambda id: f"ACK\nmessage-id:{id}\nsubscription:s\n\n\0",
}


@pytest.mark.parametrize("dialect", ACKS)
def test_an_acknowledgement_brings_back_the_token_of_its_message(dialect):
    """1.2 acknowledges the `ack` of a message, 1.0 and 1.1 its `message-id`, and some clients of all versions write
    only `id`."""
    connection, _ = connect(dialect[:3])
    receive(connection, SUBSCRIBE_INDIVIDUAL)
    sent = [headers_of(connection.message("s", "", "{}", token)) for token in "abc"]
    id = sent[1]["ack" if dialect.startswith("1.2") else "message-id"]

    assert receive(connection, ACKS[dialect](id)) == [Ack(["b"], None)]


def test_client_mode_acknowledges_all_messages_of_the_subscription_up_to_this_one():
    """Cumulative per subscription: what another one waits for still waits."""
    connection, _ = connect()
    receive(connection, SUBSCRIBE_CLIENT + "SUBSCRIBE\nid:t\ndestination:/d\nack:client\n\n\0")
    acks = {
        token: headers_of(connection.message(token[0], "", "{}", token))["ack"] for token in ("s1", "t1", "s2", "s3")
    }

    assert receive(connection, ack(acks["s2"])) == [Ack(["s1", "s2"], None)]
    assert receive(connection, ack(acks["t1"])) == [Ack(["t1"], None)]
    assert receive(connection, ack(acks["s3"])) == [Ack(["s3"], None)]


def test_nack_is_cumulative_where_ack_is():
    connection, _ = connect()
    receive(connection, SUBSCRIBE_CLIENT)
    acks = [headers_of(connection.message("s", "", "{}", token))["ack"] for token in "ab"]

    assert receive(connection, f"NACK\nid:{acks[1]}\nreceipt:7\n\n\0") == [Nack(["a", "b"], "7")]


def test_client_individual_mode_acknowledges_one_message():
    connection, _ = connect()
    receive(connection, SUBSCRIBE_INDIVIDUAL)
    acks = [headers_of(connection.message("s", "", "{}", token))["ack"] for token in "ab"]

    assert receive(connection, ack(acks[1])) == [Ack(["b"], None)]
    assert receive(connection, ack(acks[0])) == [Ack(["a"], None)]


@pytest.mark.parametrize("version", VERSIONS)
def test_acknowledgements_are_ignored_while_nothing_wants_them(version):
    """stompjs 5 to 7.1 send `id:undefined` when an application acknowledges the messages of an auto subscription.
    It has done so for years, so it must do no harm."""
    connection, _ = connect(version)
    receive(connection, SUBSCRIBE)

    events = receive(connection, "ACK\nid:undefined\n\n\0NACK\nid:undefined\nreceipt:7\n\n\0ACK\n\n\0")

    assert events == [Ack([], None), Nack([], "7"), Ack([], None)]


@pytest.mark.parametrize(
    "id",
    ["undefined", "session-1-2", "session-1-0", "session-1-01x", "session-1-", "session-1-٢", "other-1", "1", "-1"],
)
def test_an_id_that_was_never_given_out_cannot_be_acknowledged(id):
    connection, _ = connect()
    receive(connection, SUBSCRIBE_CLIENT)
    connection.message("s", "", "{}", "token")

    event = only_event(connection, f"ACK\nid:{id}\nreceipt:7\n\n\0")

    assert isinstance(event, Invalid)
    assert (event.message, event.receipt) == ("The message to acknowledge is unknown", "7")


def test_an_acknowledgement_must_say_of_what():
    connection, _ = connect("1.1")
    receive(connection, SUBSCRIBE_CLIENT)

    event = only_event(connection, "ACK\nsubscription:s\n\n\0")

    assert isinstance(event, Invalid)
    assert event.message == "ACK needs the header message-id"


def test_a_message_may_be_acknowledged_twice():
    """A client that acknowledges every message in cumulative mode, not in order, does just that."""
    connection, _ = connect()
    receive(connection, SUBSCRIBE_CLIENT)
    acks = [headers_of(connection.message("s", "", "{}", token))["ack"] for token in "ab"]

    assert receive(connection, ack(acks[1]) + ack(acks[0]) + ack(acks[1])) == [
        Ack(["a", "b"], None),
        Ack([], None),
        Ack([], None),
    ]


def test_an_acknowledgement_that_crosses_its_unsubscribe_is_no_error():
    """The application acknowledges after it has unsubscribed. The messages count as not acknowledged."""
    connection, _ = connect()
    receive(connection, SUBSCRIBE_CLIENT + "SUBSCRIBE\nid:t\ndestination:/d\nack:client\n\n\0")
    sent = headers_of(connection.message("s", "", "{}", "token"))

    events = receive(connection, "UNSUBSCRIBE\nid:s\n\n\0" + ack(sent["ack"]))

    assert events == [Unsubscribe("s", None), Ack([], None)]


def test_the_message_of_an_auto_subscription_may_be_acknowledged_beside_others():
    connection, _ = connect("1.1")
    receive(connection, SUBSCRIBE_CLIENT + "SUBSCRIBE\nid:auto\ndestination:/d\n\n\0")
    sent = headers_of(connection.message("auto", "", "{}", "token"))

    assert receive(connection, f"ACK\nmessage-id:{sent['message-id']}\n\n\0") == [Ack([], None)]


def test_the_application_can_ask_how_many_messages_wait():
    """How many may wait is not the protocol's to say; none of them is forgotten."""
    connection, _ = connect()
    receive(connection, SUBSCRIBE_CLIENT)
    for token in range(20_000):
        last = headers_of(connection.message("s", "", "{}", token))["ack"]
    assert len(connection.unacknowledged("s")) == 20_000

    (event,) = receive(connection, ack(last))

    assert event == Ack(list(range(20_000)), None)
    assert not connection.unacknowledged("s")
    assert not connection.unacknowledged("unknown")


# ---- Sending, disconnecting ----


def test_what_a_client_sends_comes_as_it_is():
    connection, _ = connect()

    event = only_event(connection, "SEND\ndestination:/app/x\nreceipt:7\nfoo:b\\nr\ncontent-length:3\n\na\0b\0")

    headers = {"destination": "/app/x", "receipt": "7", "foo": "b\nr", "content-length": "3"}
    assert event == Send("/app/x", headers, b"a\0b", "7")


def test_the_destination_that_is_checked_is_the_one_that_is_used():
    """Of a repeated header only the first counts, everywhere: two readings would be a way around the check."""
    connection, _ = connect()

    event = only_event(connection, "SUBSCRIBE\nid:s\ndestination:/mine\ndestination:/theirs\n\n\0")

    assert isinstance(event, Subscribe)
    assert (event.destination, event.headers["destination"]) == ("/mine", "/mine")
    assert headers_of(connection.message("s", "", "{}"))["destination"] == "/mine"


def test_send_must_say_where_to():
    connection, _ = connect()

    assert isinstance(only_event(connection, "SEND\n\nbody\0"), Invalid)


@pytest.mark.parametrize("command", ["subscribe", "Subscribe", "MESSAGE", "RECEIPT", "SUBSCRIBES", "GET / HTTP/1.1"])
def test_commands_are_case_sensitive_and_those_of_clients(command):
    connection, _ = connect()

    assert isinstance(only_event(connection, f"{command}\nid:s\ndestination:/d\n\n\0"), Invalid)


def test_after_disconnect_comes_its_receipt_and_nothing_is_heard():
    """Clients must not send anything after DISCONNECT. What they do send has no effect."""
    connection, _ = connect()

    events = receive(connection, "DISCONNECT\nreceipt:bye\n\n\0" + SUBSCRIBE)

    assert events == [Disconnect("bye")]
    assert connection.receipt("bye") == "RECEIPT\nreceipt-id:bye\n\n\0"
    assert receive(connection, SUBSCRIBE) == []


def test_a_receipt_is_repeated_as_the_client_wrote_it():
    connection, _ = connect("1.1")

    event = only_event(connection, "UNSUBSCRIBE\nid:s\nreceipt:a\\cb c\n\n\0")

    assert isinstance(event, Unsubscribe)
    assert event.receipt == "a:b c"
    assert connection.receipt(event.receipt) == "RECEIPT\nreceipt-id:a\\cb c\n\n\0"


def test_an_empty_receipt_is_none():
    """Its answer would have an empty header, which several clients cannot read."""
    connection, _ = connect()

    assert receive(connection, "UNSUBSCRIBE\nid:s\nreceipt:\n\n\0") == [Unsubscribe("s", None)]


# ---- Errors ----


def test_an_error_says_what_was_wrong_and_with_which_frame():
    connection, _ = connect()
    event = only_event(connection, "SUBSCRIBE\nid:s\nreceipt:a\\cb\n\n\0")
    assert isinstance(event, Invalid)

    frame = connection.error(event.message, event.body, event.receipt)

    assert frame == (
        "ERROR\nmessage:SUBSCRIBE needs the header destination\nreceipt-id:a\\cb\ncontent-type:text/plain\n"
        "content-length:63\n\nSUBSCRIBE needs the header destination. It is missing or empty.\0"
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_the_message_of_an_error_can_be_read_by_any_client(version):
    """Clients differ in how they read colons and backslashes. The header has none, a dash where a sentence has a colon,
    and no line end that would begin another header; the body has the whole text."""
    connection, _ = connect(version)

    frame = connection.error(" no: C:\\x\r\nuser-name:admin\0 ")

    assert headers_of(frame)["message"] == "no - C x user-name admin"
    assert "no: C:\\x\r\nuser-name:admin" in frame


def test_an_error_always_has_a_message():
    assert headers_of(connect()[0].error(":"))["message"] == "error"


def test_nothing_follows_an_error():
    """The socket is closed right after it. A frame that is sent all the same is a mistake of ours."""
    connection, _ = connect()
    receive(connection, SUBSCRIBE)
    connection.error("enough")

    for send in (
        lambda: connection.message("s", "", "{}"),
        lambda: connection.receipt("7"),
        lambda: connection.error("again"),
        lambda: connection.connected("alice"),
    ):
        with pytest.raises(LocalProtocolError):
            send()
    assert receive(connection, SUBSCRIBE) == []


def test_nothing_but_an_error_follows_invalid():
    connection, _ = connect()

    events = receive(connection, SUBSCRIBE + "NONSENSE\n\n\0" + SUBSCRIBE)

    assert [type(event) for event in events] == [Subscribe, Invalid]
    with pytest.raises(LocalProtocolError):
        connection.message("s", "", "{}")
    assert connection.error("no").startswith("ERROR\n")


def test_what_the_log_may_have_repeats_nothing_that_the_client_sent():
    """Headers hold tokens. The short message is what is logged; the body goes back to the client alone."""
    secret = "eyJhbGciOiJIUzI1NiJ9"
    broken = [
        f"CONNECT\nAuthorization {secret}\n\n\0",
        f"CONNECT\naccept-version:{secret}\n\n\0",
        f"CONNECT\naccept-version:1.2\nheart-beat:{secret}\n\n\0",
        f"CONNECT\ncontent-length:{secret}\n\n\0",
        f"{secret.upper()}\n\n\0",
        f"{{{secret}",
    ]

    for data in broken:
        event = only_event(Connection("s"), data)
        assert isinstance(event, Invalid)
        assert secret.upper() not in event.message.upper()


# ---- Any octets ----


def test_the_first_frame_must_begin_like_one():
    """A client that speaks JSON to the STOMP address is told at once, not cut off after ten seconds of silence."""
    event = only_event(Connection("s"), '{"type":"subscribe"}')

    assert isinstance(event, Invalid)
    assert event.message == "This is not a STOMP frame"
    assert 'It begins with \'{"type":"subscribe"}\'; a frame' in event.body


SCRIPT = (
    "SUBSCRIBE\nid:ä\ndestination:/d\nack:client\nreceipt:1\n\n\0\r\n\n"
    "SEND\ndestination:/ü\ncontent-length:4\n\nä\0\n\0"
    "BEGIN\ntransaction:t\n\n\0"
    "SEND\r\ndestination:/d\r\ntransaction:t\r\n\r\n\nbody\0"
    "ACK\r\nid:session-1-1\r\ntransaction:t\r\n\r\n\0"
    "COMMIT\ntransaction:t\nreceipt:2\n\n\0"
    "BEGIN\ntransaction:t\n\n\0"
    "NACK\nid:session-1-1\ntransaction:t\n\n\0"
    "ABORT\ntransaction:t\n\n\0"
    "UNSUBSCRIBE\nid:ä\n\n\0"
    "DISCONNECT\nreceipt:3\n\n\0"
)
"""Everything that a client can do, on any version. What its ACK is for has been sent by then."""

EVENTS = [Connect, Subscribe, Send, Begin, Send, Ack, Commit, Begin, Abort, Unsubscribe, Disconnect]

SCRIPTS = {version: f"CONNECT\naccept-version:{version}\n\n\0\n{SCRIPT}" for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_frames_come_in_any_pieces(version, data):
    """One frame in many WebSocket messages, many in one, text or binary, cut inside a character."""
    script = SCRIPTS[version]

    events = converse(cut(data, script.encode()))

    assert events == converse([script])
    assert [type(event) for event in events] == EVENTS


PIECES = st.sampled_from(
    [
        *re.findall(r"[^\0]*\0", SCRIPT.replace("ä\0", "ä.")),
        "CONNECT\naccept-version:1.2\n\n\0",
        "ACK\n",
        "SEND\r\n",
        "COMMIT\n",
        "transaction:t\n",
        "id:session-1-1\n",
        "receipt:a\rb\n",
        "receipt:\\n\n",
        "content-length:3\n",
        "content-length:٣\n",
        ":",
        "\\",
        "\r\n\r\n",
        "\n\n",
        "\0",
    ]
)


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_no_octets_raise_anything(version, data):
    """A peer can send what it likes: it gets ERROR, which can always be written, or we wait for more; however it is
    cut."""
    octets = bytearray(SCRIPTS[version].encode())
    for _ in range(data.draw(st.integers(0, 5))):
        place = data.draw(st.integers(0, len(octets)))
        new = data.draw(st.binary(max_size=6) | PIECES.map(str.encode))
        octets[place : place + data.draw(st.integers(0, 4))] = new

    whole = converse([bytes(octets)])
    pieces = converse(cut(data, bytes(octets)))

    assert [summary(event) for event in whole] == [summary(event) for event in pieces]
    assert Invalid not in [type(event) for event in whole[:-1]]


@given(st.lists(st.one_of(st.binary(), st.text(), PIECES)), st.booleans())
def test_no_garbage_raises_anything(chunks, connected):
    events = converse([SCRIPTS["1.2"].partition("\0")[0] + "\0", *chunks] if connected else chunks)

    assert Invalid not in [type(event) for event in events[:-1]]


def test_an_error_can_be_written_even_if_the_receipt_cannot():
    """No frame may hold a NUL or, before 1.2, a carriage return: ERROR goes without `receipt-id` then."""
    for version in VERSIONS:
        for receipt in ("a\rb", "a\0b"):
            connection, _ = connect(version)

            event = only_event(connection, f"SEND\nreceipt:{receipt}\n\n\0")

            assert isinstance(event, Invalid)
            assert "receipt-id" not in headers_of(answer(connection, event))


# ---- How these tests talk to a connection ----


def connect(version: str = "1.2", headers: str = "") -> tuple[Connection, str]:
    """A connection on which that version is spoken, and its CONNECTED."""
    connection = Connection("session-1")
    receive(connection, f"CONNECT\naccept-version:{version}\n{headers}\n\0")
    return connection, connection.connected("alice")


def receive(connection: Connection, data: str | bytes) -> list[Event]:
    connection.receive_data(data)
    return list(iter(connection.next_event, None))


def only_event(connection: Connection, data: str) -> Event:
    (event,) = receive(connection, data)
    return event


def converse(pieces: list[bytes | str]) -> list[Event]:
    """What happens on a connection that receives `pieces`, on which every client is let in and everything answered."""
    connection = Connection("session-1")
    events: list[Event] = []
    for piece in pieces:
        connection.receive_data(piece)
        while (event := connection.next_event()) is not None:
            events.append(event)
            if isinstance(event, Connect):
                connection.connected("alice")
            elif isinstance(event, Invalid):
                assert headers_of(answer(connection, event))["message"]
            elif event.receipt is not None:
                connection.receipt(event.receipt)
            if isinstance(event, Subscribe):
                connection.message(event.id, "", "{}", "token")
    return events


def summary(event: Event) -> object:
    """Of an error only that it is one: of a frame's several errors, the one that is found is in what has come."""
    return Invalid if isinstance(event, Invalid) else event


def cut(data: st.DataObject, octets: bytes) -> list[bytes | str]:
    """`octets`, cut into messages anywhere; as text, where that can be."""
    places = data.draw(st.lists(st.integers(0, len(octets)), max_size=40).map(sorted))
    pieces = [octets[start:end] for start, end in pairwise([0, *places, len(octets)])]
    return [text(piece) if data.draw(st.booleans()) else piece for piece in pieces]


def text(piece: bytes) -> bytes | str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return piece


def answer(connection: Connection, event: Invalid) -> str:
    return connection.error(event.message, event.body, event.receipt)


def headers_of(frame: str) -> dict[str, str]:
    parser = Parser(Limits())
    parser.feed(frame)
    parsed = parser.next_frame()
    assert parsed is not None
    assert parser.next_frame() is None
    return parsed.headers


def ack(id: str) -> str:
    return f"ACK\nid:{id}\n\n\0"
