"""A real Chromium. Every page is watched: an error in its console, or a breach of its policy, fails its test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

HERE = Path(__file__).parent
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 375, "height": 740}
#: A busy machine is slow; nothing here is a race.
PATIENCE = 45_000
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

OpenPage = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each test here drives a browser, which is a process of its own."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages of a context of their own. ``expected``: a part of the only complaints that there may be."""
    with ExitStack() as opened:
        complaints: list[str] = []

        def open_one(url: str, *, expected: str | None = None, **options: Any) -> Page:
            context = browser.new_context(viewport=options.pop("viewport", DESKTOP), locale="en-GB", **options)
            opened.callback(context.close)
            context.set_default_timeout(PATIENCE)
            page = context.new_page()

            def heard(message: ConsoleMessage) -> None:
                if message.type in ("error", "warning") and not (expected and expected in message.text):
                    complaints.append(f"{message.type}: {message.text}")

            page.on("console", heard)
            page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
            page.goto(f"{url}/console")
            return page

        yield open_one
        assert complaints == []


def sign_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Sections").wait_for()


def go(page: Page, section: str) -> None:
    """Returns when the section is there: until then what is looked at would be the one before."""
    page.get_by_role("navigation", name="Sections").get_by_role("link", name=section).click()
    expect(page.locator(f"section.view.{section.lower()} h1")).to_be_focused(timeout=PATIENCE)


def keep_picture(page: Page, name: str) -> None:
    """Taken only where CONSOLE_PICTURES names a directory for them."""
    directory = os.environ.get("CONSOLE_PICTURES")
    if directory:
        page.screenshot(path=Path(directory) / f"{name}.png")
