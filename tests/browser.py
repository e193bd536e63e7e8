"""A headless Chromium, driven over the DevTools protocol with nothing but `websockets`."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--mute-audio",
    "--autoplay-policy=no-user-gesture-required", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip
PATIENCE = 60.0  # seconds that anything may take


class Page:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.console: list[str] = []  # errors of scripts and refusals of the security policy

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; events that come meanwhile are looked through."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        kind, facts = event["method"], event["params"]
        if kind == "Runtime.exceptionThrown":
            self.console.append(json.dumps(facts["exceptionDetails"])[:500])
        elif kind == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.console.append(facts["entry"]["text"])

    def open(self, url: str) -> None:
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Result of JavaScript, waited for."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression: str, seconds: float = PATIENCE) -> None:
        """Wait until JavaScript says true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}; {self.console}"
            time.sleep(0.1)

    def look(self, width: int, dark: bool, height: int = 900) -> None:
        """Size and colour scheme of the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1 if width > 600 else 2,
            mobile=width <= 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def press(self, key: str, code: int, text: str = "") -> None:
        """One key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == "keyDown" else "",
            )

    def screenshot(self, path: Path) -> bytes:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        data = base64.b64decode(shot["data"])
        path.write_bytes(data)
        return data


def find() -> str:
    """Path of a browser; skips the test where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")


@contextmanager
def page() -> Iterator[Page]:
    """A fresh browser with one empty tab."""
    from websockets.sync.client import connect

    browser = find()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": profile},
            start_new_session=True,
        )
        try:
            port = _port(Path(profile), process)
            with connect(_target(port), max_size=2**26, ping_interval=None) as socket:
                yield Page(socket)
                _close(port)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.skip(f"the browser does not start here (exit code {process.returncode})")
        file = profile / "DevToolsActivePort"
        if file.exists() and len(lines := file.read_text().split("\n")) > 1:
            return int(lines[0])
        time.sleep(0.05)
    pytest.skip("the browser opened no port for its protocol")


def _json(port: int, path: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as reply:
        return json.load(reply)


def _target(port: int) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for target in _json(port, "/json/list"):
            if target["type"] == "page":
                return str(target["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("the browser has no tab")


def _close(port: int) -> None:
    """Ask the browser to end, so that all of its processes do."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    try:
        with connect(_json(port, "/json/version")["webSocketDebuggerUrl"]) as whole:
            whole.send(json.dumps({"id": 1, "method": "Browser.close"}))
            whole.recv(timeout=5)
    except (OSError, WebSocketException, TimeoutError):
        pass  # it went before it answered
