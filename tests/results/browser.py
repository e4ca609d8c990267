"""Chromium without a window, spoken to by its DevTools protocol: what a page shows, asks for and complains of."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
#: Seconds in which anything here is done; a machine that is slower is stuck.
PATIENCE_S = 60.0


def find_browser() -> str:
    """Return the path of a browser; skip where there is none, unless FABRICSIM_REQUIRE_BROWSER is set."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        words = "no Chromium on this machine: install Debian's package chromium"
        if os.environ.get("FABRICSIM_REQUIRE_BROWSER"):
            pytest.fail(words)
        pytest.skip(words)
    return path


class Page:
    """One page; ``requests`` are the addresses that it asked for, ``complaints`` errors and warnings of its console."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0
        self._happened: list[str] = []
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE_S))
            if message.get("id") == self._number:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found
            self._note(message["method"], message["params"])

    def _note(self, method: str, about: dict[str, Any]) -> None:
        self._happened.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(str(about["entry"]))

    def run(self, code: str) -> Any:
        """Evaluate JavaScript and return its value."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, path: Path, *, width: int, dark: bool) -> None:
        """Show a file, and wait until Bokeh has drawn all of it."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.prefer(dark=dark)
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState == 'complete' && typeof Bokeh != 'undefined' && Bokeh.documents.length > 0")
        self.wait("Bokeh.documents.every(one => one.is_idle)")

    def prefer(self, *, dark: bool) -> None:
        """Say which colours the reader prefers."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def wait(self, condition: str) -> None:
        """Wait until a condition in JavaScript holds."""
        begin_s = time.monotonic()
        while not self.run(condition):
            assert time.monotonic() - begin_s < PATIENCE_S, condition
            time.sleep(0.05)

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """Start a browser that reaches no network, with its files in *folder*, and give its page."""
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND",
        "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([find_browser(), *options], stdout=log, stderr=log)
    try:
        port, path = _address(folder / "DevToolsActivePort", process)
        with connect(f"ws://127.0.0.1:{port}{path}", proxy=None) as browser:
            target = _target(browser)
        with connect(f"ws://127.0.0.1:{port}/devtools/page/{target}", proxy=None, max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _address(path: Path, process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Read the port and the path of the browser from the file that it writes once it listens."""
    begin_s = time.monotonic()
    while not (path.is_file() and len(path.read_text().split()) == 2):
        assert process.poll() is None, (path.parent / "log").read_text()
        assert time.monotonic() - begin_s < PATIENCE_S
        time.sleep(0.05)
    port, address = path.read_text().split()
    return port, address


def _target(browser: ClientConnection) -> str:
    browser.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
    message = json.loads(browser.recv(timeout=PATIENCE_S))
    (target,) = (one for one in message["result"]["targetInfos"] if one["type"] == "page")
    return str(target["targetId"])
