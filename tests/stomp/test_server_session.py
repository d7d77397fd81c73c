"""Long random conversations of clients and a server, against a model of what a server must remember."""

from __future__ import annotations

from itertools import count, cycle
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule

from rowbell.stomp import client as stomp
from rowbell.stomp.errors import LocalProtocolError
from rowbell.stomp.headers import VERSIONS
from rowbell.stomp.server import (
    Ack,
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

RECEIPTS = st.none() | st.text("r:\\ é", min_size=1)
MODES = st.sampled_from(["auto", "client", "client-individual"])

BROKEN = [
    "CONNECT\naccept-version:1.2\nreceipt:r\n\n\0",
    "SUBSCRIBE\nid:x\nreceipt:r\n\n\0",
    "BEGIN\ntransaction:t\nreceipt:r\n\n\0",
    "NONSENSE\nreceipt:r\n\n\0",
    "SEND\nno colon\nreceipt:r\n\n\0",
    "SEND\ncontent-length:1\nreceipt:r\n\nab\0",
]


class Conversation(RuleBasedStateMachine):
    """A client writes frames; the model knows what each must lead to. When a connection ends, another one begins.

    The model has the mode of each subscription, and the tokens that it waits for, in order.
    """

    ids = Bundle("ids")
    """Some of them are subscribed to."""
    messages = Bundle("messages")
    """That wanted an acknowledgement, each with its connection and its token. Some still do."""

    def __init__(self) -> None:
        super().__init__()
        self.versions = cycle(VERSIONS)
        self.tokens = count(1)
        self.connect()

    def connect(self) -> None:
        version = next(self.versions)
        self.server = Connection(f"s-{version[2]}")
        self.client = stomp.Client(versions=[version])
        self.modes: dict[str, str] = {}
        self.waiting: dict[str, list[int]] = {}

        assert isinstance(self.tell(self.client.connect()), Connect)
        assert isinstance(self.hear(self.server.connected("alice")), stomp.Connected)
        assert self.server.version == self.client.version == version

    # ---- What a client does ----

    @rule(target=ids, id=st.text("ab:\\ ñ", min_size=1, max_size=3), mode=MODES, receipt=RECEIPTS)
    def subscribe(self, id: str, mode: Any, receipt: str | None) -> Any:
        frame = self.client.subscribe(f"/d/{id}", id=id, ack=mode, receipt=receipt)
        if id in self.modes:
            self.is_refused(frame, receipt)
            return multiple()
        event = self.tell(frame)
        assert isinstance(event, Subscribe)
        assert (event.id, event.destination, event.ack, event.receipt) == (id, f"/d/{id}", mode, receipt)
        self.modes[id] = mode
        self.waiting[id] = []
        return id

    @rule(id=ids, receipt=RECEIPTS)
    def unsubscribe(self, id: str, receipt: str | None) -> None:
        assert self.tell(self.client.unsubscribe(id, receipt=receipt)) == Unsubscribe(id, receipt)
        self.modes.pop(id, None)
        self.waiting.pop(id, None)

    @rule(message=messages, nack=st.booleans(), receipt=RECEIPTS)
    def acknowledge(self, message: tuple[Connection, stomp.Message, int], nack: bool, receipt: str | None) -> None:
        server, frame, token = message
        if server is not self.server:
            return
        event = self.tell((self.client.nack if nack else self.client.ack)(frame, receipt=receipt))
        assert event == (Nack if nack else Ack)(self.settled(frame.subscription, token), receipt)

    @rule(id=st.sampled_from(["undefined", "s-2-0", "s-1-999999", "s-3-1"]), receipt=RECEIPTS)
    def acknowledge_what_was_never_sent(self, id: str, receipt: str | None) -> None:
        message = stomp.Message(id, "", "", id, {}, b"")
        frame = self.client.ack(message, receipt=receipt)
        if set(self.modes.values()) <= {"auto"}:
            assert self.tell(frame) == Ack([], receipt)
        else:
            self.is_refused(frame, receipt)

    @rule(body=st.text("a\n€", min_size=1), receipt=RECEIPTS)
    def send(self, body: str, receipt: str | None) -> None:
        event = self.tell(self.client.send("/app/x", body, receipt=receipt))
        assert isinstance(event, Send)
        assert (event.destination, event.body, event.receipt) == ("/app/x", body.encode(), receipt)

    @rule(line_ends=st.text("\r\n"))
    def beat(self, line_ends: str) -> None:
        self.server.receive_data(line_ends)
        assert self.server.next_event() is None

    # ---- What the server does ----

    @rule(target=messages, id=ids, bodies=st.lists(st.text("{}é\n", max_size=5), min_size=1, max_size=4))
    def send_messages(self, id: str, bodies: list[str]) -> Any:
        if id not in self.modes:
            with pytest.raises(LocalProtocolError):
                self.server.message(id, "", bodies[0], "token")
            return multiple()
        sent = [(self.server, *self.message(id, body)) for body in bodies]
        return multiple() if self.modes[id] == "auto" else multiple(*sent)

    def message(self, id: str, body: str) -> tuple[stomp.Message, int]:
        token = next(self.tokens)
        message = self.hear(self.server.message(id, "event:created\n", body, token))
        assert isinstance(message, stomp.Message)
        assert (message.subscription, message.destination, message.body) == (id, f"/d/{id}", body.encode())
        assert message.headers["event"] == "created"
        assert bool(message.ack) == (self.modes[id] != "auto")
        self.waiting[id].append(token)
        return message, token

    # ---- How it ends ----

    # One rule for all of them, so that a conversation is long enough for something to have happened.
    @rule(end=st.sampled_from(["DISCONNECT", "ERROR", *BROKEN]), text=st.text("ab:\\\n "))
    def end(self, end: str, text: str) -> None:
        if end == "DISCONNECT":
            assert self.tell(self.client.disconnect(receipt="r")) == Disconnect("r")
            assert self.hear(self.server.receipt("r")) == stomp.Receipt("r")
            self.is_over()
        elif end == "ERROR":
            assert isinstance(self.hear(self.server.error(text)), stomp.Error)
            self.is_over()
        else:
            self.is_refused(end, "r")

    # ---- How they talk ----

    def tell(self, frame: str) -> Event:
        """The client sends a frame, cut in two: the one thing that happens."""
        octets = frame.encode()
        self.server.receive_data(octets[: len(octets) // 2])
        assert self.server.next_event() is None
        self.server.receive_data(octets[len(octets) // 2 :])
        event = self.server.next_event()
        assert event is not None
        assert self.server.next_event() is None
        return event

    def hear(self, frame: str) -> stomp.ClientEvent:
        """What the client makes of one frame of the server."""
        self.client.receive_data(frame)
        event = self.client.next_event()
        assert event is not None
        assert self.client.next_event() is None
        return event

    def is_refused(self, frame: str, receipt: str | None) -> None:
        """The frame has no effect but ERROR, which names its receipt."""
        event = self.tell(frame)
        assert isinstance(event, Invalid)
        error = self.hear(self.server.error(event.message, event.body, event.receipt))
        assert isinstance(error, stomp.Error)
        assert error.headers.get("receipt-id") == receipt
        with pytest.raises(LocalProtocolError):
            self.server.error("again")
        self.is_over()

    def is_over(self) -> None:
        """Nothing is heard on this connection any more."""
        self.server.receive_data("SUBSCRIBE\nid:late\ndestination:/d\n\n\0")
        assert self.server.next_event() is None
        self.connect()

    def settled(self, id: str, token: int) -> list[int]:
        """The model's answer to an acknowledgement."""
        waiting = self.waiting.get(id, [])
        if token not in waiting:
            return []
        cumulative = self.modes[id] == "client"
        done = [each for each in waiting if each == token or (cumulative and each < token)]
        self.waiting[id] = [each for each in waiting if each not in done]
        return done


TestConversation = Conversation.TestCase
