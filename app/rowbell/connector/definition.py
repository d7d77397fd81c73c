"""The connector's name and configuration, as stored in a file in `connectors/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from rowbell.errors import ConnectorError

DEFAULT = "notification-postgres.json"

_PACKAGE = Path(__file__).resolve().parent.parent

PLACES = (_PACKAGE / "_shipped" / "connectors", _PACKAGE.parent.parent / "connectors")
"""Where the connector is: in an installed wheel, or in a checkout."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A connector, as the JSON that Kafka Connect takes: `{"name": ..., "config": {...}}`."""

    name: str
    config: dict[str, str]

    @classmethod
    def read(cls, file: Path | None = None) -> Definition:
        """Read a file, by default the connector shipped with Rowbell. Raises ConnectorError if it cannot be read or is
        invalid.
        """
        file = file or _shipped()
        try:
            return msgspec.json.decode(file.read_bytes(), type=cls)
        except OSError as error:
            raise ConnectorError(f"The connector file cannot be read: {error}") from error
        except msgspec.MsgspecError as error:
            raise ConnectorError(
                f'{file} is not a connector ({error}). It must be JSON: {{"name": "...", "config": {{"key": "value"}}}}'
            ) from error


def _shipped() -> Path:
    candidates = [place / DEFAULT for place in PLACES]
    for file in candidates:
        if file.exists():
            return file
    raise ConnectorError(f"The connector shipped with Rowbell is missing at {candidates[0]}: name one with --file")
