"""A headless browser for the tests of pages; tests that need it are skipped where there is none."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@dataclass
class Tab:
    """A page that was opened, with all that went wrong in it and all that it asked for.

    Args:
        page: of playwright.
        complaints: errors and warnings of the console, and exceptions.
        requests: addresses, the page's own left out.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def draw(self) -> None:
        """Have every chart drawn, as when each is scrolled to."""
        self.page.wait_for_function("window.Plotly")
        self.page.evaluate("drawAll()")
        self.page.wait_for_function("charts.every(chart => chart.dataset.drawn === 'yes')")

    def told(self, message: Any) -> None:
        """Note what the console says; how fast the graphics card is emulated is not the page's fault."""
        if message.type in ("error", "warning") and "GPU stall" not in message.text:
            self.complaints.append(message.text)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    driver = pytest.importorskip("playwright.sync_api")
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with driver.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(chromium: Any, path: Path, **options: Any) -> Tab:
    """The page in a tab of its own; options as of playwright's `new_context`."""
    page = chromium.new_context(**{"viewport": DESKTOP, **options}).new_page()
    tab, address = Tab(page), path.resolve().as_uri()
    page.on("console", tab.told)
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))
    page.on("request", lambda request: tab.requests.append(request.url) if request.url != address else None)
    page.goto(address)
    return tab
