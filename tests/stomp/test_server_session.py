"""Long random conversations of clients and a server, against a model of what a server must remember."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, cycle
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from rowbell.stomp import client as stomp
from rowbell.stomp.errors import LocalProtocolError
from rowbell.stomp.headers import VERSIONS
from rowbell.stomp.server import (
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

IDS = ["a", "b", "b:", "\\c", " ñ"]
TRANSACTIONS = ["t", "u:", "\\"]

RECEIPTS = st.none() | st.text("r:\\ é", min_size=1)
MODES = st.sampled_from(["client", "client-individual", "auto"])
ANY = st.integers(0, 99)
"""Which of those that there are at the moment, counted from the last."""
SELDOM = st.integers(0, 4).map(lambda number: number == 4)
RARELY = st.integers(0, 24).map(lambda number: number == 24)
"""What a server refuses ends the conversation, so it must not be what clients mostly do."""

BROKEN = [
    "CONNECT\naccept-version:1.2\nreceipt:r\n\n\0",
    "SUBSCRIBE\nid:x\nreceipt:r\n\n\0",
    "BEGIN\nreceipt:r\n\n\0",
    "COMMIT\ntransaction:never\nreceipt:r\n\n\0",
    "SEND\ndestination:/app\ntransaction:never\nreceipt:r\n\n\0",
    "NACK\nid:undefined\ntransaction:never\nreceipt:r\n\n\0",
    "ABORT\ntransaction:never\nreceipt:r\n\n\0",
    "NONSENSE\nreceipt:r\n\n\0",
    "SEND\nno colon\nreceipt:r\n\n\0",
    "SEND\ncontent-length:1\nreceipt:r\n\nab\0",
]


class Conversation(RuleBasedStateMachine):
    """A client writes frames; the model knows what each must lead to. When a connection ends, another one begins.

    The model has the mode of each subscription, the tokens that it waits for, in order, and what each open transaction
    holds: for each frame the function that says which event it will be.
    """

    def __init__(self) -> None:
        super().__init__()
        self.versions = cycle(VERSIONS)
        self.tokens = count(1)
        self.returned: set[int] = set()
        self.connect()

    def connect(self) -> None:
        version = next(self.versions)
        self.session = f"s-{version[2]}"
        self.server = Connection(self.session)
        self.client = stomp.Client(versions=[version])
        self.numbers = count(1)
        self.modes: dict[str, str] = {}
        self.waiting: dict[str, list[int]] = {}
        self.sent: list[tuple[stomp.Message, int]] = []
        self.held: dict[str, list[Callable[[], Event]]] = {}

        assert isinstance(self.tell(self.client.connect()), Connect)
        assert isinstance(self.hear(self.server.connected("alice")), stomp.Connected)
        assert self.server.version == self.client.version == version

    # ---- What a client does ----

    @rule(id=st.sampled_from(IDS), mode=MODES, receipt=RECEIPTS, again=RARELY)
    def subscribe(self, id: str, mode: Any, receipt: str | None, again: bool) -> None:
        frame = self.client.subscribe(f"/d/{id}", id=id, ack=mode, receipt=receipt)
        if id not in self.modes:
            event = self.tell(frame)
            assert isinstance(event, Subscribe)
            assert (event.id, event.destination, event.ack, event.receipt) == (id, f"/d/{id}", mode, receipt)
            self.modes[id] = mode
            self.waiting[id] = []
        elif again:
            self.is_refused(frame, receipt)

    @rule(id=st.sampled_from(IDS), receipt=RECEIPTS, really=SELDOM)
    def unsubscribe(self, id: str, receipt: str | None, really: bool) -> None:
        if not really:
            return
        assert self.tell(self.client.unsubscribe(id, receipt=receipt)) == Unsubscribe(id, receipt)
        with pytest.raises(LocalProtocolError):
            self.server.message(id, "", "{}", "token")
        self.modes.pop(id, None)
        self.waiting.pop(id, None)

    @rule(which=ANY, nack=st.booleans(), transaction=st.none() | ANY, receipt=RECEIPTS, seldom=SELDOM)
    def acknowledge(self, which: int, nack: bool, transaction: int | None, receipt: str | None, seldom: bool) -> None:
        if not any(self.waiting.values()):
            self.send_messages(IDS[which % len(IDS)], "client", ["", "", ""])
        waiting = [each for each in self.sent if each[1] in self.waiting.get(each[0].subscription, [])]
        message, token = self.any_of(waiting if waiting and not seldom else self.sent, which)
        wanted = self.wants_acknowledgements()

        def event() -> Event:
            tokens = self.settled(message.subscription, token) if wanted else []
            return (Nack if nack else Ack)(tokens, receipt)

        name = self.any_open(transaction)
        write = self.client.nack if nack else self.client.ack
        self.does(write(message, transaction=name, receipt=receipt), event, name)

    @rule(
        id=st.sampled_from(["undefined", "s-2-0", "s-1-999999", "s-3-1"]),
        transaction=st.none() | ANY,
        receipt=RECEIPTS,
        if_refused=RARELY,
    )
    def acknowledge_what_was_never_sent(
        self, id: str, transaction: int | None, receipt: str | None, if_refused: bool
    ) -> None:
        name = self.any_open(transaction)
        frame = self.client.ack(stomp.Message(id, "", "", id, {}, b""), transaction=name, receipt=receipt)
        if not self.wants_acknowledgements():
            self.does(frame, lambda: Ack([], receipt), name)
        elif if_refused:
            self.is_refused(frame, receipt)

    @rule(body=st.text("a\n€", min_size=1), transaction=st.none() | ANY, receipt=RECEIPTS)
    def send(self, body: str, transaction: int | None, receipt: str | None) -> None:
        name = self.any_open(transaction)
        headers = {"destination": "/app/x", "content-length": str(len(body.encode()))}
        headers |= {"transaction": name} if name else {}
        headers |= {"receipt": receipt} if receipt else {}
        frame = self.client.send("/app/x", body, transaction=name, receipt=receipt)
        self.does(frame, lambda: Send("/app/x", headers, body.encode(), receipt), name)

    @rule(id=st.sampled_from(TRANSACTIONS), receipt=RECEIPTS, again=RARELY)
    def begin(self, id: str, receipt: str | None, again: bool) -> None:
        frame = self.client.begin(id, receipt=receipt)
        if id not in self.held:
            assert self.tell(frame) == Begin(receipt)
            self.held[id] = []
        elif again:
            self.is_refused(frame, receipt)

    @precondition(lambda self: self.held)
    @rule(which=ANY, receipt=RECEIPTS)
    def commit(self, which: int, receipt: str | None) -> None:
        name = self.any_of(list(self.held), which)
        # What comes with COMMIT comes after it.
        self.server.receive_data(self.client.commit(name, receipt=receipt) + self.client.unsubscribe("none"))
        for expected in self.held.pop(name):
            self.happens(expected())
        self.happens(Commit(receipt))
        self.happens(Unsubscribe("none", None))
        assert self.server.next_event() is None

    @precondition(lambda self: self.held)
    @rule(which=ANY, receipt=RECEIPTS)
    def abort(self, which: int, receipt: str | None) -> None:
        name = self.any_of(list(self.held), which)
        assert self.tell(self.client.abort(name, receipt=receipt)) == Abort(receipt)
        del self.held[name]

    # ---- What the server does ----

    @rule(id=st.sampled_from(IDS), mode=MODES, bodies=st.lists(st.text("{}é\n", max_size=5), min_size=1, max_size=4))
    def send_messages(self, id: str, mode: Any, bodies: list[str]) -> None:
        if id not in self.modes:
            self.subscribe(id, mode, None, again=False)
        self.sent += [self.message(id, body) for body in bodies]

    def message(self, id: str, body: str) -> tuple[stomp.Message, int]:
        token = next(self.tokens)
        message = self.hear(self.server.message(id, "event:created\n", body, token))
        assert isinstance(message, stomp.Message)
        assert (message.subscription, message.destination, message.body) == (id, f"/d/{id}", body.encode())
        assert message.headers["event"] == "created"
        assert message.id == f"{self.session}-{next(self.numbers)}"
        assert message.ack == ("" if self.modes[id] == "auto" else message.id)
        if self.modes[id] != "auto":
            self.waiting[id].append(token)
        # Those of `auto` are acknowledged too, as old clients do.
        return structs.replace(message, ack=message.id), token

    # ---- How it ends ----

    # One rule for all of them, so that a conversation is long enough for something to have happened.
    @rule(end=st.sampled_from(["DISCONNECT", "ERROR", *BROKEN]), text=st.text("ab:\\\n "), really=RARELY)
    def end(self, end: str, text: str, really: bool) -> None:
        if not really:
            return
        if end == "DISCONNECT":
            assert self.tell(self.client.disconnect(receipt="r")) == Disconnect("r")
            assert self.hear(self.server.receipt("r")) == stomp.Receipt("r")
            self.is_over()
        elif end == "ERROR":
            assert isinstance(self.hear(self.server.error(text)), stomp.Error)
            self.is_over()
        else:
            self.is_refused(end, "r")

    # ---- What is always so ----

    @invariant()
    def what_waits_is_what_was_sent_and_not_acknowledged(self) -> None:
        for id, waiting in self.waiting.items():
            assert list(self.server.unacknowledged(id)) == waiting

    # ---- How they talk ----

    def any_of(self, them: list[Any], which: int) -> Any:
        return them[-1 - which % len(them)]

    def any_open(self, which: int | None) -> str | None:
        if which is None:
            return None
        if not self.held:
            self.begin(TRANSACTIONS[0], None, again=False)
        return self.any_of(list(self.held), which)

    def does(self, frame: str, event: Callable[[], Event], transaction: str | None) -> None:
        """The frame leads to this event: now, or at the COMMIT of its transaction."""
        self.say(frame)
        if transaction is None:
            self.happens(event())
        else:
            self.held[transaction].append(event)
        assert self.server.next_event() is None

    def happens(self, expected: Event) -> None:
        """The next event; its receipt can be answered; its tokens come back for the first time."""
        event = self.server.next_event()
        assert event == expected
        if isinstance(event, Ack | Nack):
            assert self.returned.isdisjoint(event.tokens)
            self.returned.update(event.tokens)
        receipt = getattr(event, "receipt", None)
        if receipt is not None:
            assert self.hear(self.server.receipt(receipt)) == stomp.Receipt(receipt)

    def say(self, frame: str) -> None:
        """The client sends a frame after some beats, cut in two."""
        octets = b"\n\r\n" + frame.encode()
        self.server.receive_data(octets[: len(octets) // 2])
        assert self.server.next_event() is None
        self.server.receive_data(octets[len(octets) // 2 :])

    def tell(self, frame: str) -> Event:
        """The client sends a frame: the one thing that happens."""
        self.say(frame)
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
        """Nothing is heard on this connection any more, and what was in a transaction never happens."""
        commits = "".join(self.client.commit(transaction) for transaction in self.held)
        self.server.receive_data(commits + "SUBSCRIBE\nid:late\ndestination:/d\n\n\0")
        assert self.server.next_event() is None
        self.connect()

    def wants_acknowledgements(self) -> bool:
        return not set(self.modes.values()) <= {"auto"}

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
TestConversation.settings = settings(max_examples=200, stateful_step_count=100, deadline=None)
