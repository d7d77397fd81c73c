"""Ways to attack: each makes a plan out of chance alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from random import Random
from urllib.parse import quote

from tests.fuzz import broken, grammar, tokens
from tests.fuzz.broken import GET, GET_CHUNKED
from tests.fuzz.grammar import Stomp, Words, command
from tests.fuzz.mutation import damage, pieces
from tests.fuzz.plan import (
    Answer,
    AwaitHead,
    AwaitTexts,
    Deafness,
    Farewell,
    Linger,
    Pause,
    Plan,
    Reset,
    Send,
    ShutDown,
    Step,
)
from tests.fuzz.wire import BINARY, CONTINUATION, PING, TEXT, frame, upgrade

SUBPROTOCOLS = [
    (),
    (),
    ("Sec-WebSocket-Protocol: v12.stomp",),
    ("Sec-WebSocket-Protocol: v10.stomp, v11.stomp",),
    ("Sec-WebSocket-Protocol: v11.stomp", "Sec-WebSocket-Protocol: v12.stomp"),
    ("Sec-WebSocket-Protocol: mqtt",),
    ("Sec-WebSocket-Protocol: ,, v12.stomp",),
]
SILENCE = 16.0
"""Seconds: a connection that owes a head, or CONNECT, is cut after ten; the look at all of them comes every second, and
the machine is busy."""
UNANSWERED_CLOSE = 25.0
"""Seconds in which a connection is to be gone whose client does not answer the close frame."""


def plan(seed: int, targets: int, now: int | None = None) -> Plan:
    """The plan of this seed: always the same, but for the times in tokens, which are about `now`."""
    r = Random(seed)
    attack = r.choices([*_ATTACKS], [weight for _, weight in _ATTACKS.values()])[0]
    made = Plan(seed, attack, r.randrange(targets), int(time.time()) if now is None else now)
    _ATTACKS[attack][0](r, made)
    return made


# Dialogues.


def _valid_stomp(r: Random, made: Plan) -> None:
    _stomp(r, made, oddity=0.0)


def _nearly_valid_stomp(r: Random, made: Plan) -> None:
    _stomp(r, made, oddity=r.choice([0.005, 0.02, 0.1]))


def _damaged_stomp(r: Random, made: Plan) -> None:
    """Right until somewhere, so that it gets deep."""
    client = _client(r, made, 0.0)
    words = client.dialogue(r.choice([3, 10, 30]))
    said = [at for at, each in enumerate(words) if isinstance(each, bytes)]
    for at in r.sample(said, min(len(said), r.choice([1, 1, 2]))):
        words[at] = damage(r, bytes(words[at]))  # type: ignore[arg-type]
    _say(r, made, words)


def _stomp(r: Random, made: Plan, oddity: float) -> None:
    client = _client(r, made, oddity)
    _say(r, made, client.dialogue(r.choice([1, 5, 20, 60])))


def _client(r: Random, made: Plan, oddity: float) -> Stomp:
    made.user = r.choice(tokens.USERS)
    path = r.choice(["/ws", "/ws", "/stomp", "/ws/websocket"])
    made.steps += [Send(upgrade(path, *r.choice(SUBPROTOCOLS))), AwaitHead()]
    return Stomp(r, made.user, oddity, made.now)


def _say(r: Random, made: Plan, words: Iterable[Words]) -> None:
    """In WebSocket messages that are frames of STOMP, or parts of them, or several."""
    gathered = b""
    splits = r.random() < 0.5
    for each in words:
        if isinstance(each, bytes):
            gathered += each
            if splits and r.random() < 0.4:
                continue
        for part in pieces(r, gathered) if splits else [gathered]:
            if part:
                made.steps += _message(r, part)
        gathered = b""
        if not isinstance(each, bytes):
            made.steps.append(each)
    made.steps += _message(r, gathered) if gathered else []
    _end(r, made)


def _message(r: Random, data: bytes) -> Iterator[Step]:
    """One WebSocket message, in fragments now and then, which arrive in pieces now and then."""
    kind = BINARY if r.random() < 0.3 or not _is_text(data) else TEXT
    if r.random() < 0.85:
        octets = frame(kind, data, mask=r.randbytes(4))
    else:
        parts = [*pieces(r, data)]
        octets = b""
        for at, part in enumerate(parts):
            octets += frame(kind if at == 0 else CONTINUATION, part, fin=at == len(parts) - 1)
            octets += frame(PING, b"p") if r.random() < 0.1 else b""
    if r.random() < 0.9:
        yield Send(octets)
    else:
        yield from (Send(part) for part in pieces(r, octets) if part)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _end(r: Random, made: Plan) -> None:
    """How the client leaves: most ways are rude."""
    made.steps += r.choice(
        [
            [Farewell()],
            [Farewell()],
            [Linger(1.0)],
            [],
            [Reset()],
            [ShutDown(socket.SHUT_WR), Linger(2.0)],
            [Pause(0.2)],
        ]
    )
    if any(isinstance(step, ShutDown) for step in made.steps):
        made.keeps_websocket = False


def _json(r: Random, made: Plan) -> None:
    _json_session(r, made, oddity=0.0 if r.random() < 0.4 else 0.1)


def _json_session(r: Random, made: Plan, oddity: float) -> None:
    made.user, made.json = r.choice(tokens.USERS), True
    name, ack = r.choice(["token", "access_token"]), r.choice(["", "&ack=client", "&ack=auto"])
    made.steps += [Send(upgrade(f"/ws?{name}={tokens.good(made.user)}{ack}")), AwaitHead(), AwaitTexts(3, 0.5)]
    for _ in range(r.choice([1, 5, 30])):
        said = grammar.json_command(r, made.user, oddity, made.now)
        if oddity and r.random() < 0.05:
            said = damage(r, said)
        made.steps += _message(r, said)
        if r.random() < 0.3:
            made.steps += [AwaitTexts(1, 0.3), Answer(b'{"type":"ack","id":%b,"receipt":"a"}', r.choice([1, 100]))]
    _end(r, made)


# Sizes and numbers.


def _limits(r: Random, made: Plan) -> None:
    """One frame that is as large as may be, or a little larger."""
    client = _client(r, made, 0.0)
    made.steps += [Send(frame(TEXT, client.connect())), AwaitTexts(1, 2.0)]
    near = r.choice([-2, -1, 0, 1, 2, 1000])
    send = {"destination": grammar.READ}
    head = len(command("SEND", send))
    big = r.choice(
        [
            command("SEND", send, b" " * (32 * 1024 + near)),
            command("SEND", {**send, "content-length": str(32 * 1024 + near)}, b" " * (32 * 1024 + near)),
            command("SEND", send, b" " * (64 * 1024 + near - head)),
            command("BEGIN", {"transaction": "x" * (8192 - 12 + near)}),
            command("BEGIN", {"transaction": "é" * (8192 - 12 + near)}),
            command("BEGIN", {"transaction": "t", **{f"h{n}": "v" for n in range(63 + near % 100)}}),
            command("BEGIN", {"transaction": "t", **{f"h{n}": "v" * 1000 for n in range(64 + near % 9)}}),
            b"\n" * (64 * 1024 + near),
            b"x" * (64 * 1024 + near),
            command(
                "SUBSCRIBE", {"id": "i" * (8000 + near), "destination": grammar.NOTIFICATIONS, "receipt": "r" * 8000}
            ),
        ]
    )
    parts = [big] if r.random() < 0.5 else [*pieces(r, big)]
    made.steps += [Send(frame(r.choice([TEXT, BINARY]), part)) for part in parts if _is_text(part)]
    _end(r, made)


def _many(r: Random, made: Plan) -> None:
    """Thousands of small frames at once, in one message or in many."""
    client = _client(r, made, 0.0)
    made.steps += [Send(frame(TEXT, client.connect())), AwaitTexts(1, 2.0)]
    subscribe = command(
        "SUBSCRIBE", {"id": "%d", "destination": r.choice(grammar.SOURCES), "receipt": "%d", "ack": "client"}
    )
    several = r.choice(
        [
            b"\n",
            command("ACK", {"id": "undefined"}),
            command("ACK", {"id": "undefined", "receipt": "%d"}),
            command("BEGIN", {"transaction": "%d"}),
            command("BEGIN", {"transaction": "t"}) + command("ABORT", {"transaction": "t", "receipt": "%d"}),
            subscribe,
            subscribe + command("UNSUBSCRIBE", {"id": "%d", "receipt": "%d"}),
            command("SEND", {"destination": grammar.READ, "receipt": "%d"}, b'{"ids":[%d]}'),
            command("SEND", {"destination": grammar.READ}, b'{"ids":[1,2,3]}'),
            command("SEND", {"destination": grammar.TOKEN}, tokens.good(str(made.user)).encode()),
            command("BEGIN", {"transaction": "t"})
            + command("SEND", {"destination": grammar.READ, "transaction": "t"}, b'{"ids":[%d]}') * 20
            + command("COMMIT", {"transaction": "t", "receipt": "%d"}),
        ]
    )
    data = b"".join(several.replace(b"%d", b"%d" % number) for number in range(1, r.choice([30, 300, 3000])))
    size = r.choice([100, 4000, 60_000])
    made.steps += [Send(frame(BINARY, data[at : at + size])) for at in range(0, min(len(data), 1_000_000), size)]
    if r.random() < 0.3:
        made.steps.append(Deafness(r.choice([0.5, 3.0])))
        made.keeps_websocket = False
    _end(r, made)


# Tokens.


def _tokens(r: Random, made: Plan) -> None:
    """At the handshake, in its query or its header, or in CONNECT, or in both, or later."""
    bad = tokens.bad(r, made.now)
    kind = r.randrange(5)
    if kind == 0:
        made.steps += [
            Send(upgrade(f"{r.choice(['/ws', '/stomp'])}?{r.choice(['token', 'access_token'])}={quote(bad)}"))
        ]
    elif kind == 1:
        made.steps += [
            Send(upgrade("/stomp", f"Authorization: {r.choice(['Bearer ', 'bearer  ', 'Basic ', ''])}{bad}"))
        ]
    elif kind == 2:
        made.steps += [Send(upgrade("/stomp")), AwaitHead()]
        headers = {"accept-version": "1.2", "Authorization": f"Bearer {bad}"}
        made.steps.append(Send(frame(TEXT, command("CONNECT", {} if r.random() < 0.1 else headers))))
    elif kind == 3:
        made.user = r.choice(tokens.USERS)
        made.steps += [Send(upgrade(f"/stomp?token={tokens.good(made.user)}")), AwaitHead()]
        another = tokens.good(r.choice(tokens.USERS))
        headers = {"accept-version": "1.1", "Authorization": f"Bearer {another if r.random() < 0.5 else bad}"}
        made.steps.append(Send(frame(TEXT, command("CONNECT", headers))))
    else:
        made.user, made.json = r.choice(tokens.USERS), True
        made.steps += [Send(upgrade(f"/ws?token={tokens.good(made.user)}")), AwaitHead(), AwaitTexts(1, 1.0)]
        made.steps.append(Send(frame(TEXT, b'{"type":"token","token":"%s"}' % bad.encode("utf-8", "replace"))))
    made.steps += [AwaitHead(), Pause(r.choice([0.0, 0.3]))]


def _expiring(r: Random, made: Plan) -> None:
    """A token that ends within the session: leeway is five seconds."""
    made.user, made.json = r.choice(tokens.USERS), r.random() < 0.5
    token = tokens.good(made.user, made.now + r.choice([-4, -3]))
    made.steps.append(Send(upgrade(f"{'/ws' if made.json else '/stomp'}?token={token}")))
    made.steps.append(AwaitHead())
    if not made.json:
        made.steps += [Send(frame(TEXT, command("CONNECT", {"accept-version": "1.2"}))), AwaitTexts(1, 1.0)]
        made.steps.append(Send(frame(TEXT, command("SUBSCRIBE", {"id": "1", "destination": grammar.NOTIFICATIONS}))))
    made.steps.append(Linger(8.0))


# The WebSocket's own layer.


def _broken_websocket(r: Random, made: Plan) -> None:
    client = _client(r, made, 0.0)
    made.keeps_websocket = False
    made.answers_close = r.random() < 0.5
    if r.random() < 0.6:
        made.steps += [Send(frame(TEXT, client.connect())), AwaitTexts(1, 1.0)]
        if r.random() < 0.5:
            made.steps += [Send(frame(TEXT, command("SUBSCRIBE", {"id": "1", "destination": grammar.NOTIFICATIONS})))]
    whole = frame(TEXT, command("ACK", {"id": "undefined"}))
    made.steps += r.choice(broken.websocket(r, whole))
    if r.random() < 0.2:
        made.steps.append(Send(whole * 10))
    made.steps += r.choice([[Pause(0.2)], [Linger(3.0)], [Reset()], [ShutDown(socket.SHUT_WR), Linger(3.0)], []])


def _unanswered_close(r: Random, made: Plan) -> None:
    """The gateway says goodbye, and the client neither answers nor goes."""
    _client(r, made, 0.0)
    made.steps += [Send(frame(TEXT, r.choice([b"NOTHING\n\n\0", b"CONNECT\n\n\0", b"x" * 70_000, b"CONNECT\n\n"])))]
    made.steps.append(Linger(UNANSWERED_CLOSE + 1))
    made.answers_close, made.keeps_websocket, made.ended_within = False, False, UNANSWERED_CLOSE


# HTTP.


def _http(r: Random, made: Plan) -> None:
    made.keeps_websocket = False
    made.user, made.json = "fuzz-0", None
    head = r.choice(broken.http(r, tokens.good("fuzz-0")))
    if r.random() < 0.3:
        head = damage(r, head)
    if r.random() < 0.2:
        head = head[: r.randint(0, len(head))]
    made.steps += [Send(part) for part in pieces(r, head)] if r.random() < 0.3 else [Send(head)]
    made.steps += r.choice(
        [[AwaitHead(0.5)], [], [Reset()], [ShutDown(socket.SHUT_WR), Linger(1.0)], [AwaitHead(0.5), Send(GET)]]
    )


def _silent(r: Random, made: Plan) -> None:
    """Connect, say half a word or none, and wait to be thrown out."""
    made.keeps_websocket = False
    half = upgrade("/ws")[: r.randrange(1, 150)]
    whole = upgrade("/ws")
    said = r.choice(
        [b"", half, GET, GET + half, GET_CHUNKED, whole, whole + frame(TEXT, b"CONNECT\n")[:9], b"\r\n" * 3]
    )
    made.steps += [Send(said)] if said else []
    if said.startswith(GET[:9]):
        made.steps.append(Pause(0.1))
        made.steps += [Send(r.choice([b"\r\n", b"5\r\n", b"0\r\na:"]))] if r.random() < 0.5 else []
    made.steps.append(Linger(SILENCE + 1))
    made.ended_within = SILENCE


# TCP.


def _slow_reader(r: Random, made: Plan) -> None:
    """Subscribes several times, does not read for a while, and may come back."""
    client = _client(r, made, 0.0)
    made.keeps_websocket = False
    made.steps += [Send(frame(TEXT, client.connect())), AwaitTexts(1, 1.0)]
    for number in range(r.choice([1, 8, 30])):
        headers = {
            "id": str(number),
            "destination": r.choice(grammar.SOURCES),
            "ack": r.choice(["auto", "client"]),
            "receipt": "s",
        }
        made.steps.append(Send(frame(TEXT, command("SUBSCRIBE", headers))))
    for _ in range(r.choice([1, 3])):
        made.steps.append(Deafness(r.choice([0.3, 2.0, 7.0])))
        made.steps += [AwaitTexts(20, 0.3), Answer(command("ACK", {"id": "%b"}), 500)]
    _end(r, made)


def _abandoned(r: Random, made: Plan) -> None:
    """A dialogue that ends by RST, FIN or silence after any of its octets."""
    _stomp(r, made, 0.0)
    made.steps = made.steps[: r.randint(0, len(made.steps))]
    if made.steps and isinstance(last := made.steps[-1], Send):
        made.steps[-1] = Send(last.data[: r.randint(0, len(last.data))])
    made.steps += r.choice(
        [[Reset()], [Reset()], [ShutDown(socket.SHUT_WR), Linger(1.0)], [ShutDown(socket.SHUT_RD)], [Pause(1.0)]]
    )
    made.keeps_websocket = False


_ATTACKS: dict[str, tuple[Callable[[Random, Plan], None], int]] = {
    "valid STOMP": (_valid_stomp, 12),
    "nearly valid STOMP": (_nearly_valid_stomp, 15),
    "damaged STOMP": (_damaged_stomp, 15),
    "plain JSON": (_json, 12),
    "sizes at the limits": (_limits, 5),
    "many small frames": (_many, 5),
    "tokens": (_tokens, 10),
    "expiring token": (_expiring, 1),
    "broken WebSocket": (_broken_websocket, 12),
    "close that is not answered": (_unanswered_close, 1),
    "HTTP": (_http, 12),
    "silence": (_silent, 1),
    "slow reader": (_slow_reader, 3),
    "abandoned": (_abandoned, 8),
}
"""Attack → what plans it, and how often it is chosen."""
