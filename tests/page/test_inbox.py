"""The inbox in Chromium: rows come and go, here and in a second window, whatever happens to the server."""

from __future__ import annotations

import psycopg
import pytest
from playwright.async_api import Page, expect

from tests.integration.processes import eventually
from tests.page.conftest import Open, Served
from tests.page.windows import WATCH, badge, live, read_row, row, unread_titles

pytestmark = pytest.mark.asyncio(loop_scope="package")

Rows = psycopg.Connection[tuple[object, ...]]
User = str


@pytest.fixture
def alice(user: object) -> User:
    return user("alice")  # type: ignore[operator,no-any-return]


def insert(rows: Rows, recipient: str, *titles: str, **columns: object) -> None:
    """Commit these rows, one after the other."""
    names = ", ".join(["recipient_id", "title", *columns])
    marks = ", ".join(["%s"] * (2 + len(columns)))
    for title in titles:
        rows.execute(
            f"INSERT INTO notification ({names}) VALUES ({marks})".encode(), [recipient, title, *columns.values()]
        )


def mark_read(rows: Rows, recipient: str, title: str) -> None:
    rows.execute("UPDATE notification SET read_at = now() WHERE recipient_id = %s AND title = %s", [recipient, title])


def unread_in_table(rows: Rows, recipient: str) -> list[object]:
    found = rows.execute("SELECT title FROM unread_notification WHERE recipient_id = %s ORDER BY id", [recipient])
    return [title for (title,) in found]


async def seen(page: Page, what: str) -> list[str]:
    return list(await page.evaluate(f"() => seen.{what}"))


async def test_a_committed_row_appears_and_rings_once(open_window: Open, rows: Rows, alice: User) -> None:
    page = await open_window(alice, script=WATCH)
    await live(page)
    await badge(page, "")
    await expect(page.get_by_text("Nothing unread")).to_be_visible()

    insert(rows, alice, "Hello", body="Bob wrote", type="COMMENT", data='{"postId": "p-100"}', actor_id="bob")

    await expect(row(page, "Hello")).to_contain_text("Bob wrote")
    for text in ("COMMENT", '{"postId":"p-100"}', "from bob", "just now"):
        await expect(row(page, "Hello")).to_contain_text(text)
    await badge(page, "1")
    await expect(page.get_by_text("Nothing unread")).to_be_hidden()
    await expect(page.get_by_role("status", name="New notifications")).to_have_text("New: Hello")
    assert (await seen(page, "toasts"), await seen(page, "fresh")) == (["New: Hello"], ["Hello"])


async def test_neither_a_reload_nor_a_change_rings_again(open_window: Open, rows: Rows, alice: User) -> None:
    insert(rows, alice, "Hello")
    page = await open_window(alice, script=WATCH)
    await live(page)
    await page.reload()
    await unread_titles(page, "Hello")

    rows.execute("UPDATE notification SET title = 'Changed' WHERE recipient_id = %s", [alice])

    await unread_titles(page, "Changed")
    await badge(page, "1")
    assert (await seen(page, "toasts"), await seen(page, "fresh")) == ([], [])


async def test_many_at_once_ring_together(open_window: Open, rows: Rows, alice: User) -> None:
    page = await open_window(alice, script=WATCH)
    await live(page)

    rows.execute(
        "INSERT INTO notification (recipient_id, title) SELECT %s, 'Row ' || n FROM generate_series(1, 60) AS n",
        [alice],
    )

    await badge(page, "60")
    await expect(page.locator("#unread .row")).to_have_count(60)
    toasts = await seen(page, "toasts")
    assert len(toasts) < 30
    assert toasts[-1].endswith("Row 60")
    assert sorted(await seen(page, "fresh")) == sorted(f"Row {n}" for n in range(1, 61))


async def test_a_row_that_is_marked_as_read_is_read_in_the_other_window(
    open_window: Open, rows: Rows, alice: User
) -> None:
    insert(rows, alice, "First", "Second")
    page, other = await open_window(alice), await open_window(alice)
    await live(page)
    await live(other)

    await page.get_by_role("button", name="Mark as read: First").click()

    for window in (page, other):
        await unread_titles(window, "Second")
        await expect(read_row(window, "First")).to_contain_text("read just now")
        await badge(window, "1")
    assert unread_in_table(rows, alice) == ["Second"]


async def test_marking_all_marks_what_was_there_in_both_windows(open_window: Open, rows: Rows, alice: User) -> None:
    insert(rows, alice, "First", "Second", "Third")
    page, other = await open_window(alice), await open_window(alice)
    await live(page)
    await live(other)

    await page.get_by_role("button", name="Mark all as read").click()

    for window in (page, other):
        await expect(window.get_by_text("Nothing unread")).to_be_visible()
        await badge(window, "")
        await expect(window.locator("#read .row")).to_have_count(3)
    assert unread_in_table(rows, alice) == []
    insert(rows, alice, "Fourth")
    await unread_titles(page, "Fourth")
    await expect(page.get_by_role("button", name="Mark all as read")).to_have_attribute("aria-disabled", "false")


async def test_what_is_read_and_deleted_by_sql_moves_both_windows(open_window: Open, rows: Rows, alice: User) -> None:
    insert(rows, alice, "Read", "Deleted", "Left")
    windows = [await open_window(alice), await open_window(alice)]
    for window in windows:
        await badge(window, "3")

    mark_read(rows, alice, "Read")
    rows.execute("DELETE FROM notification WHERE recipient_id = %s AND title = 'Deleted'", [alice])

    for window in windows:
        await unread_titles(window, "Left")
        await expect(read_row(window, "Read")).to_be_visible()
        await expect(window.get_by_text("Deleted")).to_have_count(0)
        await badge(window, "1")

    rows.execute("UPDATE notification SET read_at = NULL WHERE recipient_id = %s", [alice])

    for window in windows:
        await unread_titles(window, "Left", "Read")
        await badge(window, "2")


async def test_a_row_leaves_when_it_expires(open_window: Open, rows: Rows, alice: User) -> None:
    insert(rows, alice, "Stays")
    page = await open_window(alice)
    await live(page)
    rows.execute(
        "INSERT INTO notification (recipient_id, title, expires_at) VALUES (%s, 'Goes', now() + '1.5 s')", [alice]
    )
    await expect(row(page, "Goes")).to_contain_text("expires in less than a minute")
    await badge(page, "2")

    await unread_titles(page, "Stays")

    await badge(page, "1")


async def test_a_server_that_is_killed_and_comes_back_loses_and_doubles_nothing(
    open_window: Open, rows: Rows, alice: User, served: Served
) -> None:
    insert(rows, alice, "Stays", "Read meanwhile", "Deleted meanwhile")
    page = await open_window(alice, script=WATCH)
    await live(page)
    await unread_titles(page, "Deleted meanwhile", "Read meanwhile", "Stays")

    served.kill()
    await expect(page.locator("#state")).to_contain_text("Reconnecting")
    insert(rows, alice, "Committed meanwhile")
    mark_read(rows, alice, "Read meanwhile")
    rows.execute("DELETE FROM notification WHERE recipient_id = %s AND title = 'Deleted meanwhile'", [alice])
    await expect(page.get_by_role("alert").filter(has_text="The server cannot be reached")).to_be_visible()
    await expect(page.get_by_role("button", name="Mark all as read")).to_have_attribute("aria-disabled", "true")
    await unread_titles(page, "Deleted meanwhile", "Read meanwhile", "Stays")  # better old than gone
    served.start()

    await live(page)
    await unread_titles(page, "Committed meanwhile", "Stays")
    await badge(page, "2")
    await expect(page.get_by_text("The server cannot be reached")).to_be_hidden()
    insert(rows, alice, "After it")
    await unread_titles(page, "After it", "Committed meanwhile", "Stays")
    assert await seen(page, "toasts") == ["New: After it"]
    assert await seen(page, "fresh") == ["After it"]
    assert (await seen(page, "states"))[-2:] == ["reconnecting", "live"]


async def test_a_window_that_is_opened_while_the_server_is_away_waits_for_it(
    open_window: Open, rows: Rows, alice: User, served: Served
) -> None:
    insert(rows, alice, "Hello")
    page = await open_window("nobody")
    await live(page)
    served.kill()
    await page.evaluate("(user) => { location.hash = user; }", alice)
    await expect(page.locator("#state")).to_contain_text("Reconnecting")
    await expect(page.get_by_text("Nothing unread")).to_be_hidden()

    served.start()

    await live(page)
    await unread_titles(page, "Hello")


async def test_whom_no_row_can_be_for_is_refused_with_the_reason(open_window: Open, alice: User) -> None:
    page = await open_window("a%2Fb")

    await expect(page.locator("#state")).to_have_text("Connection: Refused")
    notice = page.get_by_role("alert").filter(has_text="The server refused the connection: the user's id")
    await expect(notice).to_be_visible()
    await page.get_by_role("button", name="Try again").click()
    await expect(notice).to_be_visible()

    await page.get_by_label("User").fill(alice)
    await page.get_by_role("button", name="Switch").click()

    await live(page)
    await expect(page.get_by_role("button", name="Try again")).to_be_hidden()


async def test_another_user_has_another_inbox(open_window: Open, rows: Rows, alice: User) -> None:
    bob = f"{alice} & Bob é"
    insert(rows, alice, "For Alice")
    insert(rows, bob, "For Bob", "For Bob too")
    page = await open_window(alice)
    await badge(page, "1")
    await unread_titles(page, "For Alice")

    await page.get_by_label("User").fill(bob)
    await page.get_by_role("button", name="Switch").click()

    await unread_titles(page, "For Bob too", "For Bob")
    await badge(page, "2")
    insert(rows, alice, "For Alice too")
    insert(rows, bob, "For Bob again")
    await unread_titles(page, "For Bob again", "For Bob too", "For Bob")
    await page.reload()
    await unread_titles(page, "For Bob again", "For Bob too", "For Bob")
    assert (await page.title()).endswith(f"{bob} · Rowbell")
    await expect(page.get_by_label("User")).to_have_value(bob)


async def test_more_rows_than_anybody_reads_are_drawn_in_portions(open_window: Open, rows: Rows, alice: User) -> None:
    rows.execute(
        "INSERT INTO notification (recipient_id, title) SELECT %s, 'Row ' || n FROM generate_series(1, 1200) AS n",
        [alice],
    )
    page = await open_window(alice)
    await live(page)

    await badge(page, "1000+")
    await expect(page.locator("#unread .row")).to_have_count(200)
    await expect(page.locator("#unread h3").first).to_have_text("Row 1200")
    await page.get_by_role("button", name="Show 200 more of 1,000").click()
    await expect(page.locator("#unread .row")).to_have_count(400)
    await expect(page.get_by_role("button", name="Mark as read: Row 1000", exact=True)).to_be_focused()
    await page.get_by_role("button", name="Mark all as read").click()
    await expect(page.get_by_text("Nothing unread")).to_be_visible()
    await badge(page, "")
    assert unread_in_table(rows, alice) == []


async def test_a_window_that_is_not_shown_counts_and_acknowledges_all_the_same(
    open_window: Open, rows: Rows, alice: User
) -> None:
    # given a window in which no animation frame ever comes
    hidden = """
        Object.defineProperty(document, 'hidden', { get: () => true });
        window.requestAnimationFrame = () => 0;
    """
    page = await open_window(alice, script=hidden)
    await live(page)

    insert(rows, alice, "Hello")

    await eventually("the title", lambda: _has_title(page, f"(1) {alice} · Rowbell"))
    await eventually("the acknowledgement", lambda: _deliveries(rows, alice) == 1)


async def test_what_a_row_says_is_text_and_nothing_else(open_window: Open, rows: Rows, alice: User) -> None:
    page = await open_window(alice)
    await live(page)

    insert(
        rows, alice, "<img src=x onerror=alert(1)>", body="<script>alert(2)</script>", actor_id="<b>", type="A.b-c_1"
    )

    await unread_titles(page, "<img src=x onerror=alert(1)>")
    await expect(page.locator("#unread :is(img, script, b)")).to_have_count(0)


async def test_a_long_body_is_shown_when_it_is_asked_for(open_window: Open, rows: Rows, alice: User) -> None:
    insert(rows, alice, "Long", body="\n".join(f"line {n}" for n in range(100)))
    page = await open_window(alice)
    body = row(page, "Long").locator(".body")
    before = await body.bounding_box()

    await page.get_by_role("button", name="Show all").click()

    after = await body.bounding_box()
    assert before is not None
    assert after is not None
    assert after["height"] > 10 * before["height"]
    await expect(page.get_by_role("button", name="Show less")).to_have_attribute("aria-expanded", "true")


async def _has_title(page: Page, title: str) -> bool:
    return await page.title() == title


def _deliveries(rows: Rows, user: str) -> object:
    return rows.execute("SELECT count(*) FROM notification_delivery WHERE user_id = %s", [user]).fetchone()[0]  # type: ignore[index]


async def test_neither_the_same_version_nor_an_older_one_replaces_what_is_known(open_window: Open, alice: User) -> None:
    page = await open_window(alice)

    told = await page.evaluate("""async () => {
        const { Inbox } = await import('/page/inbox.js');
        const inbox = new Inbox();
        const row = (event, version, more) => ({ event, id: 7, version, readAt: null, expiresAt: null, ...more });
        const told = [];
        const take = (...row) => told.push([inbox.take(...row, 0), inbox.at(0).unread.map((each) => each.version)]);
        take(row('created', 2), false);
        take(row('created', 2), false);
        take(row('updated', 1), false);
        take(row('updated', 3), false);
        take(row('deleted'), false);
        inbox.restart();
        take(row('created', 4), true);
        inbox.restart();
        take(row('created', 4), true);
        inbox.restart();
        told.push(inbox.at(0).unread.length);
        inbox.finish();
        told.push(inbox.at(0).unread.length);
        return told;
    }""")

    news, nothing = True, False
    assert told == [
        [news, [2]],
        [nothing, [2]],
        [nothing, [2]],
        [nothing, [3]],
        [nothing, []],
        [nothing, [4]],
        [nothing, [4]],
        1,
        0,
    ]
