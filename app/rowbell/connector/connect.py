"""A client for the REST API of Kafka Connect, as far as one connector needs it.

Source: https://kafka.apache.org/documentation/#connect_rest
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
"""Timeout. A PUT validates the configuration, for which the connector logs in to the database."""

RETRIED = frozenset({409, 500, 502, 503, 504})
"""Status codes that are retried. 409: the workers are rebalancing. 500: among others, a request that timed out in the
worker."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task, the part of a connector that does the work. A Debezium connector for PostgreSQL has one."""

    number: int
    state: str
    """RUNNING, FAILED, PAUSED, RESTARTING, UNASSIGNED or DESTROYED."""
    trace: str
    """The Java stack trace of a failure, or empty."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a connector and its tasks."""

    state: str
    trace: str
    tasks: tuple[Task, ...]

    @property
    def failure(self) -> str | None:
        """The first line of the first trace, which names the reason, or None if nothing failed."""
        parts = [(self.state, self.trace), *((task.state, task.trace) for task in self.tasks)]
        failed = [trace for state, trace in parts if state == "FAILED"]
        return (failed[0].strip().splitlines() or ["no reason given"])[0] if failed else None

    @property
    def is_running(self) -> bool:
        """Whether the connector and its task run. This proves little: a task can hang while it starts."""
        return self.state == "RUNNING" and bool(self.tasks) and all(task.state == "RUNNING" for task in self.tasks)


class Connect:
    """A client for one Connect cluster. Blocking: for commands, never on the event loop.

    While Connect is unavailable or busy, requests are retried with back-off for up to `timeout` seconds after the
    client was created. Raises ConnectorError after that, and when Connect refuses.
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
        """Whether the deadline has passed."""
        return time.monotonic() > self._deadline

    def put_config(self, name: str, config: dict[str, str]) -> None:
        """Register the connector, or update its configuration."""
        self._request("PUT", f"/connectors/{quote(name, safe='')}/config", config)

    def config(self, name: str) -> dict[str, str] | None:
        """Return the connector's configuration, or None if there is no such connector."""
        found: dict[str, str] | None = self._get(f"/connectors/{quote(name, safe='')}/config")
        return found

    def status(self, name: str) -> Status | None:
        """Return the state of the connector and its tasks, or None if there is no such connector, or not yet."""
        found = self._get(f"/connectors/{quote(name, safe='')}/status")
        if found is None:
            return None
        tasks = [Task(task["id"], task["state"], task.get("trace", "")) for task in found["tasks"]]
        return Status(found["connector"]["state"], found["connector"].get("trace", ""), tuple(tasks))

    def offsets(self, name: str) -> Any:
        """Return the position that Connect has stored for the connector, or None if it has not started."""
        found = self._get(f"/connectors/{quote(name, safe='')}/offsets")
        return [entry["offset"] for entry in found["offsets"]] if found and found["offsets"] else None

    def restart_failed(self, name: str) -> None:
        """Restart the failed parts of the connector."""
        self._request("POST", f"/connectors/{quote(name, safe='')}/restart?includeTasks=true&onlyFailed=true")

    def _get(self, path: str) -> Any:
        answer = self._request("GET", path)
        return None if answer.status_code == 404 else answer.json()

    def _request(self, method: str, path: str, body: object = None) -> requests.Response:
        """Return the response, which is a success or a 404."""
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
                    f"Kafka Connect at {hide_password(self._url)} cannot be used: {problem}\n"
                    "Is it running? Check ROWBELL_CONNECT_URL."
                )
            time.sleep(delay)
        raise AssertionError("backoff is endless")

    def _accepted(self, answer: requests.Response, problem: str) -> requests.Response:
        if answer.ok or answer.status_code == 404:
            return answer
        raise ConnectorError(f"Kafka Connect refused the request with status {answer.status_code}: {problem}")


def _message(answer: requests.Response) -> str:
    """Return the message of `{"error_code": 400, "message": "..."}`, or the beginning of any other body."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


def _reason(error: requests.RequestException) -> str:
    """Return the innermost reason: requests and urllib3 wrap `Connection refused` three times."""
    while isinstance(cause := error.__context__, Exception):
        error = cause  # type: ignore[assignment]
    return str(error)
