"""Headless Chromium for tests, and what it says about a page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

QUIET = ("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed Chromium. Without one the test is skipped, in continuous integration it fails."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        message = "no Chromium on PATH: install the package chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        # Its sandbox refuses to run as root, as in containers.
        browser = playwright.chromium.launch(
            executable_path=executable, args=[*QUIET, "--disable-sync", "--no-sandbox"]
        )
        yield browser
        browser.close()


@dataclass
class Tab:
    """An opened page. `complaints`: errors and warnings of its console; `requests`: addresses it asked for."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, place: Path | str, *, width: int = 1280, dark: bool = False) -> Iterator[Tab]:
    """`place`: a file, or an address."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    tab = Tab(page)
    page.on("console", lambda message: tab.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    page.on("request", lambda request: tab.requests.append(request.url))
    page.goto(place if isinstance(place, str) else place.as_uri())
    yield tab
    page.close()


def contrast(one: str, other: str) -> float:
    """WCAG 2.2 contrast ratio of two colours as the browser computes them: `rgb(28, 33, 39)`."""
    brighter, darker = sorted(map(_luminance, (one, other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
