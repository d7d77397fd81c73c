"""The REST API of Kafka Connect, as far as one connector needs it.

https://kafka.apache.org/documentation/#connect_rest
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

from rowbell.backoff import backoff
from rowbell.config import hide_password
from rowbell.errors import ConnectorError

REQUEST_SECONDS = 30
"""A PUT validates the configuration, for which the connector logs in to the database."""

RETRIED = frozenset({409, 500, 502, 503, 504})
"""409: the workers agree on their work at this moment. 500: among others, a request that timed out in the worker."""


@dataclass(frozen=True, slots=True)
class Task:
    """A part of the connector that does the work. A Debezium connector for PostgreSQL has one."""

    number: int
    state: str
    """RUNNING, FAILED, PAUSED, RESTARTING, UNASSIGNED or DESTROYED."""
    trace: str
    """The Java stack trace of a failure; else empty."""


@dataclass(frozen=True, slots=True)
class Status:
    """What Connect says of a connector and its tasks."""

    state: str
    trace: str
    tasks: tuple[Task, ...]

    @property
    def failure(self) -> str | None:
        """The first line of the first trace, which names the reason; None when nothing failed."""
        parts = [(self.state, self.trace), *((task.state, task.trace) for task in self.tasks)]
        failed = [trace for state, trace in parts if state == "FAILED"]
        return (failed[0].strip().splitlines() or ["no reason given"])[0] if failed else None

    @property
    def is_running(self) -> bool:
        """Whether the connector and its task run. Alone it proves little: a task can hang in its start."""
        return self.state == "RUNNING" and bool(self.tasks) and all(task.state == "RUNNING" for task in self.tasks)


class Connect:
    """A client for one Connect cluster. Blocking: for commands, never on the event loop.

    Requests are repeated with back-off until the deadline (seconds from the making of the client) while Connect
    is away or busy; then, and when it refuses, ConnectorError.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._deadline = time.monotonic() + timeout

    def __enter__(self) -> Connect:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    @property
    def out_of_time(self) -> bool:
        return time.monotonic() > self._deadline

    def put_config(self, name: str, config: dict[str, str]) -> None:
        """Make the connector, or change its configuration."""
        self._request("PUT", f"/connectors/{quote(name, safe='')}/config", config)

    def config(self, name: str) -> dict[str, str] | None:
        """Its configuration; None when there is no such connector."""
        found: dict[str, str] | None = self._get(f"/connectors/{quote(name, safe='')}/config")
        return found

    def status(self, name: str) -> Status | None:
        """Its state and its tasks'; None when there is no such connector, or not yet."""
        found = self._get(f"/connectors/{quote(name, safe='')}/status")
        if found is None:
            return None
        tasks = [Task(task["id"], task["state"], task.get("trace", "")) for task in found["tasks"]]
        return Status(found["connector"]["state"], found["connector"].get("trace", ""), tuple(tasks))

    def offsets(self, name: str) -> Any:
        """How far it has got, as far as Connect has written it down; None when it has not begun."""
        found = self._get(f"/connectors/{quote(name, safe='')}/offsets")
        return [entry["offset"] for entry in found["offsets"]] if found and found["offsets"] else None

    def restart_failed(self, name: str) -> None:
        """Start again what failed of it."""
        self._request("POST", f"/connectors/{quote(name, safe='')}/restart?includeTasks=true&onlyFailed=true")

    def _get(self, path: str) -> Any:
        answer = self._request("GET", path)
        return None if answer.status_code == 404 else answer.json()

    def _request(self, method: str, path: str, body: object = None) -> requests.Response:
        """The answer, which is a success or a 404."""
        for delay in backoff():
            try:
                answer = self._session.request(method, self._url + path, json=body, timeout=REQUEST_SECONDS)
                problem = _message(answer)
            except requests.RequestException as error:
                answer, problem = None, _reason(error)
            if answer is not None and answer.status_code not in RETRIED:
                return self._accepted(answer, problem)
            if self.out_of_time:
                raise ConnectorError(
                    f"Kafka Connect at {hide_password(self._url)} cannot do it: {problem}\n"
                    "Is it running? ROWBELL_CONNECT_URL says where it is."
                )
            time.sleep(delay)
        raise AssertionError("backoff is endless")

    def _accepted(self, answer: requests.Response, problem: str) -> requests.Response:
        if answer.ok or answer.status_code == 404:
            return answer
        raise ConnectorError(f"Kafka Connect refused it with status {answer.status_code}: {problem}")


def _message(answer: requests.Response) -> str:
    """What Connect says in `{"error_code": 400, "message": "..."}`, or the beginning of whatever came."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


def _reason(error: requests.RequestException) -> str:
    """The innermost reason: requests and urllib3 wrap `Connection refused` three times."""
    while isinstance(cause := error.__context__, Exception):
        error = cause  # type: ignore[assignment]
    return str(error)
