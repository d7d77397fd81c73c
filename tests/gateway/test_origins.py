"""Whose pages may connect: every browser's `Origin` against `Host` and the setting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowbell.config import Settings
from rowbell.errors import SettingsError
from rowbell.gateway.origins import Origins


def allowed(value: str) -> Origins:
    return Origins(Settings.from_env({"ROWBELL_ALLOWED_ORIGINS": value}).allowed_origins)


NOBODY_ELSE = allowed("")


@pytest.mark.parametrize("value", ["", "https://app.example.org", "*"])
def test_what_sends_no_origin_is_no_browser_and_may_connect(value: str) -> None:
    assert allowed(value).complaint([], ["gateway.example.org"], secure=True) is None


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("http://127.0.0.1:8114", "127.0.0.1:8114", False),
        ("http://[::1]:8114", "[::1]:8114", False),
        ("http://example.org", "example.org", False),
        ("http://example.org", "example.org:80", False),
        ("HTTP://Example.ORG", "eXample.org", False),
        ("https://example.org", "example.org", True),
        ("https://example.org", "example.org:443", True),
        ("https://example.org:8443", "example.org:8443", True),
        # A proxy ends TLS, and is not believed.
        ("https://example.org", "example.org", False),
        ("https://example.org:8443", "example.org:8443", False),
    ],
)
def test_a_page_of_the_same_host_and_port_may_connect(origin: str, host: str, secure: bool) -> None:
    assert NOBODY_ELSE.complaint([origin], [host], secure) is None


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("http://evil.example", "example.org", False),
        ("http://example.org.evil.example", "example.org", False),
        ("http://evil-example.org", "example.org", False),
        ("http://sub.example.org", "example.org", False),
        ("http://example.org:8080", "example.org", False),
        ("http://example.org", "example.org:8080", False),
        ("https://example.org", "example.org:80", False),
        ("https://example.org:8443", "example.org", False),  # a proxy that drops the port from Host
        ("http://example.org", "example.org", True),
        ("capacitor://example.org", "example.org", False),
        ("http://example.org", "", False),
        ("http://example.org", "user@example.org", False),
    ],
)
def test_a_page_of_another_host_port_or_of_http_under_tls_is_refused_with_the_setting(
    origin: str, host: str, secure: bool
) -> None:
    complaint = NOBODY_ELSE.complaint([origin], [host], secure)
    assert complaint is not None
    assert origin in complaint
    assert "ROWBELL_ALLOWED_ORIGINS" in complaint


def test_where_the_host_is_missing_or_said_twice_nothing_is_the_same() -> None:
    assert NOBODY_ELSE.complaint(["http://example.org"], [], secure=False)
    assert NOBODY_ELSE.complaint(["http://example.org"], ["example.org", "example.org"], secure=False)


LISTED = "https://app.example.org, http://localhost:3000,capacitor://localhost,https://*.example.net:8443"


@pytest.mark.parametrize(
    ("origin", "may"),
    [
        ("https://app.example.org", True),
        ("https://app.example.org:443", True),
        ("http://app.example.org", False),
        ("https://app.example.org:444", False),
        ("http://localhost:3000", True),
        ("http://localhost", False),
        ("capacitor://localhost", True),
        ("ionic://localhost", False),
        ("https://a.example.net:8443", True),
        ("https://a.b.example.net:8443", True),
        ("https://example.net:8443", False),
        ("https://evilexample.net:8443", False),
        ("https://a.example.net", False),
        ("http://a.example.net:8443", False),
        ("null", False),
    ],
)
def test_the_list_names_scheme_host_and_port_and_a_pattern_all_subdomains(origin: str, may: bool) -> None:
    assert (allowed(LISTED).complaint([origin], ["gateway.example.org"], secure=True) is None) is may


STRANGE = [
    "null",
    "file://",
    "",
    "*",
    "https://",
    "https://a/b",
    "https://a:b",
    "https://a:99999999",
    "://",
    "a b",
    "é",
]


@pytest.mark.parametrize("origin", STRANGE)
def test_what_names_no_site_is_refused_unless_everybody_may_connect(origin: str) -> None:
    complaint = allowed(LISTED).complaint([origin], ["gateway.example.org"], secure=True)
    assert complaint is not None
    assert "ROWBELL_ALLOWED_ORIGINS=*" in complaint
    assert allowed("https://a.example,*").complaint([origin], ["gateway.example.org"], secure=True) is None


def test_two_origins_are_none() -> None:
    assert NOBODY_ELSE.complaint(["http://example.org", "http://example.org"], ["example.org"], secure=False)


headers = st.lists(st.text(st.characters(max_codepoint=255)), max_size=2)


@given(origin=headers, host=headers, secure=st.booleans())
def test_no_header_whatever_is_in_it_is_more_than_refused(origin: list[str], host: list[str], secure: bool) -> None:
    allowed(LISTED).complaint(origin, host, secure)


@pytest.mark.parametrize(
    "value",
    ["null", "example.org", "https://a.example/", "https://a.example,", "https://*", "https://*.", "https://a.*.example",
     "https://exämple.org", "https://a.example:65536", "https://u@a.example"],
)  # fmt: skip
def test_a_setting_that_would_allow_nobody_or_other_than_it_says_is_wrong(value: str) -> None:
    with pytest.raises(SettingsError, match="ROWBELL_ALLOWED_ORIGINS is wrong"):
        allowed(value)
