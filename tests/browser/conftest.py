"""A real browser for the tests here: Chromium, headless, with a profile of its own each time."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, async_playwright

PICTURES = Path(".bench/browser")
_ARGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
async def browser(tmp_path: Path) -> AsyncIterator[BrowserContext]:
    executable = os.environ.get("PAYWALL_CHROMIUM") or shutil.which("chromium")
    assert executable, "no Chromium: see `make chromium`"
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=executable, headless=True, args=_ARGS
        )
        context.set_default_timeout(15_000)
        try:
            yield context
        finally:
            await context.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where screenshots are left for whoever wants to look."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    return PICTURES
