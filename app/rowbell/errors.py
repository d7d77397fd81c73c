"""Every exception Rowbell raises.

    RowbellError                      the root: its text says what is wrong, where, and what to do
    ├── SettingsError                 a setting is missing or wrong; the process does not start
    ├── DatabaseError                 the database is not what Rowbell needs (version, wal_level, schema, ...)
    │   └── DatabaseUnavailable       it cannot be reached at present; try again
    ├── ConnectorError                Kafka Connect refused or failed the connector
    ├── StreamUnavailable             Kafka cannot be read or written, or refused
    ├── PresenceUnavailable           who is connected where cannot be asked at present
    ├── BusUnavailable                the bus is away, or did not confirm in time
    ├── UndecodableRecord             a record of the change topic that is not a change of `notification`
    ├── Refused                       a client may not come in, and why; it is answered, not raised any further
    └── TokenError                    a token is missing, malformed, expired, or not ours
        └── KeysUnavailable           it cannot be checked at present, for no fault of the client's

Protocol errors of STOMP peers live in `rowbell.stomp`, which imports nothing of ours.
"""


class RowbellError(Exception):
    """Something went wrong in Rowbell; the text says what, where, and what to do."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class SettingsError(RowbellError):
    """A setting is missing or wrong."""


class DatabaseError(RowbellError):
    """The database is not what Rowbell needs."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached at present."""


class ConnectorError(RowbellError):
    """Kafka Connect refused the connector, or the connector failed."""


class StreamUnavailable(RowbellError):
    """Kafka cannot be read or written at present, or refused."""


class PresenceUnavailable(RowbellError):
    """Presence cannot be read or written at present."""


class BusUnavailable(RowbellError):
    """The bus cannot be reached, or did not confirm in time."""


class UndecodableRecord(RowbellError):
    """The record is not a change of the table `notification`."""


class Refused(RowbellError):
    """A client may not come in."""

    def __init__(self, reason: str, status: int, message: str, retry_after: float | None = None) -> None:
        """`reason` is what it is counted as, `status` that of HTTP; after `retry_after` seconds it may be otherwise."""
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


class TokenError(RowbellError):
    """The token is missing, malformed, expired, or was not signed with our key."""


class KeysUnavailable(TokenError):
    """The token cannot be checked at present, for no fault of the client's: try again."""
