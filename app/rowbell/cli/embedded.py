"""`rowbell serve --embedded`: everything in one process, with its own PostgreSQL."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rowbell.config import Settings, environment_name

if TYPE_CHECKING:
    from rowbell.embedded import EmbeddedPostgres, Home

CLAIMS = ("jwt_issuer", "jwt_audience", "jwt_user_claim")
"""The settings that make the tokens of `rowbell token` acceptable to the gateway."""
PUBLIC = ("jwt_public_key_file", "jwt_jwks", "jwt_algorithms")
"""The settings of keys other than the secret; embedded mode does not use them."""

INSERT = "INSERT INTO notification (recipient_id, title) VALUES ('alice', 'Hello')"


def run(settings: Settings, directory: Path, clean: bool) -> int:
    """Serve until a signal arrives, then stop PostgreSQL. Settings of other servers are ignored."""
    from rowbell import logs
    from rowbell.cli.serve import serve
    from rowbell.embedded import EmbeddedPostgres, Home
    from rowbell.inbox.schema import migrate

    begun = time.monotonic()
    if settings.log_format == "auto" and settings.log_level == "info" and sys.stderr.isatty():
        settings = dataclasses.replace(settings, log_level="warning")  # leave the terminal to the instructions
    logs.configure(settings)
    home = Home(directory)
    server = EmbeddedPostgres(home)
    if clean:
        server.clean()
    with server:
        migrate(server.url("rowbell"))
        server.grant_roles()

        def started(settings: Settings, _: object) -> None:
            _write_env(settings, home, server)
            print(_invitation(settings, home, server, time.monotonic() - begun), flush=True)

        return serve(_settings(settings, home, server), {"postgresql": server.run}, started)


def _settings(settings: Settings, home: Home, server: EmbeddedPostgres) -> Settings:
    """Return the settings of the gateway: every server it uses is embedded."""
    return dataclasses.replace(
        settings,
        database_url=server.url("gateway"),
        page_database_url=server.url("app"),
        jwt_secret=home.secret("jwt"),
        jwt_public_key_file=None,
        jwt_jwks=None,
        jwt_algorithms=None,
        redis_url=None,
        rabbitmq_url=None,
    )


def _write_env(settings: Settings, home: Home, server: EmbeddedPostgres) -> None:
    """Write the file to source, with settings for the commands and their PATH."""
    from rowbell.cli.serve import BROKERS
    from rowbell.embedded.home import exports, write_private

    claims = {environment_name(name): value for name in CLAIMS if (value := getattr(settings, name))}
    environ = {
        "ROWBELL_DATABASE_URL": server.url("rowbell"),
        "ROWBELL_JWT_SECRET": home.secret("jwt"),
        "ROWBELL_GATEWAY_URL": f"ws://{_address(settings)}/ws",
        **claims,
    }
    others = {environment_name(name) for name in (*BROKERS, *CLAIMS, *PUBLIC)} - environ.keys()
    places = f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    if shutil.which("psql") is None:
        places += f":{shlex.quote(str(server.psql.parent))}"
    write_private(
        home.env_file,
        "# Made by `rowbell serve --embedded`. The database login owns the tables. An application would use:\n"
        f"#   psql {server.url('app')}\n{exports(environ)}{places}\n"
        f"# In case they are set in this shell:\nunset {' '.join(sorted(others))}\n",
    )


def _invitation(settings: Settings, home: Home, server: EmbeddedPostgres, seconds: float) -> str:
    """Return what to do next: lines to paste into another terminal, in any directory."""
    source = f". {shlex.quote(str(home.env_file))}"
    return f"""
Rowbell is up, after {seconds:.1f} s. PostgreSQL is on port {server.port}, its data in {home.path}.

  The page     http://{_address(settings)}/

  Insert       {source} && psql "$ROWBELL_DATABASE_URL" -c "{INSERT}"

  Listen       {source} && rowbell listen alice

Ctrl-C stops everything; the data stays.
"""


def _address(settings: Settings) -> str:
    """Return the address at which a browser on this machine finds the gateway."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{settings.port}"
