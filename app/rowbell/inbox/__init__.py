"""The SQL: what the tables are, how they are made, and what gateways ask of them."""

from __future__ import annotations

from rowbell.inbox.epoch import Epoch
from rowbell.inbox.inbox import MOST_UNREAD, Found, Given, Inbox, Key, Passes, Revocation, Tick

__all__ = ["MOST_UNREAD", "Epoch", "Found", "Given", "Inbox", "Key", "Passes", "Revocation", "Tick"]
