"""stomp.py, unchanged, driven by the tests as `drive.mjs` drives those under Node.

It does not connect again by itself: its users do so when they are told that the connection is lost.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import stomp
from stomp.exception import ConnectFailedException

DELAY = 0.2


def tell(what: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"what": what, **more}) + "\n")
    sys.stdout.flush()


class Client(stomp.ConnectionListener):
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.leaving = False
        self._acks: dict[str, str] = {}
        """By the message's id."""
        self._again = threading.Event()
        threading.Thread(target=self._keep_connected, daemon=True).start()

    def _keep_connected(self) -> None:
        while not self.leaving:
            self._again.clear()
            try:
                self._connect()
            except ConnectFailedException:
                tell("closed")
            else:
                self._again.wait()
            time.sleep(DELAY)

    def _connect(self) -> None:
        url, beat = urlsplit(self.settings["url"]), self.settings["beat"]
        assert url.hostname is not None
        self.connection = stomp.WSStompConnection(
            [(url.hostname, url.port)],
            ws_path=f"{url.path}?{url.query}",
            heartbeats=(beat, beat),
            reconnect_attempts_max=1,
        )
        self.connection.set_listener("driver", self)
        self.connection.connect(wait=True, headers=self.settings["headers"])

    def on_connected(self, frame: Any) -> None:
        tell("connected", headers=frame.headers)
        for subscription in self.settings["subscriptions"]:
            destination = subscription["destination"]
            self.connection.subscribe(destination, id=destination, ack=subscription["ack"], receipt=destination)

    def on_message(self, frame: Any) -> None:
        self._acks[frame.headers["message-id"]] = frame.headers.get("ack", "")
        tell("message", headers=frame.headers, body=frame.body)

    def on_receipt(self, frame: Any) -> None:
        tell("receipt", id=frame.headers["receipt-id"])

    def on_error(self, frame: Any) -> None:
        tell("error", headers=frame.headers, body=frame.body)

    def on_disconnected(self) -> None:
        tell("closed")
        self._again.set()

    def ack(self, message: str) -> None:
        self.connection.ack(self._acks[message])

    def nack(self, message: str) -> None:
        self.connection.nack(self._acks[message])

    def send(self, destination: str, body: str, id: str) -> None:
        self.connection.send(destination, body, receipt=id)

    def disconnect(self) -> None:
        self.leaving = True
        self.connection.disconnect(receipt="bye")


assert stomp.__version__.startswith(f"{sys.argv[1]}."), stomp.__version__
client = Client(json.loads(sys.stdin.readline()))
for line in sys.stdin:
    command = json.loads(line)
    getattr(client, command.pop("do"))(**command)
