"""Redis, for presence: a hint that gateways refresh, so nothing is stored on disk."""

from __future__ import annotations

import redis

from stack.home import Home, write_private
from stack.ports import Ports


def prepare(home: Home) -> None:
    """Write the configuration, with the password."""
    lines = (
        "bind 127.0.0.1",
        f"requirepass {home.secret('redis')}",
        'save ""',
        "appendonly no",
        "set-proc-title no",  # it would overwrite the environment, by which `supervision` finds our processes
    )
    write_private(home.directory("redis") / "redis.conf", "\n".join(lines) + "\n")


def url(home: Home, ports: Ports) -> str:
    """Return the Redis URL."""
    return f"redis://:{home.secret('redis')}@127.0.0.1:{ports['STACK_REDIS_PORT']}/0"


def answers(home: Home, ports: Ports) -> bool:
    """Return whether the server answers a ping."""
    with redis.Redis.from_url(url(home, ports), socket_timeout=2, socket_connect_timeout=2) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False
