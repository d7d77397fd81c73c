"""Kafka: its storage, and the topics that must exist before anybody subscribes."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from rowbell.config import Settings
from stack.errors import StackError
from stack.home import CHECKOUT, Home
from stack.ports import Ports
from stack.supervision import DIES_WITH_US

DEBEZIUM = CHECKOUT / "debezium"

TOPICS = {Settings().kafka_topic: 12, Settings().kafka_dead_letter_topic: 1}
"""Topic → partitions. The connector would also create the first with twelve, but a dispatcher that had subscribed
before would notice only minutes later."""

_silent = logging.getLogger("stack.kafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


def prepare(home: Home, environ: Mapping[str, str]) -> None:
    """Format the storage unless it is formatted; if that is interrupted, it is redone. Raises StackError."""
    data = home.directory("kafka") / "data"
    if (data / "meta.properties").exists():
        return
    shutil.rmtree(data, ignore_errors=True)  # meta.properties is written last
    if not (DEBEZIUM / "target" / "libs").exists():
        raise StackError(f"Kafka is missing in {DEBEZIUM}/target. To fetch it: make install")
    identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    command = [
        *DIES_WITH_US,
        "java",
        "-XX:TieredStopAtLevel=1",
        f"-Dlog4j2.configurationFile={DEBEZIUM}/log4j2.properties",
        "-cp",
        f"{DEBEZIUM}/target/libs/*",
    ]
    command += ["kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={identity}"]
    command += ["--config", f"{DEBEZIUM}/server.properties"]
    made = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    if made.returncode:
        raise StackError(f"Kafka's storage in {data} could not be formatted:\n{(made.stderr or made.stdout).strip()}")


def servers(ports: Ports) -> str:
    """Return the bootstrap servers."""
    return f"127.0.0.1:{ports['STACK_KAFKA_PORT']}"


def answers(ports: Ports) -> bool:
    """Return whether the broker answers."""
    try:
        return bool(_admin(ports).list_topics(timeout=2).brokers)
    except KafkaException:
        return False


def create_topics(ports: Ports) -> None:
    """Create the missing topics. Raises StackError if Kafka refuses."""
    topics = [NewTopic(name, num_partitions=partitions) for name, partitions in TOPICS.items()]
    admin = _admin(ports)  # keep a reference: a garbage-collected client cancels its pending requests
    for name, made in admin.create_topics(topics, request_timeout=30).items():
        try:
            made.result()
        except KafkaException as error:
            if not isinstance(error.args[0], KafkaError) or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise StackError(f"Kafka refused the topic {name}: {error}") from error


def _admin(ports: Ports) -> AdminClient:
    """Return a client that does not log that the broker is down: that is what we are waiting for."""
    settings: dict[str, Any] = {"bootstrap.servers": servers(ports), "error_cb": lambda _: None}
    return AdminClient(settings, logger=_silent)
