"""The form in Chromium: what it inserts, the SQL that it shows for it, and what is said when a row is refused."""

from __future__ import annotations

import re

import psycopg
import pytest
from playwright.async_api import Page, expect

from tests.page.conftest import Open, Served
from tests.page.windows import live, unread_titles

pytestmark = pytest.mark.asyncio(loop_scope="package")

Rows = psycopg.Connection[tuple[object, ...]]

ALL = "SELECT title, type, body, data FROM notification WHERE recipient_id = %s ORDER BY id"


@pytest.fixture
def alice(user: object) -> str:
    return user("alice")  # type: ignore[operator,no-any-return]


async def statement(page: Page) -> str:
    return await page.locator("#statement").inner_text()


async def test_a_row_is_inserted_for_the_windows_user_and_appears(open_window: Open, rows: Rows, alice: str) -> None:
    page = await open_window(alice)
    await live(page)

    await page.get_by_role("button", name="Commit the row").click()

    await unread_titles(page, "Hello")
    await expect(page.locator("#outcome")).to_contain_text("is committed.")
    assert rows.execute(ALL, [alice]).fetchall() == [("Hello", "GENERIC", None, {})]


TEXTS = [
    ("O'Brien", "", "", ""),
    ("''", "T", "It's\n'two' lines\\n", '{"name": "O\'Brien"}'),
    ("\\' -- $$ ; %s :x \" ` é 🔔", "a.B-1_", "\\", '{"a": "\\\\ \\u00e9 \'"}'),
]


@pytest.mark.parametrize(("title", "type", "body", "data"), TEXTS)
async def test_the_sql_that_is_shown_does_the_same(
    open_window: Open, rows: Rows, alice: str, title: str, type: str, body: str, data: str
) -> None:
    page = await open_window(alice)
    for label, text in (("Title", title), ("Type", type), ("Body", body), ("Data", data)):
        await page.get_by_label(label).fill(text)

    await page.get_by_role("button", name="Commit the row").click()
    await expect(page.locator("#outcome")).to_contain_text("is committed.")
    rows.execute((await statement(page)).encode())

    by_form, by_sql = rows.execute(ALL, [alice]).fetchall()
    assert by_form == by_sql
    assert by_form[0] == title


async def test_the_sql_follows_what_is_typed_and_names_only_what_is_given(open_window: Open, alice: str) -> None:
    page = await open_window(alice)
    assert await statement(page) == (
        f"INSERT INTO notification\n  (recipient_id, title)\nVALUES\n  ('{alice}', 'Hello');"
    )

    await page.get_by_label("Recipient").fill("bob")
    await page.get_by_label("Title").fill("")
    await page.get_by_label("Title").press_sequentially("O'Brien")
    await page.get_by_label("Type").fill("COMMENT")

    assert await statement(page) == (
        "INSERT INTO notification\n  (recipient_id, title, type)\nVALUES\n  ('bob', 'O''Brien', 'COMMENT');"
    )


@pytest.mark.parametrize("secure", [True, False])
async def test_the_sql_can_be_copied(open_window: Open, alice: str, secure: bool) -> None:
    # Pages of another machine without TLS have no navigator.clipboard.
    script = None if secure else "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
    page = await open_window(alice, script=script, permissions=["clipboard-read", "clipboard-write"])
    await page.get_by_label("Body").fill("It's\ntwo lines")

    await page.get_by_role("button", name="Copy the SQL").click()

    await expect(page.get_by_role("button", name="Copied the SQL")).to_be_visible()
    await page.get_by_label("Body").fill("")
    await page.get_by_label("Body").press("ControlOrMeta+V")
    pasted = await page.get_by_label("Body").input_value()
    assert pasted.strip() == (
        f"INSERT INTO notification\n  (recipient_id, title, body)\nVALUES\n  ('{alice}', 'Hello', 'It''s\ntwo lines');"
    )


@pytest.mark.parametrize(
    ("label", "value", "reason"),
    [
        ("Recipient", "a/b", "recipient_id must be 1 to 255 characters"),
        ("Title", "", "title must be 1 to 500 characters"),
        ("Type", "a b", "type must be 1 to 100 of"),
        ("Body", "x" * 16385, "body must be at most 16384 bytes"),
        ("Data", "{postId: 1}", "data must be a JSON object"),
    ],
)
async def test_what_the_database_refuses_is_said_at_its_field(
    open_window: Open, rows: Rows, alice: str, label: str, value: str, reason: str
) -> None:
    page = await open_window(alice)
    field = page.get_by_label(label)
    await field.fill(value)

    await page.get_by_role("button", name="Commit the row").click()

    await expect(field).to_have_accessible_description(re.compile(re.escape(reason)))
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_be_focused()
    assert rows.execute(ALL, [alice]).fetchall() == []
    await field.fill("" if label in ("Type", "Body", "Data") else alice)
    await expect(field).to_have_accessible_description("")
    await page.get_by_role("button", name="Commit the row").click()
    await expect(page.locator("#unread .row")).to_have_count(1)


async def test_a_server_that_does_not_answer_is_said_at_the_form(open_window: Open, alice: str, served: Served) -> None:
    page = await open_window(alice)
    await live(page)
    served.kill()
    try:
        await page.get_by_role("button", name="Commit the row").click()

        await expect(page.get_by_role("alert").filter(has_text="The server did not answer")).to_be_visible()
    finally:
        served.start()
    await live(page)
    await page.get_by_role("button", name="Commit the row").click()
    await unread_titles(page, "Hello")
    await expect(page.get_by_text("The server did not answer")).to_have_count(0)


async def test_the_recipient_follows_the_user_unless_another_was_typed(open_window: Open, alice: str) -> None:
    page = await open_window(alice)

    async def switch(user: str) -> None:
        await live(page)  # Chromium warns of a socket that is closed before it is open.
        await page.get_by_label("User").fill(user)
        await page.get_by_role("button", name="Switch").click()

    await switch("bob")
    await expect(page.get_by_label("Recipient")).to_have_value("bob")
    await page.get_by_label("Recipient").fill("carol")
    await switch(alice)
    await expect(page.locator("#whose")).to_have_text(alice)
    await expect(page.get_by_label("Recipient")).to_have_value("carol")
