"""A real browser, and pages in it that tell of every complaint and of every request."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from report.page_reading import OpenPage
from vlmscope.report.document import Document
from vlmscope.report.render import render

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="package")  # its event loop must be gone when other tests start one
def browser() -> Iterator[Browser]:
    """Debian's chromium. Without one the tests are skipped, unless VLMSCOPE_REQUIRE_BROWSER=1."""
    path = shutil.which("chromium")
    if path is None:
        if os.environ.get("VLMSCOPE_REQUIRE_BROWSER") == "1":
            pytest.fail("no chromium on PATH: apt-get install chromium")
        pytest.skip("no chromium on PATH; .ci/run installs it")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    """Opens documents as pages; in the end nothing may have been complained of or requested."""
    complaints: list[str] = []
    contexts = []

    def open_document(document: Document, hash_: str = "", **options: object) -> Page:
        file = tmp_path / f"report-{len(contexts)}.html"
        file.write_text(render(document), encoding="utf-8")
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: _note(request.url, file, complaints))
        page.goto(file.as_uri() + hash_)
        return page

    yield open_document
    for context in contexts:
        context.close()
    assert complaints == []


def _note(url: str, file: Path, complaints: list[str]) -> None:
    """Complain of every request but those for the page itself and for data."""
    if not url.startswith("data:") and url.split("#")[0] != file.as_uri():
        complaints.append(f"request: {url}")
