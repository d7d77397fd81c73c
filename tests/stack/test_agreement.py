"""What several files say of one thing: ports, names, topics."""

from __future__ import annotations

import re
from pathlib import Path

from rowbell.config import Settings
from rowbell.connector.definition import Definition
from stack import Home, environment
from stack.home import CHECKOUT
from stack.kafka import TOPICS
from stack.pipeline import PROCESSES, SERVERS
from stack.ports import OWNERS, default_ports
from stack.supervision import CONFIGURATION

PROPERTIES = {name: (CHECKOUT / "debezium" / f"{name}.properties").read_text() for name in ("server", "connect")}
CONNECTOR = Definition.read().config


def test_supervisord_is_given_every_variable_that_its_configuration_names(tmp_path: Path) -> None:
    # When
    given = environment.of_supervisord(Home(tmp_path), default_ports({})).keys()
    # Then
    assert set(re.findall(r"%\(ENV_(\w+)\)s", CONFIGURATION.read_text())) <= given
    for text in PROPERTIES.values():
        assert set(re.findall(r"\$\{env:(\w+)\}", text)) <= given


def test_every_port_is_used_and_given_to_the_program_that_is_said_to_own_it() -> None:
    # Given each program's section, and the files that are its own
    sections = dict(re.findall(r"^\[program:([\w-]+)\]\n(.*?)(?=^\[|\Z)", CONFIGURATION.read_text(), re.M | re.S))
    sections["kafka"] += PROPERTIES["server"]
    sections["connect"] += PROPERTIES["connect"]
    sections["rabbitmq"] += (CHECKOUT / "stack" / "rabbitmq.py").read_text()
    # Then
    assert sections.keys() == {*SERVERS, *PROCESSES}
    for name, program in OWNERS.items():
        assert name in sections[program]


def test_the_connector_writes_into_the_topic_that_dispatchers_read() -> None:
    assert f"{CONNECTOR['topic.prefix']}.public.notification" == Settings().kafka_topic
    assert re.fullmatch(CONNECTOR["topic.creation.notification.include"], Settings().kafka_topic)


def test_the_stack_and_the_connector_make_the_topic_with_the_same_number_of_partitions() -> None:
    assert TOPICS[Settings().kafka_topic] == int(CONNECTOR["topic.creation.notification.partitions"]) == 12


def test_the_connector_follows_the_tables_and_the_publication_of_the_migration() -> None:
    # Given
    migrations = "".join(file.read_text() for file in (CHECKOUT / "migrations").rglob("*.*") if file.suffix != ".pyc")
    # Then
    assert CONNECTOR["publication.name"] in migrations
    for table in CONNECTOR["table.include.list"].split(","):
        assert table.removeprefix("public.") in migrations


def test_the_connector_has_the_settings_without_which_rows_are_lost_or_late() -> None:
    assert CONNECTOR["publication.autocreate.mode"] == "disabled"
    assert CONNECTOR["provide.transaction.metadata"] == "false"
    assert CONNECTOR["message.key.columns"] == "public.notification:recipient_id"
    assert CONNECTOR["heartbeat.action.query"].startswith("INSERT INTO public.rowbell_heartbeat")
    assert CONNECTOR.keys().isdisjoint({"offset.mismatch.strategy", "errors.tolerance"})
    assert "\nscheduled.rebalance.max.delay.ms=0\n" in PROPERTIES["connect"]
    assert "\nproducer.linger.ms=0\n" in PROPERTIES["connect"]
    assert "\nproducer.enable.idempotence=true\n" in PROPERTIES["connect"]
