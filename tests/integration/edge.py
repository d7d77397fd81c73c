"""Gateways that speak TLS, and an nginx before gateways: what stands at the edge of a site."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import requests
from websockets.typing import Origin

from tests.gateway.certificates import Certificate
from tests.integration.processes import Gateway

NGINX = Path("/usr/sbin/nginx")
"""Debian's package nginx."""


class TlsGateway(Gateway):
    """`rowbell serve --ssl-certfile ... --ssl-keyfile ...`."""

    def __init__(self, env: Mapping[str, str], log: Path, certificate: Certificate) -> None:
        self.certificate = certificate
        files = ("--ssl-certfile", str(certificate.certfile), "--ssl-keyfile", str(certificate.keyfile))
        super().__init__(env, log, None, *files)

    @property
    def url(self) -> str:
        return f"wss://127.0.0.1:{self.port}/ws"

    def origin(self, scheme: str) -> Origin:
        return Origin(f"{scheme}://127.0.0.1:{self.port}")

    def ready(self) -> bool:
        with contextlib.suppress(requests.RequestException):
            url = f"https://127.0.0.1:{self.port}/ready"
            return requests.get(url, timeout=5, verify=str(self.certificate.certfile)).status_code == 200
        return False


class Nginx:
    """A process of this test's own, with everything it writes in `directory`."""

    def __init__(self, http: str, directory: Path, url: str, certificate: Certificate) -> None:
        """`http` is what stands in the block `http`; `url` answers when it is up."""
        self.errors = directory / "nginx-errors.log"
        temporary = "".join(
            f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        configuration = directory / "nginx.conf"
        configuration.write_text(
            f"daemon off;\npid {directory}/nginx.pid;\nerror_log {self.errors} info;\nworker_processes 1;\n"
            f"events {{ worker_connections 512; }}\nhttp {{\n{temporary}{http}\n}}\n"
        )
        command = [str(NGINX), "-p", str(directory), "-e", str(self.errors), "-c", str(configuration)]
        self._process = subprocess.Popen(command)
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(requests.ConnectionError):
                requests.get(url, timeout=5, verify=str(certificate.certfile))
                return
            assert self._process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, self.errors.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
