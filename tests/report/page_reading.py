"""What the tests read of a page in a browser."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page

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


def count(page: Page) -> str:
    return page.locator("#gallery-count").inner_text()


def address(page: Page) -> str:
    return page.url.partition("#")[2]


def colour(page: Page, selector: str, name: str = "background-color") -> str:
    script = "([css, name]) => getComputedStyle(document.querySelector(css)).getPropertyValue(name)"
    return str(page.evaluate(script, [selector, name]))
