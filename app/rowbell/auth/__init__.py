"""Authentication: tokens, the keys that verify them, and the rules for their claims."""

from __future__ import annotations

from rowbell.auth.claims import Identity, Rules
from rowbell.auth.keyring import SOURCES
from rowbell.auth.tokens import Tokens, bearer

__all__ = ["SOURCES", "Identity", "Rules", "Tokens", "bearer"]
