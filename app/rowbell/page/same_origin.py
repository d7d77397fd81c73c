"""Which requests come from the page itself, and not from another site in the same browser.

The page's requests carry no secret, so a foreign page could send the same ones: directly, or by letting its own name
point to this machine (DNS rebinding). The first has a foreign `Origin`, the second a foreign `Host`.

Source: Fetch Metadata (W3C), RFC 6454 (Origin)
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import ip_address

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/@\s]+)(?::[0-9]{1,5})?")

_OURS = (None, "same-origin", "none")
"""`Sec-Fetch-Site` of the page's own requests, and of programs, which send none."""


def complaint(headers: Mapping[str, str], hosts: Collection[str]) -> str | None:
    """Why a request with these headers is refused; None if it is not. `hosts` are further names of this machine."""
    host = headers.get("host", "")
    if not (match := _HOST.fullmatch(host)) or not _is_this_machine(match[1].lower(), hosts):
        return "This page answers under localhost or an IP address, not under the host name in your request."
    origin = headers.get("origin")
    if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
        return "This request comes from another site's page, and only Rowbell's own page may send it."
    if headers.get("sec-fetch-site") not in _OURS:
        return "This request comes from another site's page, and only Rowbell's own page may send it."
    return None


def _is_this_machine(host: str, hosts: Collection[str]) -> bool:
    # An address cannot be made to point elsewhere, a name can.
    if host == "localhost" or host in hosts:
        return True
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
