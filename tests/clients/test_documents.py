"""The lines that the documents give to whoever writes a client, as they stand there: in Chromium, and under Python."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Route, expect

from rowbell.auth import Tokens
from rowbell.config import Settings
from tests.clients.stock import STOMPJS
from tests.clients.tap import Tap
from tests.integration.processes import eventually
from tests.integration.rows import Database, delivered, insert, unread
from tests.integration.systems import PostgresOnly
from tests.test_docs import blocks

pytestmark = pytest.mark.asyncio(loop_scope="package")

Names = Callable[[str], str]

ROOT = Path(__file__).parents[2]
ADDRESS = "127.0.0.1:8114"
"""Of the gateway, in every document."""


def section(document: str, heading: str) -> str:
    """From this heading to the next of its rank or above."""
    rank, _, _ = heading.partition(" ")
    text = (ROOT / document).read_text().split(f"\n{heading}\n", 1)[1]
    for above in range(1, len(rank) + 1):
        text = text.split(f"\n{'#' * above} ", 1)[0]
    return text


STOMPJS_IN_README, JSON_IN_README, MARK_AS_READ = blocks(section("README.md", "## Use"), "js")
JSON_IN_CLIENTS, RECONNECTING_JSON = blocks(section("docs/clients.md", "## Plain JSON"), "js")
INBOX_JS = "\n".join(blocks(section("docs/clients.md", "## Browser: @stomp/stompjs"), "js"))
[INBOX_HTML] = blocks(section("docs/clients.md", "## Browser: @stomp/stompjs"), "html")
[STOMP_PY] = blocks(section("docs/clients.md", "## Python: stomp.py"), "python")


EXPIRED = -60
"""The lifetime of a token that is refused."""
NEARLY_EXPIRED = 1 - Settings().jwt_leeway
"""The lifetime of one with which a session lasts for a second at most."""
AWAY = "the application is away"


class Application:
    """It issues tokens of these lifetimes, one after the other, and then the last again; None: it fails."""

    def __init__(self, system: PostgresOnly, user: str, *lifetimes: int | None) -> None:
        self.asked: list[float] = []
        """When, in seconds."""
        self._tokens = Tokens(system.env["ROWBELL_JWT_SECRET"])
        self._user = user
        self._lifetimes = list(lifetimes)

    def fresh_token(self) -> str:
        self.asked.append(time.monotonic())
        lifetime = self._lifetimes.pop(0) if len(self._lifetimes) > 1 else self._lifetimes[0]
        if lifetime is None:
            raise ConnectionError(AWAY)
        return self._tokens.issue(self._user, lifetime)

    def waits(self) -> list[float]:
        """Between each time that it was asked and the next."""
        return [after - before for before, after in pairwise(self.asked)]


class Window:
    """A page of the gateway's origin, and what its scripts have said."""

    def __init__(self, page: Page, port: int) -> None:
        self.page = page
        self.said: list[list[Any]] = []
        """The arguments of each `console.log` or `console.error`, in order."""
        self._address = f"127.0.0.1:{port}"

    async def open(self) -> None:
        self.page.on("console", self._keep)
        self.page.on("pageerror", lambda error: self.said.append(["pageerror", str(error)]))
        await self.page.goto(f"http://{self._address}/live")

    async def run(self, script: str) -> None:
        """As a script of the page; what it declares is there for the next."""
        await self.page.add_script_tag(content=self.here(script))

    def here(self, script: str) -> str:
        """The document's lines, with the address of the gateway of the test."""
        return script.replace(ADDRESS, self._address)

    async def ask(self, application: Application) -> None:
        await self.page.expose_function("freshToken", application.fresh_token)

    async def until_said(self, *arguments: Any, times: int = 1) -> None:
        await eventually(f"{arguments} in {self.said}", lambda: self.said.count(list(arguments)) >= times)

    async def until_told(self, event: str, id: int) -> dict[str, Any]:
        await eventually(f"{event} {id}", lambda: self.told(event, id))
        return self.told(event, id)[0]

    def told(self, event: str, id: int) -> list[dict[str, Any]]:
        """The notifications that were logged whole."""
        objects = [what[0] for what in self.said if isinstance(what[0], dict)]
        return [one for one in objects if (one.get("event"), one.get("id")) == (event, id)]

    async def _keep(self, message: ConsoleMessage) -> None:
        if message.args:  # else they are the browser's own words
            self.said.append([await argument.json_value() for argument in message.args])


@pytest_asyncio.fixture(loop_scope="package")
async def window(chromium: Browser, tap: Tap) -> AsyncIterator[Window]:
    """Of a gateway behind the tap."""
    window = Window(await chromium.new_page(), tap.port)
    await window.open()
    yield window
    assert not [what for what in window.said if what[0] == "pageerror"]
    await window.page.close()


async def test_stompjs_as_the_readme_has_it_shows_acknowledges_and_marks_as_read(
    window: Window, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    old = await insert(owner, alice, "Old: 👋")
    await window.page.add_script_tag(path=STOMPJS)
    await window.ask(Application(postgres_only, alice, 3600))
    # When
    await window.run(STOMPJS_IN_README)
    # Then
    assert (await window.until_told("created", old))["title"] == "Old: 👋"
    new = await insert(owner, alice, "New")
    await window.until_told("created", new)
    await window.until_said({"unread": 2})

    async def acknowledged() -> bool:
        return await delivered(owner, alice) == {old, new}

    await eventually("both are delivered", acknowledged)
    # When
    await window.run(MARK_AS_READ)
    # Then
    assert (await window.until_told("updated", old))["readAt"] is not None
    await window.until_said({"unread": 0})
    assert await unread(owner, alice) == []


async def test_stompjs_as_the_readme_has_it_says_why_it_is_refused_and_comes_back_with_a_fresh_token(
    window: Window, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    old = await insert(owner, alice)
    application = Application(postgres_only, alice, EXPIRED, None, NEARLY_EXPIRED, 3600)
    await window.page.add_script_tag(path=STOMPJS)
    await window.ask(application)
    # When
    await window.run(STOMPJS_IN_README)
    # Then
    await eventually("it was let in twice", lambda: window.told("created", old)[1:], within=40)
    assert len(application.asked) == 4
    problems = [str(what[0]) for what in window.said if not isinstance(what[0], dict)]
    assert len(problems) == 4
    assert problems[:3] == [
        "the token is refused: it has expired",
        AWAY,
        "the token is refused: it is malformed",  # as there is none
    ]
    assert problems[3].startswith("token expired")


async def test_plain_json_as_the_readme_has_it_shows_what_comes(
    window: Window, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    alice = user("alice")
    old = await insert(owner, alice, "Old: 👋")
    await window.run(f"const token = {json.dumps(postgres_only.token(alice))};")
    await window.run(JSON_IN_README)
    assert (await window.until_told("created", old))["replayed"] is True
    new = await insert(owner, alice)
    assert "replayed" not in await window.until_told("created", new)
    await owner.execute("DELETE FROM notification WHERE id = %s", [new])
    await window.until_told("deleted", new)
    assert all(what[0]["event"] for what in window.said), "only notifications are shown"


async def test_plain_json_as_clients_has_it_shows_what_comes_and_counts(
    window: Window, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    alice = user("alice")
    old = await insert(owner, alice, "Old: 👋", type="UNREAD")
    await window.run(f"const token = {json.dumps(postgres_only.token(alice))};")
    await window.run(JSON_IN_CLIENTS)
    await window.until_said("created", old, "Old: 👋")
    await window.until_said("1 unread")
    new = await insert(owner, alice, "New")
    await window.until_said("created", new, "New")
    await window.until_said("2 unread")


async def test_plain_json_that_reconnects_survives_a_cut_an_expired_token_and_an_application_that_is_away(
    window: Window, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    application = Application(postgres_only, alice, 3600, None, EXPIRED, EXPIRED, NEARLY_EXPIRED, 3600)
    await window.ask(application)
    await window.run(RECONNECTING_JSON)
    await window.until_said("0 unread")
    # When
    tap.cut()
    meanwhile = await insert(owner, alice, "Meanwhile")
    # Then it is let in with the fifth token, which expires, and with the sixth
    await window.until_said("created", meanwhile, "Meanwhile", times=2)
    after = await insert(owner, alice, "After")
    await window.until_said("created", after, "After")
    assert [str(what[0]) for what in window.said if what[0] not in ("created", "0 unread", "1 unread", "2 unread")] == [
        AWAY,
        "token expired",
    ]
    # and it waits longer each time, until it has been let in
    *growing, last = application.waits()
    assert all(waited >= least for waited, least in zip(growing, [0.25, 0.5, 1, 2], strict=True))
    assert last < 4, "the next after them, of a session of a second"


async def test_plain_json_that_reconnects_gives_up_a_connection_that_carries_nothing(
    window: Window, tap: Tap, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given a connection that lasts, as its pings are answered
    alice = user("alice")
    application = Application(postgres_only, alice, 3600)
    await window.ask(application)
    assert "20000" in RECONNECTING_JSON
    await window.run(RECONNECTING_JSON.replace("20000", "500"))
    await window.until_said("0 unread")
    await asyncio.sleep(2)
    assert len(application.asked) == 1
    # When
    tap.freeze()
    row = await insert(owner, alice)
    # Then
    await window.until_said("created", row, "Hello")
    assert len(application.asked) == 2


async def test_the_inbox_of_clients_lists_toasts_rings_and_reads(
    window: Window, postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice, page = user("alice"), window.page
    await insert(owner, alice, "Old: 👋")
    token = json.dumps(postgres_only.token(alice))
    scripts = {
        "stomp.umd.min.js": STOMPJS.read_text(),
        "inbox.js": window.here(f"const freshToken = async () => {token};\n{INBOX_JS}"),
    }

    async def script(route: Route) -> None:
        name = route.request.url.rpartition("/")[2]
        await route.fulfill(content_type="text/javascript; charset=utf-8", body=scripts[name])

    await page.route("**/*.js", script)
    # When
    await page.set_content(INBOX_HTML)
    # Then what was there is listed, and nobody is woken up by it
    await expect(page.locator("#inbox li")).to_have_text(["Old: 👋"])
    await expect(page.locator("#bell")).to_have_text("1 unread")
    assert window.said == []
    # When
    for title in ("New", "Newer"):
        await insert(owner, alice, title)
    # Then
    await expect(page.locator("#inbox li")).to_have_text(["Old: 👋", "New", "Newer"])
    await window.until_said("new:", "Newer")
    await expect(page.locator("#bell")).to_have_text("3 unread")
    # When
    await page.get_by_text("New", exact=True).click()
    # Then
    await expect(page.locator("#inbox li")).to_have_text(["Old: 👋", "Newer"])
    await expect(page.locator("#bell")).to_have_text("2 unread")
    # When
    await page.locator("#bell").click()
    # Then
    await expect(page.locator("#inbox li")).to_have_count(0)
    await expect(page.locator("#bell")).to_have_text("0 unread")
    assert await unread(owner, alice) == []
    assert window.said == [["new:", "New"], ["new:", "Newer"]]


async def test_stomp_py_as_clients_has_it_lists_the_unread_rows(
    postgres_only: PostgresOnly, owner: Database, user: Names
) -> None:
    # Given
    alice = user("alice")
    ids = {await insert(owner, alice, title) for title in ("Grüße: 👋", "Second")}
    host, port = ADDRESS.split(":")
    assert f'("{host}", {port})' in STOMP_PY
    script = STOMP_PY.replace(port, str(postgres_only.gateway(0).port))
    env = {**os.environ, "TOKEN": postgres_only.token(alice), "PYTHONIOENCODING": "utf-8"}
    # When
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        said, complaints = await process.communicate()
    # Then
    assert (said.decode(), complaints.decode()) == ("['Grüße: 👋', 'Second']\n", "")

    async def acknowledged() -> bool:
        return await delivered(owner, alice) == ids

    await eventually("both are delivered", acknowledged)
