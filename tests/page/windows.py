"""What a person sees in a window, and does."""

from __future__ import annotations

from playwright.async_api import Locator, Page, expect


def row(page: Page, title: str) -> Locator:
    """The unread rows with this title."""
    return page.locator("#unread .row", has=page.get_by_role("heading", name=title, exact=True))


def read_row(page: Page, title: str) -> Locator:
    """The rows with this title that are shown as read."""
    return page.locator("#read .row", has=page.get_by_role("heading", name=title, exact=True))


async def live(page: Page) -> None:
    """The connection is there, and all unread rows are."""
    await expect(page.get_by_role("status").filter(has_text="Connection")).to_have_text("Connection: Live")


async def unread_titles(page: Page, *titles: str) -> None:
    """Exactly these are shown as unread, from the top."""
    await expect(page.locator("#unread h3")).to_have_text(list(titles))


async def badge(page: Page, count: str) -> None:
    """The bell's badge and the window's title say so; '' for none."""
    await expect(page.locator("#badge")).to_have_text(count)
    await expect(page.locator("#badge")).to_be_visible(visible=count != "")
    await expect(page.locator("#count-text")).to_have_text(f"{count or 'No'} unread")
    assert (await page.title()).startswith(f"({count}) ") is (count != "")


WATCH = """
    window.seen = { toasts: [], fresh: [], states: [], most: 0 };
    new MutationObserver((changes) => {
      for (const { target, addedNodes } of changes) {
        if (target.id === 'toasts') for (const toast of addedNodes) seen.toasts.push(toast.textContent);
        if (target.id === 'state') seen.states.push(target.dataset.state);
        if (target.matches?.('.row.fresh')) seen.fresh.push(target.querySelector('h3').textContent);
      }
      const ids = [...document.querySelectorAll('.row')].map((row) => row.dataset.id);
      if (new Set(ids).size !== ids.length) seen.fresh.push('twice: ' + ids);
    }).observe(document, { subtree: true, childList: true, attributeFilter: ['class', 'data-state'] });
"""
"""For `open_window(script=...)`: what the page did, however short, is remembered in `seen`."""
