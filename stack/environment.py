"""The environment of the stack's processes, and of its user."""

from __future__ import annotations

import sys
from pathlib import Path

from stack import connect, kafka, postgres, rabbitmq, redis
from stack.home import CHECKOUT, Home, exports, write_private
from stack.ports import Ports
from stack.supervision import MARK

BIN = Path(sys.executable).parent
"""The directory of the `rowbell` command."""


def of_supervisord(home: Home, ports: Ports) -> dict[str, str]:
    """Return the variables that stack/supervisord.conf and debezium/*.properties refer to."""
    return {
        MARK: str(home.path),
        "STACK_BIN": str(BIN),
        "STACK_DEBEZIUM": str(kafka.DEBEZIUM),
        "STACK_POSTGRES_ACCOUNT": postgres.account(),
        "STACK_POSTGRES_BIN": str(postgres.BIN),
        "STACK_POSTGRES_DATA": str(postgres.data_directory(home)),
        "STACK_RABBITMQ_SERVER": str(rabbitmq.server()),
        **{name: str(port) for name, port in ports.items()},
    }


def of_processes(home: Home, ports: Ports) -> dict[str, str]:
    """Return the settings of a dispatcher or a gateway; its database login has only the rights that a gateway needs."""
    return {
        "ROWBELL_DATABASE_URL": postgres.url(home, ports, "gateway"),
        "ROWBELL_KAFKA_BOOTSTRAP_SERVERS": kafka.servers(ports),
        "ROWBELL_CONNECT_URL": connect.url(ports),
        "ROWBELL_REDIS_URL": redis.url(home, ports),
        "ROWBELL_RABBITMQ_URL": rabbitmq.url(home, ports),
        "ROWBELL_JWT_SECRET": home.secret("jwt"),
        "ROWBELL_GATEWAY_URL": f"ws://127.0.0.1:{ports['STACK_GATEWAY_8114_PORT']}/ws",
    }


def of_owner(home: Home, ports: Ports) -> dict[str, str]:
    """Return the settings for the user: the same, but the database login owns the tables and can migrate them."""
    return of_processes(home, ports) | {"ROWBELL_DATABASE_URL": postgres.url(home, ports, postgres.OWNER)}


def write_files(home: Home, ports: Ports) -> None:
    """Write `env` for the user to source, `processes.env` for dispatcher and gateways, and `ports.env` for us."""
    app_url = postgres.url(home, ports, "app")
    person = (
        f"# Made by `make stack`. Source it in {CHECKOUT}:  . {_shown(home.env_file)}\n"
        "# The database login owns the tables, so you can migrate as well as insert. The gateways and the\n"
        "# dispatcher use another login (processes.env). An application would use one with the role rowbell_app:\n"
        f"#   psql {app_url}\n" + exports(of_owner(home, ports)) + f'export PATH="{BIN}:$PATH"\n'
    )
    write_private(home.env_file, person)
    write_private(home.processes_env_file, exports(of_processes(home, ports)))
    write_private(home.ports_file, "".join(f"{name}={port}\n" for name, port in ports.items()))


def _shown(path: Path) -> str:
    """Return the path as one would type it in the checkout."""
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)
