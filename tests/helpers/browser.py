"""A real browser for tests of pages: Chromium through Playwright, and what its pages asked for and complained about.

A test without the two is skipped, unless BITTAPER_REQUIRE_BROWSER is set, as in CI: then it fails.

    @pytest.fixture(scope="module")
    def chromium():
        with open_chromium() as browser:
            yield browser

    def test_the_report_opens_offline(chromium):
        with watched(chromium, width=1280) as watch:
            page = watch.open(report.as_uri())
            assert page.title() == "..."
        assert watch.foreign("file://") == []
        assert watch.complaints == []
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 60_000
WITHIN_PAGE = ("data:", "blob:", "about:")


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("BITTAPER_REQUIRE_BROWSER"):
        pytest.fail(f"BITTAPER_REQUIRE_BROWSER is set, but {reason}")
    pytest.skip(reason)


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """A headless Chromium with a profile of its own; skips or fails the test where there is none."""
    executable = shutil.which("chromium")
    if executable is None:
        _give_up("chromium is missing: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _give_up("playwright is missing: pip install playwright")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """The pages of one browser context.

    Attributes:
        requests: Every address that was asked for.
        complaints: Errors in the console, exceptions, and dialogs that opened.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.requests: list[str] = []
        self.complaints: list[str] = []
        context.on("request", lambda request: self.requests.append(request.url))
        context.set_default_timeout(WAIT_MS)

    def open(self, address: str) -> Page:
        """Open a page in a tab of its own."""
        page = self.context.new_page()
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dismiss)
        page.goto(address)
        return page

    def _dismiss(self, dialog: object) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def foreign(self, *own: str) -> list[str]:
        """What was asked for outside of addresses that begin with one of ``own``, and outside of the page itself."""
        return [address for address in self.requests if not address.startswith((*own, *WITHIN_PAGE))]


@contextmanager
def watched(browser: Browser, *, width: int = 1280, height: int = 900, scheme: str = "light") -> Iterator[Watch]:
    """A browser context of its own, closed at the end.

    Args:
        browser: From :func:`open_chromium`.
        width: Of the window, in CSS pixels.
        height: The same.
        scheme: ``light`` or ``dark``, as the page's ``prefers-color-scheme`` sees it.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    watch = Watch(context)
    try:
        yield watch
    finally:
        context.close()
