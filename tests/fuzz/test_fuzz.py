"""Half a minute of attacks on real gateways: always the same ones, and others each time, whose seed is printed."""

from __future__ import annotations

import secrets

import pytest

from tests.fuzz.__main__ import main

SECONDS = 12


@pytest.mark.parametrize("seed", [1, None], ids=["fixed", "random"])
def test_no_client_can_harm_a_gateway_or_those_beside_it(seed: int | None) -> None:
    # The seed stands in what a failing test prints, and in the evidence that it names.
    seed = secrets.randbits(32) if seed is None else seed
    assert main(["--minutes", str(SECONDS / 60), "--seed", str(seed)]) == 0, f"seed {seed}"
