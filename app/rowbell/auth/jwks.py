"""The issuer's list of public keys (JWKS): read, kept, and read again.

    what happens                            what follows
    --------------------------------------  ------------------------------------------------------------------------
    it was read                             its keys, and only they, are good; read again after REFRESH_SECONDS
    a token comes that none of them made    it is read again, but not within COOLDOWN seconds of the last time, by
                                            whomever that was asked: strangers' tokens cannot make us press the issuer
    it cannot be read, or is no such list   the keys of the last time stay good; it is tried again with back-off

All state lives on the event loop and changes between two instructions. Only the reading, which blocks, is done by a
thread, one at a time.

Source: RFC 7517, 5 (JWK Set)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from rowbell.auth.keys import SECRET_BYTES, Key, listed_key
from rowbell.auth.strict_json import read_object
from rowbell.backoff import backoff
from rowbell.logs import get_logger

log = get_logger("auth.jwks")

REFRESH_SECONDS = 300.0
"""Seconds until it is read again: how long a key that is no longer listed stays good."""
COOLDOWN = 5.0
"""Seconds from one reading that was asked for to the next."""
RETRY_FIRST, RETRY_CAP = 1.0, 30.0
"""Seconds of back-off while it cannot be read."""
ATTEMPT = 15.0
"""Seconds after which a reading counts as failed, whatever its thread still waits for."""

MAX_KEYS = 64
"""Real lists have 2 to 20."""
MAX_TRIED = 8
"""Keys that one token is tried with, where no name says which: a signature of P-384 costs 0.7 ms of the event loop."""
MAX_WAITING = 1000
"""Clients that wait for a reading at once; a token costs nothing to make, and each of them holds a connection."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What one reading found: keys that can be used, and why others cannot."""

    keys: tuple[Key, ...]
    complaints: tuple[str, ...] = ()
    by_kid: dict[str | None, list[Key]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for key in self.keys:
            self.by_kid.setdefault(key.kid, []).append(key)

    def candidates(self, kid: str | None) -> Collection[Key]:
        """The keys of this name; if there is none, those without a name. Any may have made a token without `kid`.

        At most MAX_TRIED, the first of the list.
        """
        if kid is None:
            return self.keys[:MAX_TRIED]
        return self.by_kid.get(kid, self.by_kid.get(None, []))[:MAX_TRIED]


def read_listing(document: bytes, allowed: Collection[str]) -> Listing:
    """The keys that a JWKS lists for the `allowed` algorithms. ValueError if it is none.

    Entries that cannot be used are left out, with a complaint: RFC 7517, 5. A list without keys is one, too: then
    no token is good.
    """
    entries = read_object(document).get("keys")
    if not isinstance(entries, list):
        raise ValueError("it has no list `keys`")
    if len(entries) > MAX_KEYS:
        raise ValueError(f"it lists more than {MAX_KEYS} keys")
    keys, complaints = [], []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(listed_key(entry, allowed))
        except ValueError as problem:
            complaints.append(f"entry {number}: {problem}")
    return Listing(tuple(keys), tuple(complaints))


class Jwks:
    """The list in one place. `run` keeps it fresh; without that, what `load` read stays."""

    def __init__(
        self,
        read: Callable[[], bytes],
        place: str,
        allowed: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` gives the document, may block, and raises OSError; `place` says in logs where it is."""
        self._read = read
        self._place = place
        self.algorithms = frozenset(allowed) - SECRET_BYTES.keys()
        """What its keys may be used with."""
        self._clock = clock
        self._listing: Listing | None = None
        """Tracks what was read last. None: nothing yet."""
        self._complaints: tuple[str, ...] = ()
        """Tracks which complaints are in the log already."""
        self._failure: str | None = None
        """Tracks why it cannot be read at present."""
        self._delays = backoff(RETRY_FIRST, RETRY_CAP)
        self._begun = 0
        """Counts the attempts to read it."""
        self._succeeded = 0
        """Tracks the number of the last attempt that did."""
        self._begun_at = float("-inf")
        self._next_at = float("-inf")
        """Track, by the clock, when the last attempt began and when the next is due by itself."""
        self._is_reading = False
        self._asked = False
        """Tracks whether somebody wants it to be read again before."""
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        """Set, and replaced by another one, when an attempt ends."""
        self._waiting = 0
        self._reading: Future[Listing] | None = None
        """Tracks the thread's work; it may outlast an attempt that was given up."""

    @property
    def is_loaded(self) -> bool:
        return self._listing is not None

    # Asking.

    def candidates(self, kid: str | None) -> Collection[Key]:
        """The keys that may have made a token with this `kid`."""
        return () if self._listing is None else self._listing.candidates(kid)

    def lists(self, kid: str | None) -> bool:
        """Is there a key of this name? A token without one could be of a key that is not listed yet."""
        return kid is not None and self._listing is not None and kid in self._listing.by_kid

    def ask(self) -> None:
        """Have it read again soon; never waits."""
        self._asked = True
        self._wake.set()

    async def renewed(self, within: float) -> bool:
        """Have it read again, and wait for that for at most so many seconds.

        True if a reading that began after this call succeeded: what is not in the list now is unknown to the issuer.
        False if that is not said: it was not allowed so soon, took longer, or failed; or another reading ended, which
        had begun before.
        """
        self.ask()
        begun, ended = self._begun, self._ended
        is_soon = self._is_reading or self._begun_at + COOLDOWN - self._clock() <= within
        if not is_soon or self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            async with asyncio.timeout(within):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return self._succeeded > begun

    # Reading.

    def load(self) -> None:
        """Read it now, blocking, before anything else runs. OSError or ValueError if it cannot be read."""
        self._begun_at = self._clock()
        self._take(read_listing(self._read(), self.algorithms))

    async def run(self) -> None:
        """Read it, again and again. No failure of the issuer ends it."""
        while True:
            self._wake.clear()
            due = min(self._next_at, self._begun_at + COOLDOWN) if self._asked else self._next_at
            if (delay := due - self._clock()) <= 0:
                await self._attempt()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()

    async def _attempt(self) -> None:
        self._begun += 1
        self._begun_at, self._is_reading, self._asked = self._clock(), True, False
        try:
            self._take(await self._read_in_thread())
            self._succeeded = self._begun
        except (OSError, ValueError) as problem:
            self._fail(str(problem))
        self._is_reading = False
        self._ended.set()
        self._ended = asyncio.Event()

    async def _read_in_thread(self) -> Listing:
        """In a thread that nobody waits for when the process stops, as those of asyncio.to_thread are."""
        if self._reading is not None and not self._reading.done():
            raise OSError("the attempt before still hangs")
        reading = self._reading = Future[Listing]()
        reading.set_running_or_notify_cancel()  # from here on nobody can cancel it: the thread will set a result

        def work() -> None:
            try:
                reading.set_result(read_listing(self._read(), self.algorithms))
            except BaseException as error:
                reading.set_exception(error)

        threading.Thread(target=work, name="jwks", daemon=True).start()
        try:
            async with asyncio.timeout(ATTEMPT):
                return await asyncio.wrap_future(reading)
        except TimeoutError:
            raise OSError("it does not answer in time") from None

    def _take(self, listing: Listing) -> None:
        if self._failure is not None:
            log.info("jwks_available", place=self._place, keys=len(listing.keys))
        if listing.complaints and listing.complaints != self._complaints:
            log.warning(
                "jwks_entries_unusable",
                place=self._place,
                usable=len(listing.keys),
                reasons=list(listing.complaints),
            )
        elif not listing.keys and (self._listing is None or self._listing.keys):
            log.warning("jwks_is_empty", place=self._place)
        self._listing, self._complaints, self._failure = listing, listing.complaints, None
        self._delays = backoff(RETRY_FIRST, RETRY_CAP)
        self._next_at = self._begun_at + REFRESH_SECONDS

    def _fail(self, reason: str) -> None:
        if reason != self._failure:
            kept = len(self._listing.keys) if self._listing else 0
            log.warning("jwks_unavailable", place=self._place, reason=reason, keys_kept=kept)
        self._failure = reason
        self._next_at = self._clock() + next(self._delays)
