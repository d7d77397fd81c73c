"""What one connection is going to do: a list of steps, complete before it begins, so that it can be done again."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Send:
    """These octets, as they are."""

    data: bytes


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class AwaitHead:
    """Until the handshake is answered."""

    within: float = 5.0


@dataclass(frozen=True)
class AwaitTexts:
    """Until the gateway has sent so many text messages more, or `within` is over."""

    count: int = 1
    within: float = 1.0


@dataclass(frozen=True)
class Answer:
    """One WebSocket message for each of the last `most` that came and were not answered: `%b` is its id."""

    template: bytes
    most: int = 50


@dataclass(frozen=True)
class Deafness:
    """Read nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class ShutDown:
    """One direction of the TCP connection: socket.SHUT_RD or SHUT_WR."""

    direction: int


@dataclass(frozen=True)
class Reset:
    """The connection ends with a RST."""


@dataclass(frozen=True)
class Farewell:
    """A close frame, and what the gateway says to it."""

    within: float = 5.0


@dataclass(frozen=True)
class Linger:
    """Read on, until the gateway ends the connection."""

    seconds: float


Step = Send | Pause | AwaitHead | AwaitTexts | Answer | Deafness | ShutDown | Reset | Farewell | Linger


@dataclass
class Plan:
    seed: int
    attack: str
    target: int
    """Which of the gateways."""
    now: int = 0
    """Seconds since the epoch, for the tokens."""
    steps: list[Step] = field(default_factory=list)
    user: str | None = None
    """Whose rows may come; None: nobody's."""
    json: bool | None = False
    """Is it a session of plain JSON? None: it may become one."""
    keeps_websocket: bool = True
    """Does the client keep to RFC 6455 and to TCP, and read? Then the gateway must not end without a close frame."""
    answers_close: bool = True
    """Does the client answer a close frame?"""
    ended_within: float | None = None
    """Seconds within which the gateway must have ended the connection by itself; None: it need not."""

    def __str__(self) -> str:
        lines = [f"    {step!r}," for step in self.steps]
        facts = {name: value for name, value in vars(self).items() if name not in ("steps", "seed", "attack", "target")}
        return "\n".join([f"# {self.attack} on gateway {self.target}, --replay {self.seed}; {facts}", "[", *lines, "]"])
