"""Ports: where they are listed, and what is said when one is taken."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from stack.errors import StackError
from stack.ports import OWNERS, check_free, default_ports, free_ports


def test_every_port_is_listed_once() -> None:
    # When
    ports = default_ports({})
    # Then
    assert ports.keys() == OWNERS.keys()
    assert len(set(ports.values())) == len(ports)


def test_the_environment_replaces_a_port() -> None:
    assert default_ports({"STACK_REDIS_PORT": "6380"})["STACK_REDIS_PORT"] == 6380


@pytest.mark.parametrize("text", ["redis", "0", "65536", "-1", "٤٢"])
def test_what_is_no_port_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(StackError, match=r"STACK_REDIS_PORT=.* is not a port"):
        default_ports({"STACK_REDIS_PORT": text})


def test_a_name_that_is_no_port_is_refused(tmp_path: Path) -> None:
    # Given
    (file := tmp_path / "ports.env").write_text("STACK_REDDIS_PORT=1\n")
    # When, then
    with pytest.raises(StackError, match=r"STACK_REDDIS_PORT .* is not a port of the stack"):
        default_ports({}, file)


def test_a_busy_port_is_named_with_its_program_and_the_way_to_change_it() -> None:
    # Given
    with socket.socket() as somebody:
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        ports = free_ports() | {"STACK_KAFKA_PORT": port}
        # When
        with pytest.raises(StackError) as raised:
            check_free(ports, running=[])
    # Then
    assert f"Port {port} is busy, and kafka needs it." in str(raised.value)
    assert "make stack STACK_KAFKA_PORT=" in str(raised.value)
    assert "stack/ports.env" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_a_port_that_our_own_program_has_is_not_in_the_way() -> None:
    # Given
    with socket.socket() as ours:
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        # When, then
        check_free(free_ports() | {"STACK_KAFKA_PORT": ours.getsockname()[1]}, running=["kafka"])
