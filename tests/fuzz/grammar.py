"""What clients say: frames of STOMP and commands of plain JSON, valid ones, and ones that nearly are."""

from __future__ import annotations

import json
from random import Random

from tests.fuzz import tokens
from tests.fuzz.plan import Answer, AwaitTexts, Pause

NOTIFICATIONS, UNREAD = "/user/queue/notifications", "/user/queue/unread"
READ, TOKEN = "/app/notifications/read", "/app/token"

Words = bytes | Answer | AwaitTexts | Pause
"""A piece of a dialogue: octets of the protocol, or something else that the client does."""

SOURCES = [NOTIFICATIONS, UNREAD, "/topic/news.sport", "/topic/status", "/topic/news"]
BAD_SOURCES = [
    "",
    "/",
    "/topic/",
    "/topic/private",
    "/topic/news.#",
    "/topic/news.*",
    "/topic/a/b",
    "/topic/topic:x",
    "/topic/" + "n" * 249,
    "/topic/" + "n" * 250,
    "/topic/news.é",
    "/topic/news.\\c",
    "/user/fuzz-1/queue/notifications",
    "/user/queue/notifications ",
    "/USER/queue/notifications",
    "user/queue/unread",
    READ,
    TOKEN,
    "/queue/x",
    "/user/queue/notifications\\n",
    "😀",
    "/topic/news.\u2028",
    "/topic/news.\x01",
    "/user/queue/unread?x=1",
    "/topic/news." + "é" * 200,
]
IDS = ["1", "2", "sub-0", "s:1", "😀", "x" * 200, "a b", "\\c", "undefined"]
TRANSACTIONS = ["t1", "t2", "t:3", "ключ", "", "x" * 500]
BEATS = ["0,0", "10000,10000", "0,10000", "1,1", "1000,0", "4294967295,4294967295", "9999999999,9999999999"]
BAD_BEATS = [
    "",
    "a,b",
    "-1,0",
    "٥,٥",
    "1, 2",
    "1,2,3",
    "1e3,0",
    "0" * 11 + ",0",
    ",",
    "0",
    "1_0,0",
    "+1,0",
    "\u00b2,0",
    "NaN,0",
]
ACCEPTED = ["1.2", "1.1,1.2", "1.0,1.1,1.2", "1.0", " 1.2 , 1.1", "1.1"]
BAD_ACCEPTED = ["", "2.0", "1.3,9", ",", "1.2;1.1", "١.٢", "1.2" * 1000, "1.2,1.2,1.2"]
ODD = [
    "",
    " ",
    "0",
    "x" * 300,
    "x" * 8150,
    "é",
    "😀" * 50,
    "a:b",
    "a\\cb",
    "a\\\\b",
    "a\\nb",
    "a\\rb",
    "a\\tb",
    "\\",
    "-1",
    "٣",
    "\x01",
    "\x7f",
    "\u2028",
    "null",
    "true",
    "__proto__",
]


def command(name: str, headers: dict[str, str], body: bytes = b"", end: bytes = b"\0") -> bytes:
    lines = "".join(f"{header}:{value}\n" for header, value in headers.items())
    return f"{name}\n{lines}\n".encode("utf-8", "surrogatepass") + body + end


class Stomp:
    """One client's side of a dialogue. `oddity` is how often what it says is not quite right."""

    def __init__(self, r: Random, user: str, oddity: float, now: int) -> None:
        self._r = r
        self._user = user
        self._oddity = oddity
        self._now = now
        self._receipts = 0
        self._open: list[str] = []
        """Tracks the transactions that were begun."""
        self._subscribed: list[str] = []

    def dialogue(self, frames: int) -> list[Words]:
        """From CONNECT, with a token in it, to the end, which may be DISCONNECT."""
        words: list[Words] = [self.connect(), AwaitTexts(1, 2.0)]
        for _ in range(frames):
            words += self._something()
        if self._r.random() < 0.4:
            words.append(self.frame("DISCONNECT", {}))
        return words

    def connect(self, with_token: bool = True) -> bytes:
        headers = {"accept-version": self._pick(ACCEPTED, BAD_ACCEPTED), "host": "-"}
        if self._r.random() < 0.5:
            headers["heart-beat"] = self._pick(BEATS, BAD_BEATS)
        if with_token:
            name = self._r.choice(["Authorization", "authorization", "AUTHORIZATION"])
            token = tokens.bad(self._r, self._now) if self._is_odd() else tokens.good(self._user)
            headers[name] = f"{self._pick(['Bearer'], ['Basic', '', 'bearer  '])} {token}"
        return self.frame(self._r.choice(["CONNECT", "STOMP"]), headers, receipts=False)

    def frame(self, name: str, headers: dict[str, str], body: bytes = b"", receipts: bool = True) -> bytes:
        r = self._r
        if receipts and r.random() < 0.4:
            self._receipts += 1
            headers["receipt"] = self._pick([f"r-{self._receipts}"], ODD)
        if self._is_odd():
            headers[r.choice([*headers, "extra", "transaction", "content-length", "é"])] = r.choice(ODD)
        if (body and r.random() < 0.6) or self._is_odd():
            headers["content-length"] = str(
                max(0, len(body) + (r.choice([-1, 1, 100, 10**9]) if self._is_odd() else 0))
            )
        if self._is_odd():
            headers = dict(r.sample([*headers.items()], len(headers)))
        if self._is_odd():
            name = r.choice(
                [name.lower(), name + " ", "MESSAGE", "RECEIPT", "CONNECTED", "", "GET / HTTP/1.1", "É", name * 500]
            )
        written = command(name, headers, body, b"" if self._is_odd() and r.random() < 0.3 else b"\0")
        return written + r.choice([b"", b"", b"\n", b"\r\n\n"])

    def _something(self) -> list[Words]:
        r = self._r
        kind = r.choices(
            ["subscribe", "unsubscribe", "answer", "ack", "read", "token", "begin", "end", "pause", "beat"],
            [6 if not self._subscribed else 2, 1, 4, 1, 4, 1, 1, 1 + len(self._open), 2, 1],
        )[0]
        match kind:
            case "subscribe":
                return [self._subscribe(), AwaitTexts(1, 0.3)]
            case "unsubscribe":
                return [self.frame("UNSUBSCRIBE", {"id": self._pick(self._subscribed[-3:] or ["1"], IDS)})]
            case "answer":
                return [AwaitTexts(r.choice([1, 5]), 0.5), self._answer()]
            case "ack":
                name = r.choice(["id", "message-id"])
                return [self.frame(r.choice(["ACK", "NACK"]), {name: self._pick(["undefined"], ODD)})]
            case "read":
                return [
                    self.frame(
                        "SEND", self._within({"destination": self._pick([READ], BAD_SOURCES)}), read(r, self._is_odd())
                    )
                ]
            case "token":
                return [self.frame("SEND", self._within({"destination": TOKEN}), self._renewal())]
            case "begin":
                self._open.append(self._pick(TRANSACTIONS[:2], TRANSACTIONS))
                return [self.frame("BEGIN", {"transaction": self._open[-1]})]
            case "end":
                name = self._open.pop(r.randrange(len(self._open))) if self._open else self._pick(["t1"], ODD)
                return [self.frame(r.choice(["COMMIT", "ABORT"]), {"transaction": name})]
            case "beat":
                return [r.choice([b"\n", b"\r\n", b"\n\r\n\n"])]
        return [Pause(r.choice([0.0, 0.05, 0.5]))]

    def _subscribe(self) -> bytes:
        headers = {"id": f"sub-{len(self._subscribed)}", "destination": self._pick(SOURCES, BAD_SOURCES)}
        if self._is_odd():
            headers["id"] = self._r.choice(IDS)
        self._subscribed.append(headers["id"])
        if self._r.random() < 0.8:
            headers["ack"] = self._pick(["auto", "client", "client-individual"], ["", "Client", "none", "😀"])
        return self.frame("SUBSCRIBE", headers)

    def _answer(self) -> Answer:
        """For what came: with both names of the id, and what else may stand in it."""
        headers = self._within({"id": "%b", "message-id": "%b"})
        if self._r.random() < 0.3:
            headers["receipt"] = "a"
        return Answer(command(self._r.choice(["ACK", "ACK", "ACK", "NACK"]), headers), self._r.choice([1, 3, 200]))

    def _within(self, headers: dict[str, str]) -> dict[str, str]:
        """A transaction that is open, now and then."""
        if self._open and self._r.random() < 0.5:
            headers["transaction"] = self._r.choice(self._open)
        return headers

    def _renewal(self) -> bytes:
        if self._is_odd():
            return tokens.bad(self._r, self._now).encode("utf-8", "surrogatepass")
        return tokens.good(self._user if not self._is_odd() else self._r.choice(tokens.USERS)).encode()

    def _is_odd(self) -> bool:
        return self._r.random() < self._oddity

    def _pick(self, right: list[str], wrong: list[str]) -> str:
        return self._r.choice(wrong if self._is_odd() else right)


READS: list[object] = [
    {},
    [],
    "",
    None,
    True,
    {"all": False},
    {"all": 1},
    {"all": "true"},
    {"ids": "1"},
    {"ids": ["1"]},
    {"ids": [0]},
    {"ids": [-1]},
    {"ids": [2**53]},
    {"ids": [2**63]},
    {"ids": [10**400]},
    {"ids": [1.5]},
    {"ids": [1e3]},
    {"ids": [[1]]},
    {"ids": None},
    {"ids": [*range(1, 1002)]},
    {"ids": [1], "all": True},
    {"ids": [], "x": 1},
    {"ids": [True]},
    {"ids": {"1": 1}},
    [1, 2, 3],
]
RAW_READS = [
    b"",
    b"{",
    b"NaN",
    b'{"ids":[NaN]}',
    b'{"ids":[1e999]}',
    b'{"ids":[1],"ids":[2]}',
    b'{"all":true}{"all":true}',
    b"\xff\xfe",
    b'{"ids":[\xd9\xa3]}',
    b"[" * 30_000,
    b'{"a":' * 6000,
    b'{"ids":' + b"[" * 20_000,
    b'{"all":true}\n',
    b'\xef\xbb\xbf{"all":true}',
    b'{"ids":[00001]}',
    b'{"ids":[1,]}',
    b'{"\\u0061ll":true}',
    b'{"ids":[' + b"9" * 30_000 + b"]}",
    b'"' + b"\\ud800" * 4000 + b'"',
]


def read(r: Random, is_odd: bool) -> bytes:
    """The body of a message to READ."""
    if is_odd:
        return r.choice(RAW_READS) if r.random() < 0.4 else json.dumps(r.choice(READS)).encode()
    if r.random() < 0.3:
        return b'{"all":true}'
    return json.dumps({"ids": [r.randint(1, 5000) for _ in range(r.choice([1, 1, 3, 1000]))]}).encode()


def json_command(r: Random, user: str, oddity: float, now: int) -> bytes:
    """One message of a session of plain JSON."""
    is_odd = r.random() < oddity
    if is_odd and r.random() < 0.5:
        return r.choice(RAW_READS + [json.dumps(each).encode() for each in READS])
    kind = r.choice(["ack", "read", "read", "token", "ping"])
    said: dict[str, object] = {"type": kind}
    if kind == "ack":
        said["id"] = r.randint(1, 5000)
    elif kind == "read":
        said |= (
            {"all": True} if r.random() < 0.4 else {"ids": [r.randint(1, 5000) for _ in range(r.choice([0, 1, 1000]))]}
        )
    elif kind == "token":
        said["token"] = tokens.bad(r, now) if is_odd else tokens.good(user)
    if r.random() < 0.5:
        said["receipt"] = r.choice(
            ["x", "é", "y" * 256, "\u2028", "\0", '"'] + ([5, "", "z" * 257, None, []] if is_odd else [])
        )
    if is_odd and r.random() < 0.7:
        said[r.choice([*said, "unknown", "event"])] = r.choice(
            [None, 1, 1e308, [], {}, "", True, 10**400, "x" * 20_000]
        )
    return json.dumps(said, ensure_ascii=r.random() < 0.5).encode("utf-8", "surrogatepass")
