"""What the processes count, for Prometheus. Children are bound once, here: a label lookup costs a microsecond."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from rowbell.config import Settings, not_listening

_events = Counter("rowbell_events_total", "Changes given to subscriptions, by how they came", ["by"])
EVENTS_LIVE = _events.labels("live")
EVENTS_REPLAYED = _events.labels("replayed")
EVENTS_RESCUED = _events.labels("rescued")
"""Delivered by the sweep, because nothing else had brought them."""

COMMIT_TO_SOCKET = Histogram(
    "rowbell_commit_to_socket_seconds",
    "From the commit in PostgreSQL to the gateway's outgoing queue, live changes only",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SESSIONS = Gauge("rowbell_sessions", "Open sessions")
CONNECTIONS = Gauge("rowbell_connections", "WebSockets, from the handshake on")
HTTP_CONNECTIONS = Gauge("rowbell_http_connections", "Connections that are not WebSockets, or not yet")
_refused = Counter("rowbell_refused_total", "Clients that were not let in or were ended, by the reason", ["reason"])
REFUSED = {
    reason: _refused.labels(reason)
    for reason in (
        "path", "stopping", "origin", "address_rate", "connections", "rate", "http_connections", "token", "keys",
        "sessions_per_user", "connect_timeout", "frame", "headers", "header_line", "body", "frame_rate",
        "subscriptions", "receipts", "marks", "protocol", "destination", "topic", "expired", "revoked", "heart_beat",
    )
}  # fmt: skip
"""Reason → counter; the reasons are those of `rowbell.errors.Refused`, and of what ends a session."""
SUBSCRIPTIONS = Gauge("rowbell_subscriptions", "Subscriptions")
_lagging = Counter(
    "rowbell_lagging_total", "Times a subscription was sent no more for a while, by the reason", ["reason"]
)
LAGGING_SLOW = _lagging.labels("slow")
"""The client reads more slowly than rows come."""
LAGGING_UNACKNOWLEDGED = _lagging.labels("unacknowledged")
"""As many messages as may wait for the client's ACK."""

_dispatched = Counter("rowbell_dispatched_total", "Changes taken from the stream, by what became of them", ["outcome"])
DISPATCHED_PUBLISHED = _dispatched.labels("published")
DISPATCHED_NOBODY = _dispatched.labels("nobody")
"""The recipient had no session: the row stays unread, and costs no message."""
DISPATCHED_DEAD = _dispatched.labels("dead_letter")
COMMIT_TO_DISPATCH = Histogram(
    "rowbell_commit_to_dispatch_seconds",
    "From the commit in PostgreSQL to the dispatcher's decoded batch",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def serve(settings: Settings) -> None:
    """Serve them over HTTP, from a thread, until the process ends; nothing if no port is set.

    SettingsError if the address cannot be had.
    """
    if settings.metrics_port is None:
        return
    try:
        start_http_server(settings.metrics_port, settings.host)
    except (OSError, UnicodeError) as error:
        what = f"metrics cannot be served on {settings.host}:{settings.metrics_port}"
        raise not_listening(what, error, "ROWBELL_METRICS_PORT") from error
