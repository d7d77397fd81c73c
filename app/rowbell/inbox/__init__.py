"""The SQL side: the tables, their migration, and the queries of gateways."""

from __future__ import annotations

from rowbell.inbox.epoch import Epoch
from rowbell.inbox.inbox import MOST_UNREAD, Found, Given, Inbox, Key, Passes, Revocation, Tick

__all__ = ["MOST_UNREAD", "Epoch", "Found", "Given", "Inbox", "Key", "Passes", "Revocation", "Tick"]
