"""A real headless browser."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = next(filter(None, map(shutil.which, NAMES)), None)

needs_browser = pytest.mark.skipif(FOUND is None, reason=f"no browser: install one of {', '.join(NAMES)}")


@contextmanager
def page_in_browser(colours: Literal["light", "dark"] = "light") -> Iterator[tuple[Page, list[str]]]:
    """An empty page, and a list that collects the errors of its scripts. For tests marked `needs_browser`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=FOUND, args=["--no-sandbox"])
        try:
            page = browser.new_page(color_scheme=colours)
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
            yield page, complaints
        finally:
            browser.close()
