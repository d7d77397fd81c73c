"""The whole pipeline on real servers: the stack, one dispatcher, two gateways."""

from __future__ import annotations

from dataclasses import dataclass

from rowbell.auth import Tokens
from stack import Stack
from tests.integration.processes import Dispatcher, Gateway
from tests.integration.subscriber import Subscriber


@dataclass
class Pipeline:
    stack: Stack
    dispatcher: Dispatcher
    gateways: tuple[Gateway, Gateway]

    def token(self, user: str) -> str:
        return Tokens(self.stack.settings_env["ROWBELL_JWT_SECRET"]).issue(user, 3600)

    def subscriber(self, user: str, gateway: int = 0, ack: str = "auto", reconnect: bool = True) -> Subscriber:
        return Subscriber(self.gateways[gateway].url, self.token(user), ack, reconnect)
