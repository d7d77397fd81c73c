"""The SQL: what the tables are, how they are made, and what gateways ask of them."""

from __future__ import annotations

from rowbell.inbox.epoch import Epoch
from rowbell.inbox.inbox import Found, Inbox, Key, Passes, Tick

__all__ = ["Epoch", "Found", "Inbox", "Key", "Passes", "Tick"]
