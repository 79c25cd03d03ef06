"""The site of the documents: built strictly, and looked at in a real browser at two widths."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from tests.support.browser import browser

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a copy of the documents."""
    call = [sys.executable, "-m", "zensical", "build", "--strict"]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)


def copy(folder: Path) -> Path:
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("docs", "wif_store"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The address of the site, which is served on the loopback interface."""
    folder = copy(tmp_path_factory.mktemp("site"))
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    serve = functools.partial(Handler, directory=folder / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def pages() -> list[str]:
    """The pages of the menu, by the names of their files."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    entries = [value for entry in nav for value in entry.values()]
    flat = [
        [value] if isinstance(value, str) else [v for e in value for v in e.values()] for value in entries
    ]
    return [name for group in flat for name in group]


def address(site: str, name: str) -> str:
    return site if name == "index.md" else f"{site}{name.removesuffix('.md')}/"


def test_every_page_is_in_the_menu():
    assert sorted(pages()) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    ("width", "names"), [(400, pages()), (1280, ["index.md", "results.md", "python.md"])]
)
def test_pages_are_whole_and_fit(width, names, site):
    errors = []
    with browser() as started:
        page = started.new_page(viewport={"width": width, "height": 900})
        page.route("https://api.github.com/**", lambda route: route.fulfill(json={}))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("response", lambda got: errors.append(got.url) if got.status >= 400 else None)
        for name in names:
            page.goto(address(site, name))
            assert page.locator("article h1").count() == 1, name
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            pictures = "[...document.querySelectorAll('article img')].every(i => i.naturalWidth > 0)"
            assert page.evaluate(pictures), name
    assert errors == []


def test_the_first_page_has_a_picture_and_the_reference_is_generated(site):
    with browser() as started:
        page = started.new_page()
        page.route("https://api.github.com/**", lambda route: route.fulfill(json={}))
        page.goto(site)
        assert page.locator("article img").count() == 1
        page.goto(f"{site}python/")
        for name in ("build", "open_store", "score", "steer", "push"):
            assert "Parameters:" in page.locator(f".doc-function:has(#wif_store\\.{name})").inner_text(), name


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path):
    folder = copy(tmp_path)
    with (folder / "docs" / "glossary.md").open("a") as file:
        file.write("\n[nowhere](gone.md)\n")
    done = build(folder)
    assert done.returncode != 0
    assert "1 issue found" in done.stdout + done.stderr
