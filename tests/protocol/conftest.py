"""A running gateway, two of which stand beside one PostgreSQL, as the tests of the protocol see it."""

from __future__ import annotations

import pytest

from tests.integration.systems import PostgresOnly
from tests.protocol.wire import Site


@pytest.fixture(scope="session")
def site(postgres_only: PostgresOnly) -> Site:
    return Site(postgres_only.gateway(0), postgres_only.env["ROWBELL_JWT_SECRET"])
