"""Prometheus metrics of every process. Labelled children are bound once, here: a label lookup costs a microsecond."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, start_http_server

from rowbell.config import Settings, not_listening
from rowbell.logs import get_logger

log = get_logger("metrics")

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series for each counter that says when its process started

_events = Counter("rowbell_events_total", "Changes given to subscriptions, by their source", ["by"])
EVENTS_LIVE = _events.labels("live")
EVENTS_REPLAYED = _events.labels("replayed")
EVENTS_RESCUED = _events.labels("rescued")
"""Delivered by the sweep because the stream had not brought them."""

COMMIT_TO_SOCKET = Histogram(
    "rowbell_commit_to_socket_seconds",
    "Seconds from the commit in PostgreSQL to the gateway's outgoing queue, live changes only",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
SESSIONS = Gauge("rowbell_sessions", "Open sessions")
CONNECTIONS = Gauge("rowbell_connections", "WebSockets, from the handshake on")
HTTP_CONNECTIONS = Gauge("rowbell_http_connections", "Connections that are not WebSockets, or not yet")
_refused = Counter("rowbell_refused_total", "Clients refused, and sessions ended, by reason", ["reason"])
REFUSED = {
    reason: _refused.labels(reason)
    for reason in (
        "path", "stopping", "origin", "address_rate", "connections", "rate", "http_connections", "token", "keys",
        "sessions_per_user", "connect_timeout", "frame", "headers", "header_line", "body", "frame_rate",
        "subscriptions", "receipts", "marks", "protocol", "destination", "topic", "expired", "revoked", "heart_beat",
    )
}  # fmt: skip
"""Reason → counter. The reasons are those of `rowbell.errors.Refused` and those for which a session is ended."""
SUBSCRIPTIONS = Gauge("rowbell_subscriptions", "Subscriptions")
_lagging = Counter("rowbell_lagging_total", "Times a subscription was paused, by reason", ["reason"])
LAGGING_SLOW = _lagging.labels("slow")
"""The client reads more slowly than changes arrive."""
LAGGING_UNACKNOWLEDGED = _lagging.labels("unacknowledged")
"""The client has not acknowledged as many messages as may wait for its ACK."""

_dispatched = Counter("rowbell_dispatched_total", "Changes taken from the stream, by outcome", ["outcome"])
DISPATCHED_PUBLISHED = _dispatched.labels("published")
DISPATCHED_NOBODY = _dispatched.labels("nobody")
"""The recipient had no session: the row stays unread and costs no message."""
DISPATCHED_DEAD = _dispatched.labels("dead_letter")
COMMIT_TO_DISPATCH = Histogram(
    "rowbell_commit_to_dispatch_seconds",
    "Seconds from the commit in PostgreSQL to the dispatcher's decoded batch",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def serve(settings: Settings) -> None:
    """Serve the metrics over HTTP from a thread until the process ends; do nothing if no port is set.

    SettingsError if the address is not available.
    """
    if settings.metrics_port is None:
        return
    try:
        server, _ = start_http_server(settings.metrics_port, settings.metrics_host)
    except (OSError, UnicodeError) as error:
        what = f"metrics cannot be served on {settings.metrics_host}:{settings.metrics_port}"
        raise not_listening(what, error, "ROWBELL_METRICS_PORT") from error
    log.info("metrics_listening", host=settings.metrics_host, port=server.server_port)
