"""Kafka Connect: prepares its working directory, with plugins and database password, and checks whether it answers."""

from __future__ import annotations

import requests

from stack import kafka, postgres
from stack.home import Home, write_private
from stack.ports import Ports


def prepare(home: Home, ports: Ports) -> None:
    """Write the file that `${file:connector.properties:...}` in the connector's JSON refers to, and link the
    plugins.
    """
    directory = home.directory("connect")
    properties = {
        "hostname": "127.0.0.1",
        "port": str(ports["STACK_POSTGRES_PORT"]),
        "dbname": postgres.DATABASE,
        "user": "connector",
        "password": home.secret("connector"),
    }
    text = "".join(f"{key}={value}\n" for key, value in properties.items())
    write_private(directory / "connector.properties", text)
    plugins = directory / "plugins"
    plugins.unlink(missing_ok=True)  # the checkout may have moved
    plugins.symlink_to(kafka.DEBEZIUM / "target" / "plugins")


def url(ports: Ports) -> str:
    """Return the URL of the REST API."""
    return f"http://127.0.0.1:{ports['STACK_CONNECT_PORT']}"


def answers(ports: Ports) -> bool:
    """Return whether the REST API answers."""
    try:
        return requests.get(f"{url(ports)}/connectors", timeout=5).ok
    except requests.RequestException:
        return False
