"""Faults are made on the same pipeline that delivery is tested on; each test leaves it whole."""

from __future__ import annotations

from tests.integration.conftest import database, pipeline, user

__all__ = ["database", "pipeline", "user"]
