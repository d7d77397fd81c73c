"""Every exception Rowbell raises.

    RowbellError                      the base class: its text says what is wrong, where, and what to do
    ├── SettingsError                 a setting is missing or wrong; the process does not start
    ├── DatabaseError                 the database does not meet Rowbell's needs (version, wal_level, schema, ...)
    │   └── DatabaseUnavailable       it cannot be reached at present; try again
    ├── ConnectorError                Kafka Connect refused the connector, or the connector failed
    ├── StreamUnavailable             Kafka cannot be read or written at present, or refused a request
    ├── PresenceUnavailable           presence cannot be read or written at present
    ├── BusUnavailable                the bus cannot be reached, or did not confirm in time
    ├── UndecodableRecord             a record of the change topic that is not a change of `notification`
    ├── Refused                       a client is not admitted, and why; it is answered, not raised any further
    └── TokenError                    a token is missing, malformed, expired, or not signed with our key
        └── KeysUnavailable           it cannot be checked at present, through no fault of the client

Protocol errors of STOMP peers live in `rowbell.stomp`, which imports nothing of ours.
"""


class RowbellError(Exception):
    """Rowbell failed; the text says what is wrong, where, and what to do."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class SettingsError(RowbellError):
    """A setting is missing or wrong."""


class DatabaseError(RowbellError):
    """The database does not meet Rowbell's needs."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached at present."""


class ConnectorError(RowbellError):
    """Kafka Connect refused the connector, or the connector failed."""


class StreamUnavailable(RowbellError):
    """Kafka cannot be read or written at present, or refused a request."""


class PresenceUnavailable(RowbellError):
    """Presence cannot be read or written at present."""


class BusUnavailable(RowbellError):
    """The bus cannot be reached, or did not confirm in time."""


class UndecodableRecord(RowbellError):
    """The record is not a change of the table `notification`."""


class Refused(RowbellError):
    """The client is not admitted."""

    def __init__(self, reason: str, status: int, message: str, retry_after: float | None = None) -> None:
        """`reason` is the label in metrics, `status` the HTTP status, `retry_after` the seconds until a retry is
        worthwhile; None if it is not.
        """
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


class TokenError(RowbellError):
    """The token is missing, malformed, expired, or was not signed with our key."""


class KeysUnavailable(TokenError):
    """The token cannot be checked at present, through no fault of the client: try again."""
