"""A real browser without a window, and pages of files that must ask for nothing but themselves."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the first browser on the path. Without one the test is skipped, and fails where CI is set."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        said = f"no browser on the path; expected one of {', '.join(PROGRAMS)}"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        try:
            yield started
        finally:
            started.close()


@contextmanager
def opened(started: Browser, path: Path, **settings: Any) -> Iterator[Page]:
    """Open a file. At the end the page must have asked for that file alone and said no error."""
    context = started.new_context(**settings)
    context.set_default_timeout(20_000)
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda line: errors.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(path.as_uri())
    try:
        yield page
        outside = [url for url in asked if url != path.as_uri() and not url.startswith(("data:", "blob:"))]
        assert asked[0] == path.as_uri() and outside == []
        assert errors == []
    finally:
        context.close()
