"""A headless Chromium that is told what to do over its DevTools protocol."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.harness import wait_for


class Browser:
    """One page of a browser.

    Args:
        socket: the address of the page's DevTools.
    """

    def __init__(self, socket: str) -> None:
        self._socket = socket

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        return asyncio.run(self._evaluate(expression))

    async def _evaluate(self, expression: str) -> Any:
        async with aiohttp.ClientSession() as session, session.ws_connect(self._socket) as devtools:
            parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
            await devtools.send_json({"id": 1, "method": "Runtime.evaluate", "params": parameters})
            while (answer := await devtools.receive_json()).get("id") != 1:
                pass
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]["result"].get("value")


def chromium() -> str:
    """Return the command of Chromium; skips the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium on the path")
    return found


@contextmanager
def opened(url: str, profile: Path) -> Iterator[Browser]:
    """Yield a page of Chromium that shows an address; skips the test where there is no Chromium."""
    browser = chromium()
    port = profile / "DevToolsActivePort"
    flags = ["--no-sandbox", "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    process = subprocess.Popen([browser, *flags, url], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: port.exists() and len(port.read_text().split()) == 2, "the browser")
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        wait_for(lambda: bool(asyncio.run(_pages(address))), "its page")
        [socket] = asyncio.run(_pages(address))
        yield Browser(socket)
    finally:
        process.terminate()
        process.wait(20)


async def _pages(address: str) -> list[str]:
    """Return the addresses of the pages' DevTools."""
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        pages = await answer.json(content_type=None)
    return [str(page["webSocketDebuggerUrl"]) for page in pages if page["type"] == "page"]
