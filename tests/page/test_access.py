"""For everybody: with the keyboard, with a screen reader, on a narrow screen, by day and by night, without motion."""

from __future__ import annotations

from itertools import pairwise

import psycopg
import pytest
from playwright.async_api import Page, expect

from tests.page.conftest import Open
from tests.page.test_inbox import insert
from tests.page.windows import badge, live, read_row, unread_titles

pytestmark = pytest.mark.asyncio(loop_scope="package")

Rows = psycopg.Connection[tuple[object, ...]]

NARROWEST = {"width": 320, "height": 640}
"""WCAG 2.2, 1.4.10: what 1280 pixels are at 400 % zoom."""


@pytest.fixture
def alice(user: object) -> str:
    return user("alice")  # type: ignore[operator,no-any-return]


def fill(rows: Rows, user: str) -> None:
    """One row of every kind."""
    insert(rows, user, "Long" * 50, body="word " * 300, data='{"key": "' + "x" * 200 + '"}', actor_id="bob" * 20)
    insert(rows, user, "Read", type="COMMENT")
    insert(rows, user, "Short", expires_at="2099-01-01")


async def with_everything(page: Page, rows: Rows, user: str) -> None:
    """A page that shows a read row, an error, a toast and a lasting notice."""
    await live(page)
    fill(rows, user)
    await page.get_by_role("button", name="Mark as read: Read").click()
    await expect(read_row(page, "Read")).to_be_visible()
    await page.evaluate("document.querySelector('#composer').open = true")
    await page.get_by_label("Type").fill("a b")
    await page.get_by_role("button", name="Commit the row").click()
    await expect(page.locator("#type-error")).to_be_visible()


async def focused(page: Page) -> str:
    """Role-less: the id, or the accessible name, of what has the focus."""
    return str(
        await page.evaluate("""() => {
        const at = document.activeElement;
        return at.id || at.getAttribute('aria-label') || at.textContent.trim();
    }""")
    )


async def test_everything_can_be_done_with_the_keyboard(open_window: Open, rows: Rows, alice: str) -> None:
    insert(rows, alice, "First", "Second", "Third")
    page = await open_window(alice)
    await unread_titles(page, "Third", "Second", "First")
    await live(page)

    # the inbox, past the form
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Skip to the inbox")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    assert await focused(page) == "unread-heading"
    order = []
    for _ in range(4):
        await page.keyboard.press("Tab")
        order.append(await focused(page))
    assert order == ["all-read", *(f"Mark as read: {title}" for title in ("Third", "Second", "First"))]

    # the focus goes to the next row, and to the heading when none is left
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await unread_titles(page, "Third", "First")
    assert await focused(page) == "Mark as read: First"
    await page.keyboard.press("Space")
    await unread_titles(page, "Third")
    assert await focused(page) == "Mark as read: Third"
    await page.keyboard.press("Space")
    await unread_titles(page)
    assert await focused(page) == "unread-heading"

    # the form
    await page.get_by_label("Title").focus()
    await page.keyboard.press("ControlOrMeta+A")
    await page.keyboard.type("Typed")
    await page.keyboard.press("Enter")
    await unread_titles(page, "Typed")


async def test_a_row_that_arrives_does_not_take_the_focus(open_window: Open, rows: Rows, alice: str) -> None:
    insert(rows, alice, "First")
    page = await open_window(alice)
    await live(page)
    await page.get_by_role("button", name="Mark as read: First").focus()

    insert(rows, alice, "Second")

    await unread_titles(page, "Second", "First")
    assert await focused(page) == "Mark as read: First"


async def test_the_page_has_landmarks_names_and_headings_in_order(open_window: Open, rows: Rows, alice: str) -> None:
    page = await open_window(alice)
    await with_everything(page, rows, alice)

    for landmark in ("banner", "main", "complementary"):
        await expect(page.get_by_role(landmark)).to_have_count(1)  # type: ignore[arg-type]
    for name in ("Unread", "Read"):
        await expect(page.get_by_role("region", name=name)).not_to_have_count(0)
    assert await page.evaluate(FAULTS) == []
    levels = await page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((each) => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


FAULTS = """() => {
    const faults = [];
    const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
    faults.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `id ${id} twice`));
    for (const each of document.querySelectorAll('input, textarea'))
        if (!each.labels.length) faults.push(`no label: ${each.outerHTML}`);
    for (const each of document.querySelectorAll('button, a, summary'))
        if (!(each.getAttribute('aria-label') || each.textContent.trim())) faults.push(`no name: ${each.outerHTML}`);
    for (const each of document.querySelectorAll('svg'))
        if (each.getAttribute('aria-hidden') !== 'true') faults.push(`an image to be read: ${each.outerHTML}`);
    for (const name of ['aria-describedby', 'aria-labelledby', 'for'])
        for (const each of document.querySelectorAll(`[${name}]`))
            if (!document.getElementById(each.getAttribute(name))) faults.push(`points nowhere: ${each.outerHTML}`);
    for (const each of document.querySelectorAll('[style], [onclick], style, script:not([src])'))
        faults.push(`inline: ${each.outerHTML}`);
    if (!document.documentElement.lang) faults.push('no language');
    return faults;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_text_stands_out_from_its_background(open_window: Open, rows: Rows, alice: str, scheme: str) -> None:
    page = await open_window(alice, color_scheme=scheme, reduced_motion="reduce")
    await with_everything(page, rows, alice)

    assert await page.evaluate(FAINT) == []

    refused = await open_window("a%2Fb", color_scheme=scheme)
    await expect(refused.get_by_role("button", name="Try again")).to_be_visible()
    assert await refused.evaluate(FAINT) == []


FAINT = """() => {
    // WCAG 2.2, 1.4.3: 4.5 to 1, as defined there
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => {
        const linear = [r, g, b].map((each) => each / 255)
            .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const background = (element) => {
        for (let each = element; each; each = each.parentElement) {
            const color = channels(getComputedStyle(each).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const faint = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim()) continue;
        if (!element.checkVisibility() || element.closest('.visually-hidden')) continue;
        const [a, b] = [luminance(channels(getComputedStyle(element).color)), luminance(background(element))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faint.push(`${contrast.toFixed(2)}: ${texts.currentNode.data.trim()}`);
    }
    return faint;
}"""


async def test_nothing_sticks_out_of_a_narrow_screen(open_window: Open, rows: Rows, alice: str) -> None:
    page = await open_window(alice, viewport=NARROWEST)
    await live(page)
    await expect(page.get_by_label("Recipient")).to_be_hidden()  # folded, so that the inbox is what one sees

    await with_everything(page, rows, alice)

    await badge(page, "2")
    sticking = await page.evaluate("""() => [...document.querySelectorAll('body *')]
        .filter((each) => each.checkVisibility())
        .filter((each) => !each.closest('.visually-hidden, .skip, .read-label, .choose label'))
        .filter((each) => each.getBoundingClientRect().right > innerWidth + 0.5)
        .map((each) => each.outerHTML.slice(0, 200))""")
    assert sticking == []
    assert await page.evaluate("document.documentElement.scrollWidth") == NARROWEST["width"]


async def test_what_is_pressed_is_large_enough_for_a_finger(open_window: Open, rows: Rows, alice: str) -> None:
    # WCAG 2.2, 2.5.8: 24 by 24 pixels; links within a sentence aside
    page = await open_window(alice, viewport=NARROWEST, has_touch=True)
    await with_everything(page, rows, alice)

    small = await page.evaluate("""() => [...document.querySelectorAll('button, input, textarea, summary')]
        .filter((each) => each.checkVisibility())
        .filter((each) => Math.min(each.offsetWidth, each.offsetHeight) < 24)
        .map((each) => each.outerHTML)""")
    assert small == []


async def test_nothing_moves_for_those_who_asked_for_that(open_window: Open, rows: Rows, alice: str) -> None:
    page = await open_window(alice, reduced_motion="reduce")
    await live(page)

    insert(rows, alice, "Hello")

    await expect(page.locator(".row.fresh")).to_be_visible()
    assert await page.evaluate("document.getAnimations().length") == 0
