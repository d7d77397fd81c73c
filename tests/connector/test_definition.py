"""The connector's file: what comes along, and what is wrong with one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from rowbell.connector.definition import Definition
from rowbell.errors import ConnectorError


def test_the_connector_that_comes_along_is_read_without_a_file() -> None:
    assert Definition.read().name == "notification-postgres"


@pytest.mark.parametrize("text", [b"{", b"{}", b'{"name": "x", "config": {"tasks.max": 1}}', b'"x"'])
def test_a_file_that_is_no_connector_is_refused_with_its_path_and_what_it_must_hold(
    tmp_path: Path, text: bytes
) -> None:
    # Given
    file = tmp_path / "broken.json"
    file.write_bytes(text)
    # When, then
    with pytest.raises(ConnectorError, match=r"broken\.json is not a connector .*It must be JSON"):
        Definition.read(file)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConnectorError, match=r"cannot be read: .*nowhere\.json"):
        Definition.read(tmp_path / "nowhere.json")
