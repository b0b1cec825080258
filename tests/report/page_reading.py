"""What the tests read of a page in a browser."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

OpenPage = Callable[..., Page]


def ids(page: Page) -> list[str]:
    """Return the ids of the cards on the shown page, as they stand."""
    return page.locator(".card-id").all_text_contents()


def field(page: Page, name: str) -> Locator:
    """Return a field of the filters."""
    return page.locator(f"#filters [name={name}]")


def outcome(page: Page, name: str) -> Locator:
    """Return the box of an outcome."""
    return page.locator(f"#filters [value={name}]")


def shows_ids(page: Page, expected: list[str]) -> None:
    """Wait until the shown page has these cards: a page may change after the key that changed it.

    So do the others of this module that are checks.
    """
    expect(page.locator(".card-id")).to_have_text(expected)


def shows_count(page: Page, expected: str) -> None:
    expect(page.locator("#gallery-count")).to_have_text(expected)


def has_address(page: Page, fragment: str) -> None:
    """Wait for the part of the address behind ``#``; empty where there is none."""
    end = f"#{fragment}" if fragment else ""
    expect(page).to_have_url(re.compile(f"^[^#]*{re.escape(end)}$"))


def has_colour(page: Page, selector: str, expected: str, name: str = "background-color") -> None:
    expect(page.locator(selector).first).to_have_css(name, expected)


def colour(page: Page, selector: str, name: str = "background-color") -> str:
    script = "([css, name]) => getComputedStyle(document.querySelector(css)).getPropertyValue(name)"
    return str(page.evaluate(script, [selector, name]))
