"""Headless Chromium before a real uvicorn over a filled database, logged-in pages per role, and axe-core.

``visit(path, role=..., width=..., theme=...)`` opens a page; ``accessible(page)`` fails on any violation of WCAG 2.2 AA
that axe-core finds. With ``QA_SCREENSHOTS=folder`` every visited page leaves a picture there.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from dicom_qa_node.domain.accounts import Role
from dicom_qa_node.ops.web_server import measurement_explanations
from dicom_qa_node.web.app import create_app
from dicom_qa_node.web.site import Actions, Site
from tests.web_site import NAMES, PASSWORD, open_site

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERIES = 2_000
AXE = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}}


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Return Debian's Chromium."""
    path = shutil.which("chromium")
    if path is None:
        reason = "chromium is not installed (Debian package chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return path


@pytest.fixture(scope="session")
def filled_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Return a site with accounts, an audit log, and the realistic log of `tests.realistic_log`."""
    actions = Actions(explanations=measurement_explanations)
    folder = tmp_path_factory.mktemp("site")
    site = open_site(folder, actions=actions, login_per_minute=10_000, api_per_minute=100_000)
    fill = importlib.import_module("tests.realistic_log").fill
    fill(site.database, series=SERIES, seed=1)
    yield site
    site.database.close()


@pytest.fixture(scope="session")
def address(filled_site: Site) -> Iterator[str]:
    """Return the address of a uvicorn that serves the filled site."""
    with serving(filled_site) as found:
        yield found


class serving:  # noqa: N801 - a context manager, used like a function
    """Serve a site on a free port of loopback in a thread of this process."""

    def __init__(self, site: Site) -> None:
        settings = uvicorn.Config(
            create_app(site), port=0, log_config=None, access_log=False, lifespan="off", proxy_headers=False, ws="none"
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        """Start it."""
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            time.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._server.should_exit = True
        self._thread.join(10)


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    """Return Playwright; it drives the system's Chromium and downloads none."""
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def browser(playwright: Playwright, chromium_path: str) -> Iterator[Browser]:
    """Return one Chromium for all tests."""
    running = playwright.chromium.launch(executable_path=chromium_path, args=ARGUMENTS)
    yield running
    running.close()


@pytest.fixture(scope="session")
def logins(browser: Browser, address: str) -> dict[Role, Any]:
    """Return the cookies of one login per role, made through the login page."""
    return cookies_of(browser, address)


def cookies_of(browser: Browser, address: str) -> dict[Role, Any]:
    """Log in as each role through the login page and return the cookies."""
    kept = {}
    for role, name in NAMES.items():
        context = browser.new_context(base_url=address)
        page = context.new_page()
        page.goto("/login")
        page.fill("#name", name)
        page.fill("#password", PASSWORD)
        page.press("#password", "Enter")
        page.wait_for_url(re.compile(r"/(log|node|account)"))
        kept[role] = context.storage_state()
        context.close()
    return kept


@pytest.fixture
def visit(browser: Browser, address: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Return ``visit(path, role=Role.ADMIN, width=1280, height=900, theme="light", scripts=True)``.

    ``role=None`` is a stranger. The test fails if the page logs an error, breaks its content security policy, or
    asks another host for anything.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(
        path: str,
        role: Role | None = Role.ADMIN,
        width: int = 1280,
        height: int = 900,
        theme: str = "light",
        scripts: bool = True,
    ) -> Page:
        state = request.getfixturevalue("logins")[role] if role else None
        context = browser.new_context(
            base_url=address,
            storage_state=state,
            viewport={"width": width, "height": height},
            color_scheme=theme,  # type: ignore[arg-type]
            java_script_enabled=scripts,
        )
        contexts.append(context)
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: _own(asked.url, address, complaints))
        page.goto(path)
        folder = os.environ.get("QA_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            word = re.sub(r"\W+", "-", path.split("?")[0].strip("/")) or "start"
            page.screenshot(path=f"{folder}/{word}-{width}-{theme}.png", full_page=True)
        return page

    open_page.complaints = complaints  # type: ignore[attr-defined]
    yield open_page
    for context in contexts:
        context.close()
    # A refused form is an answer that the console calls an error.
    assert [line for line in complaints if "status of 4" not in line] == []


def _own(url: str, address: str, complaints: list[str]) -> None:
    if not url.startswith((address, "data:", "blob:", "about:")):
        complaints.append(f"asked another host: {url}")


@pytest.fixture(scope="session")
def accessible() -> Callable[[Page], None]:
    """Return a function that fails if axe-core finds a violation on a page."""
    axe = Axe()

    def check(page: Page) -> None:
        found = axe.run(page, options=AXE).response["violations"]
        lines = [
            f"{item['id']}: {item['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for item in found
            for node in item["nodes"]
        ]
        assert lines == []

    return check


@pytest.fixture(scope="session")
def fits() -> Callable[[Page], None]:
    """Return a function that fails if a page is wider than its window."""

    def check(page: Page) -> None:
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"the page is {over} px wider than the window"

    return check
