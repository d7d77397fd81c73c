"""Tells the page's own requests from those of another site in the same browser.

The page's requests carry no secret, so another site's page could send the same ones: directly, or by pointing its own
host name at this machine (DNS rebinding). The former have a foreign `Origin`, the latter a foreign `Host`.

Source: Fetch Metadata (W3C), RFC 6454 (Origin)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(?::[0-9]{1,5})?")

_OURS = (None, "same-origin", "none")
"""Values of `Sec-Fetch-Site` in the page's own requests, and None for programs, which do not send it."""


def complaint(headers: Mapping[str, str], hosts: Collection[str]) -> str | None:
    """Say why a request with these headers is refused; None if it is not. `hosts` are other names of this machine."""
    host = headers.get("host", "")
    if not (match := _HOST.fullmatch(host)) or not _is_this_machine(match[1].lower(), hosts):
        return "This page is only served under localhost or an IP address, not under the host name in your request."
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        return "This request comes from another site's page, and only Rowbell's own page may send it."
    if headers.get("sec-fetch-site") not in _OURS:
        return "This request comes from another site's page, and only Rowbell's own page may send it."
    return None


def _is_this_machine(host: str, hosts: Collection[str]) -> bool:
    # A name can be made to point elsewhere, an address cannot.
    if host == "localhost" or host in hosts:
        return True
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
