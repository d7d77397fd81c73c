"""The issuer's key set (JWKS): reads it, caches it, and refreshes it.

    event                                   effect
    --------------------------------------  ------------------------------------------------------------------------
    the key set is read                     its keys, and only those, are valid; read again after REFRESH_SECONDS
    a token arrives that no key verifies    the key set is read again, but not within COOLDOWN seconds of the last
                                            read, whoever caused that: strangers' tokens cannot make us flood the
                                            issuer
    reading fails, or it is not a key set   the last known keys stay valid; reading is retried with back-off

All state lives on the event loop, and no await separates related changes. Only the blocking read runs in a thread, one
at a time.

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
"""Seconds between two regular reads; also how long a key stays valid after the issuer has removed it."""
COOLDOWN = 5.0
"""Minimum seconds between two reads on request."""
RETRY_FIRST, RETRY_CAP = 1.0, 30.0
"""Seconds of back-off while the key set cannot be read: the first delay, and the longest."""
ATTEMPT = 15.0
"""Seconds after which a read counts as failed, even if its thread is still blocked."""

MAX_KEYS = 64
"""Real key sets have 2 to 20."""
MAX_TRIED = 8
"""Keys tried per token when no `kid` tells which: verifying a P-384 signature takes 0.7 ms of the event loop."""
MAX_WAITING = 1000
"""Clients that may wait for a read at once: a token costs nothing to make, and each waiting client holds a
connection."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The result of one read: the usable keys, and why other entries are not usable."""

    keys: tuple[Key, ...]
    complaints: tuple[str, ...] = ()
    by_kid: dict[str | None, list[Key]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for key in self.keys:
            self.by_kid.setdefault(key.kid, []).append(key)

    def candidates(self, kid: str | None) -> Collection[Key]:
        """Return the keys with this `kid`; if there are none, those without a `kid`. For a token without one, return
        any.

        At most the first MAX_TRIED are returned.
        """
        if kid is None:
            return self.keys[:MAX_TRIED]
        return self.by_kid.get(kid, self.by_kid.get(None, []))[:MAX_TRIED]


def read_listing(document: bytes, allowed: Collection[str]) -> Listing:
    """Parse a JWKS and return its keys for the `allowed` algorithms.

    Unusable entries are skipped, with a complaint (RFC 7517, 5). An empty key set is valid, and makes every token
    invalid. Raises ValueError if the document is not a JWKS or lists more than MAX_KEYS keys.
    """
    entries = read_object(document).get("keys")
    if not isinstance(entries, list):
        raise ValueError("it has no array `keys`")
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
    """The key set of one issuer. `run` keeps it fresh; without `run`, the keys that `load` read stay."""

    def __init__(
        self,
        read: Callable[[], bytes],
        place: str,
        allowed: Collection[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` returns the document, may block, and raises OSError; `place` is its location, for logs."""
        self._read = read
        self._place = place
        self.algorithms = frozenset(allowed) - SECRET_BYTES.keys()
        """Algorithms that its keys may be used with."""
        self._clock = clock
        self._listing: Listing | None = None
        """Tracks the result of the last successful read; None before the first."""
        self._complaints: tuple[str, ...] = ()
        """Tracks the complaints already logged."""
        self._failure: str | None = None
        """Tracks why reading currently fails; None while it succeeds."""
        self._delays = backoff(RETRY_FIRST, RETRY_CAP)
        self._begun = 0
        """Counts the attempts."""
        self._succeeded = 0
        """Tracks the number of the last attempt that succeeded."""
        self._begun_at = float("-inf")
        self._next_at = float("-inf")
        """Track, by the clock, when the last attempt began and when the next regular one is due."""
        self._is_reading = False
        self._asked = False
        """Tracks whether a read was requested ahead of schedule."""
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        """Set, and replaced by a new event, when an attempt ends."""
        self._waiting = 0
        self._reading: Future[Listing] | None = None
        """Tracks the thread's work, which may outlast an attempt that timed out."""

    @property
    def is_loaded(self) -> bool:
        """Whether the key set has been read at least once."""
        return self._listing is not None

    # Asking.

    def candidates(self, kid: str | None) -> Collection[Key]:
        """Return the keys that may have signed a token with this `kid`."""
        return () if self._listing is None else self._listing.candidates(kid)

    def lists(self, kid: str | None) -> bool:
        """Whether a key with this `kid` is listed.

        False for None: a token without a `kid` may have been signed with a key that is not listed yet.
        """
        return kid is not None and self._listing is not None and kid in self._listing.by_kid

    def ask(self) -> None:
        """Request a read as soon as COOLDOWN allows; never waits."""
        self._asked = True
        self._wake.set()

    async def renewed(self, within: float) -> bool:
        """Request a read, and wait for its end for at most `within` seconds.

        Return True if a read that began after this call succeeded: the issuer then does not know any key that is not
        listed. Return False if that is not certain: the read was not allowed so soon, took longer, or failed, or the
        read that ended had begun before this call.
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
        """Read the key set now, blocking, before anything else runs. Raises OSError or ValueError if that fails."""
        self._begun_at = self._clock()
        self._take(read_listing(self._read(), self.algorithms))

    async def run(self) -> None:
        """Read the key set regularly and on request, until cancelled. No failure of the issuer ends this."""
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
        """Read in a daemon thread, which, unlike one of asyncio.to_thread, does not delay the exit of the process."""
        if self._reading is not None and not self._reading.done():
            raise OSError("the previous attempt is still blocked")
        reading = self._reading = Future[Listing]()
        reading.set_running_or_notify_cancel()  # from here on it cannot be cancelled, so the thread can set a result

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
