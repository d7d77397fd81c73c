"""What is agreed when a client connects."""

from __future__ import annotations

import pytest

from rowbell.stomp.errors import ProtocolError
from rowbell.stomp.negotiation import agree_on_beats, agree_on_version, choose_subprotocol, parse_beats


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], None),
        (["v10.stomp"], "v10.stomp"),
        (["v10.stomp", "v11.stomp", "v12.stomp"], "v12.stomp"),
        (["v11.stomp", "v10.stomp"], "v11.stomp"),
        (["v10.stomp, v11.stomp", "v12.stomp"], "v12.stomp"),
        (["chat", "v10.stomp"], "v10.stomp"),
        (["v13.stomp", "V12.STOMP", "stomp"], None),
    ],
)
def test_the_best_subprotocol_that_was_offered_is_chosen(offered, chosen):
    """Clients list the versions best first or best last, on one header line or several, so the order says nothing."""
    assert choose_subprotocol(offered) == chosen


@pytest.mark.parametrize(
    ("accepted", "version"),
    [
        (None, "1.0"),
        ("1.0", "1.0"),
        ("1.2", "1.2"),
        ("1.0,1.1,1.2", "1.2"),
        ("1.2,1.1,1.0", "1.2"),
        ("1.1, 1.0", "1.1"),
        (" 1.0 ,1.2 ", "1.2"),
        ("1.1,2.0", "1.1"),
    ],
)
def test_the_best_version_in_common_is_agreed_on(accepted, version):
    """The versions come in any order, with spaces or without; a client that does not name any speaks 1.0."""
    assert agree_on_version(accepted, None) == version


@pytest.mark.parametrize("accepted", ["", "2.0", "1.3,1", "1.20", "one"])
def test_a_client_without_a_version_in_common_is_told_ours(accepted):
    with pytest.raises(ProtocolError, match="no version in common") as caught:
        agree_on_version(accepted, None)
    assert caught.value.headers == (("version", "1.2,1.1,1.0"),)


def test_the_subprotocol_settles_the_version():
    """The handshake has said which version follows: saying another one in CONNECTED would break the promise."""
    assert agree_on_version("1.0,1.1,1.2", "v11.stomp") == "1.1"
    with pytest.raises(ProtocolError, match="no version in common") as caught:
        agree_on_version("1.2", "v11.stomp")
    assert caught.value.headers == (("version", "1.1"),)
    assert "v11.stomp" in caught.value.body


def test_a_subprotocol_is_enough_for_a_client_that_names_no_version():
    """Hand-written clients ask for v12.stomp in the handshake and leave accept-version out."""
    assert agree_on_version(None, "v12.stomp") == "1.2"


@pytest.mark.parametrize(
    ("ours", "theirs", "send", "receive"),
    [
        ((10_000, 10_000), (0, 0), None, None),
        ((10_000, 10_000), (10_000, 10_000), 8.0, 25.0),
        ((10_000, 10_000), (1_000, 20_000), 16.0, 25.0),
        ((10_000, 10_000), (20_000, 1_000), 8.0, 50.0),
        ((10_000, 10_000), (0, 10_000), 8.0, None),
        ((10_000, 10_000), (10_000, 0), None, 25.0),
        ((0, 0), (10_000, 10_000), None, None),
    ],
)
def test_beats_have_the_longer_of_the_two_periods_in_each_direction(ours, theirs, send, receive):
    """We send at 0.85 of the period, so as never to be late, and give a silent peer two and a half of them. There are
    beats only where one side can send them and the other wants them."""
    assert agree_on_beats(ours, theirs) == (send, receive)


def test_beats_are_two_numbers():
    assert parse_beats("0,10000") == (0, 10000)


@pytest.mark.parametrize(
    "value",
    ["", "1", "1,", ",1", "1,2,3", "1;2", "1, 2", "-1,0", "+1,0", "a,b", "1.5,2", "1_0,0", "٥,0", "0,99999999999"],
)
def test_anything_else_is_no_heart_beat_header(value):
    with pytest.raises(ProtocolError, match="heart-beat header is malformed"):
        parse_beats(value)
