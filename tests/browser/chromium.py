"""Debian's chromium, which reaches this machine and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import BrowserContext

VIEWPORT = {"width": 1300, "height": 950}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-gpu-rasterization",
    "--disable-software-rasterizer",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
# And no `route()` of Playwright's, which would switch chromium's cache off for each page of many scripts.
LOOPBACK_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"


class Chromium:
    """A running chromium.

    Attributes:
        context: Playwright's.
        outside: the URLs of all requests that wanted to leave this machine, none of which did.
    """

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.outside: list[str] = []
        context.on("request", lambda request: self._note(request.url))
        context.on("page", lambda page: page.on("websocket", lambda socket: self._note(socket.url)))

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"data", "blob", "about"} and parts.hostname != "127.0.0.1":
            self.outside.append(url)


@contextlib.contextmanager
def running(profile: Path) -> Iterator[Chromium]:
    """Run it with this profile folder.

    Playwright's event loop runs in this thread until the end, and `asyncio.run` fails meanwhile.
    """
    executable = shutil.which("chromium")
    if executable is None:
        raise FileNotFoundError("chromium is missing: apt-get install chromium fonts-dejavu-core")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=executable,
            args=[*FLAGS, LOOPBACK_ONLY],
            viewport=VIEWPORT,
            service_workers="block",
            env={**os.environ, "HOME": str(profile)},
        )
        try:
            yield Chromium(context)
        finally:
            context.close()
