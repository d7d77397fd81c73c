"""The core of delivery under thousands of simulated histories, and without each of its rules in turn."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

import rowbell.gateway
from tests.gateway import model

GATEWAY = Path(rowbell.gateway.__file__).parent
SMALL = [
    ("PAGE = 200", "PAGE = 4"),
    ("HELD = 64", "HELD = 2"),
    ("RESCUE = 200", "RESCUE = 6"),
    ("FOLLOWED = 1000", "FOLLOWED = 9"),
]
"""Small bounds, so that small histories reach them."""

SEEDS = range(2000)


def load(*edits: tuple[str, str]) -> ModuleType:
    """The real ledger and subscription, compiled as one module with these edits of their source text."""
    ledger = (GATEWAY / "ledger.py").read_text()
    subscription = (GATEWAY / "subscription.py").read_text()
    source = ledger + "\n" + subscription.replace("from rowbell.gateway.ledger import Ledger\n", "")
    source = source.replace("from __future__ import annotations\n", "")
    for old, new in [*SMALL, *edits]:
        assert source.count(old) == 1, f"the source has changed, this stands in it {source.count(old)} times: {old!r}"
        source = source.replace(old, new)
    module = sys.modules["edited"] = ModuleType("edited")
    exec(compile("from __future__ import annotations\n" + source, "edited", "exec"), module.__dict__)
    return module


def test_every_history_is_delivered_once_and_whole() -> None:
    code = load()
    frames = 0
    for seed in SEEDS:
        sent, violations = model.run(code, seed)
        frames += sent
        assert not violations, f"seed {seed}: {violations[:5]}"
    assert frames > 100 * len(SEEDS), "the histories are too small to show anything"


RAISE = """        if self.floor.covers(snapshot):
            return
        self.floor = snapshot
"""
LIVE_OR_COVERED = "if self.state is not State.LIVE or self.ledger.floor.covers(sweep.snapshot):"

WITHOUT = {
    "the floor never goes down": [(RAISE, "        self.floor = snapshot\n")],
    "only what the floor sees leaves the memory of what was sent": [
        (
            "self.sent = {id: entry for id, entry in self.sent.items() if not snapshot.visible(entry[1])}",
            "self.sent = {}",
        )
    ],
    "what the floor sees is not sent again": [
        ("        if self.floor.visible(tx):\n            return False\n", ""),
    ],
    "an older version never follows a newer one": [
        ("return last is None or last[0] < version", "return last is None or last[0] != version")
    ],
    "a row that was sent is not created again": [
        ("known = change.id in self.sent or ", "known = "),
    ],
    "a paging subscription is neither offered a sweep nor raised by it": [
        (LIVE_OR_COVERED, "if self.ledger.floor.covers(sweep.snapshot):"),
        ("            if self.state is not State.LIVE:\n                break\n", ""),
        ("if self.state is State.LIVE and self._follows(sweep):", "if self._follows(sweep):"),
        (
            "            self.state = State.WAITING\n            return None\n        if event is not None or",
            "            return None\n        if event is not None or",
        ),
    ],
    "paging ends only through its own pass, not by a sweep that found it paging": [
        (LIVE_OR_COVERED + "\n            return None", LIVE_OR_COVERED + "\n            return []"),
    ],
    "a floor that does not cover the sweep's beginning does not rise": [
        (
            "self.recipient in sweep.listed and self.ledger.floor.covers(sweep.previous)",
            "self.recipient in sweep.listed",
        )
    ],
    "what a full queue refused is not remembered": [
        (
            "if event is not None and not has_room():",
            "if event is not None and not has_room() and not self.ledger.remember(change):",
        )
    ],
    "a full queue makes the subscription paging": [
        (
            "            self.state = State.WAITING\n            return None\n        if event is not None or",
            "            self.ledger.remember(change)\n            return None\n        if event is not None or",
        ),
    ],
    "a page remembers what its snapshot does not see": [
        ("            if not self._first.visible(change.tx):\n", "            if False:\n"),
    ],
    "a pass raises the floor only to its own snapshot, and only at its end": [
        (
            "        self._full = self.ledger.floor == EMPTY\n",
            "        self._full = self.ledger.floor == EMPTY\n        self.ledger.raise_floor(first)\n",
        ),
    ],
    "a pass raises the floor": [("        self.ledger.raise_floor(self._first)\n", "")],
    "a pass includes tombstones": [
        ('self._ids = array("q", sorted([*ids, *deleted])) if deleted else ids', "self._ids, self._deleted = ids, {}")
    ],
    "every page row goes through the ledger": [
        (
            "        event = self.ledger.event_for(change)\n        if event is not None:\n            send",
            "        event = self.ledger.event_for(change)\n"
            '        event = event or ("deleted" if change.deleted or change.hidden else "updated")\n'
            "        if event is not None:\n            send",
        ),
    ],
    "the sweep offers what was missed": [("return missed", "return []")],
}


@pytest.mark.parametrize("edits", WITHOUT.values(), ids=WITHOUT.keys())
def test_without_this_rule_histories_fail(edits: list[tuple[str, str]]) -> None:
    code = load(*edits)
    assert any(model.run(code, seed)[1] for seed in SEEDS)
