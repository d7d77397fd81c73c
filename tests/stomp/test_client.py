"""The client's side, against frames of servers in the wild and against our own server."""

from __future__ import annotations

import pytest

from rowbell.stomp.client import Client, Connected, Error, Message, Receipt
from rowbell.stomp.errors import LocalProtocolError, ProtocolError
from rowbell.stomp.headers import VERSIONS

CONNECTED = {version: f"CONNECTED\nversion:{version}\nheart-beat:0,0\n\n\0" for version in VERSIONS}


def test_connecting():
    client = Client(beat=(5000, 10_000))

    assert client.connect({"Authorization": "Bearer a:b\\c"}) == (
        "CONNECT\naccept-version:1.2,1.1,1.0\nhost:/\nheart-beat:5000,10000\nAuthorization:Bearer a:b\\c\n\n\0"
    )

    client.receive_data("CONNECTED\nversion:1.1\nheart-beat:20000,1000\nuser-name:a\\b\n\n\0")
    event = client.next_event()
    assert isinstance(event, Connected)
    assert (event.version, event.headers["user-name"]) == ("1.1", "a\\b")
    assert (client.version, client.send_interval, client.receive_timeout) == ("1.1", 4.0, 50.0)


def test_a_server_that_names_no_version_speaks_1_0():
    client = Client()
    client.receive_data("CONNECTED\nsession:x\n\n\0")

    assert client.next_event() == Connected("1.0", {"session": "x"})
    assert (client.send_interval, client.receive_timeout) == (None, None)


def test_headers_of_the_caller_replace_the_protocols_own():
    assert "\nhost:example.org\n" in Client().connect({"host": "example.org"})


def test_frames_are_escaped_as_the_version_wants():
    modern, old = connected("1.2"), connected("1.0")

    assert modern.subscribe("/a:b", id="s", ack="client", headers={"since": "c"}, receipt="r") == (
        "SUBSCRIBE\nid:s\ndestination:/a\\cb\nack:client\nsince:c\nreceipt:r\n\n\0"
    )
    assert "destination:/a:b\n" in old.subscribe("/a:b", id="s")
    assert modern.send("/x", "é", headers={"a": "b"}) == "SEND\ndestination:/x\na:b\ncontent-length:2\n\né\0"
    assert modern.unsubscribe("s", receipt="r") == "UNSUBSCRIBE\nid:s\nreceipt:r\n\n\0"
    assert modern.disconnect(receipt="r") == "DISCONNECT\nreceipt:r\n\n\0"


MESSAGE = "MESSAGE\nsubscription:s\nmessage-id:m\ndestination:/d\nack:a\nevent:created\ncontent-length:2\n\n{}\0"


def test_a_message_and_its_acknowledgement():
    """1.2 acknowledges the header `ack`, the versions before it `message-id`, 1.1 together with `subscription`."""
    for version, ack in [
        ("1.2", "ACK\nid:a\n\n\0"),
        ("1.1", "ACK\nmessage-id:m\nsubscription:s\n\n\0"),
        ("1.0", "ACK\nmessage-id:m\nsubscription:s\n\n\0"),
    ]:
        client = connected(version)
        client.receive_data(MESSAGE)

        message = client.next_event()

        assert isinstance(message, Message)
        assert (message.id, message.subscription, message.destination, message.ack) == ("m", "s", "/d", "a")
        assert (message.headers["event"], message.body) == ("created", b"{}")
        assert client.ack(message) == ack
        assert client.nack(message, receipt="r") == ack.replace("ACK", "NACK").replace("\n\n", "\nreceipt:r\n\n")


def test_a_message_without_an_ack_header_cannot_be_acknowledged_on_1_2():
    """stompjs sends `id:undefined` then, which some servers take for an error."""
    client = connected("1.2")
    client.receive_data("MESSAGE\nsubscription:s\nmessage-id:m\ndestination:/d\n\n{}\0")
    message = client.next_event()
    assert isinstance(message, Message)

    with pytest.raises(LocalProtocolError, match="'m'"):
        client.ack(message)


def test_several_frames_in_one_message_and_beats_between_them():
    client = connected("1.2")

    client.receive_data("\n\nRECEIPT\nreceipt-id:r\\c1\n\n\0\n" + MESSAGE + "\nERROR\nmessage:no\n\nwhy\0")

    assert client.next_event() == Receipt("r:1")
    assert isinstance(client.next_event(), Message)
    assert client.next_event() == Error("no", {"message": "no"}, b"why")
    assert client.next_event() is None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_transaction(version):
    client = connected(version)
    client.receive_data(MESSAGE)
    message = client.next_event()
    assert isinstance(message, Message)
    named = "id:a" if version == "1.2" else "message-id:m\nsubscription:s"

    assert client.begin("t", receipt="r") == "BEGIN\ntransaction:t\nreceipt:r\n\n\0"
    assert client.ack(message, transaction="t") == f"ACK\n{named}\ntransaction:t\n\n\0"
    assert client.nack(message, transaction="t") == f"NACK\n{named}\ntransaction:t\n\n\0"
    assert client.send("/x", transaction="t") == "SEND\ndestination:/x\ntransaction:t\n\n\0"
    assert client.commit("t", receipt="r") == "COMMIT\ntransaction:t\nreceipt:r\n\n\0"
    assert client.abort("t", receipt="r") == "ABORT\ntransaction:t\nreceipt:r\n\n\0"


@pytest.mark.parametrize(
    "octets",
    [
        b"CONNECTED\nversion:2.0\n\n\0",
        b"CONNECTED\nversion:1.2\nheart-beat:often\n\n\0",
        b"RECEIPT\n\n\0",
        b"MESSAGE\nsubscription:s\n\n\0",
        b"SUBSCRIBE\nid:s\n\n\0",
        b"<html>",
    ],
)
def test_a_server_that_makes_no_sense_is_an_error(octets):
    client = Client()
    client.receive_data(octets)

    with pytest.raises(ProtocolError):
        client.next_event()


def connected(version: str) -> Client:
    client = Client()
    client.receive_data(CONNECTED[version])
    assert isinstance(client.next_event(), Connected)
    return client
