"""Drives a headless Chromium through its debugging pipe: open a page, ask it in JavaScript, press keys.

**Source:** the Chrome DevTools Protocol; messages are JSON, each ended by a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from serving import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["CHROMIUM", "Page", "browsing"]

#: The browser; None where none is installed.
CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One open page."""

    def __init__(self, write: int, read: int) -> None:
        """Talk through a pipe to the browser and one from it."""
        self._write, self._read = write, read
        self._received = b""
        self._ids = count(1)
        self._session: str | None = None
        #: What the page's scripts threw, and errors that the browser would show to a developer.
        self.problems: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        # What the content security policy blocks is remembered from the first script on.
        note = "(event) => blocked.push(event.blockedURI)"
        watch = f"window.blocked = []; addEventListener('securitypolicyviolation', {note})"
        self.call("Page.addScriptToEvaluateOnNewDocument", source=watch)

    def open(self, url: str) -> None:
        """Go to `url`; what the page does next is for `wait_for` to see."""
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert failed is None, failed

    def ask(self, expression: str) -> Any:  # noqa: ANN401 - whatever JavaScript says
        """Return what an expression, or its promise, comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:  # noqa: ANN401
        """Return what an expression comes to as soon as it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            # A page that is being replaced has no answer yet.
            answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
            if value := answer.get("result", {}).get("value"):
                return value
            time.sleep(0.02)
        raise AssertionError(f"{expression} is never true; the page is {self.ask('document.body.innerText')}")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key; `code` is its Windows virtual key code."""
        for kind in ("keyDown", "keyUp"):
            typed = text if kind == "keyDown" else ""
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=typed)

    def choose_file(self, selector: str, file: Path) -> None:
        """Choose a file in a form's field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        field = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=field, files=[str(file)])

    def show_on(self, *, width: int, height: int = 700, scheme: str = "light") -> None:
        """Take a screen of this size in the `light` or in the `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.wait_for(f"innerWidth === {width}")

    def picture(self) -> bytes:
        """Return what is on the screen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def luminance(self, selector: str, colour: str) -> float:
        """Return the relative luminance of an element's colour. **Source:** WCAG 2.2."""
        text = self.ask(f"getComputedStyle(document.querySelector({json.dumps(selector)})).{colour}")
        parts = [int(part) / 255 for part in text.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    def assert_readable(self, selector: str, *grounds: str) -> None:
        """Assert that an element's text stands out from what may be behind it."""
        colour = self.luminance(selector, "color")
        for ground in grounds:
            behind = self.luminance(ground, "backgroundColor")
            light, dark = max(colour, behind), min(colour, behind)
            # Source: WCAG 2.2, success criterion 1.4.3.
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (selector, ground, colour, behind)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
        """Call a method of the protocol and return its result."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in {"error", "warning"}:
                self.problems.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.problems.append(json.dumps(parameters["entry"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read], [], [], PATIENCE_S)
            piece = os.read(self._read, 1 << 16) if ready else b""
            assert piece, "the browser does not answer"
            self._received += piece
        message, _, self._received = self._received.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def browsing() -> Iterator[Page]:
    """Open a page in a browser of its own, which ends with the `with` block."""
    assert CHROMIUM is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The browser reads descriptor 3 and writes descriptor 4. It may run as root, in a container without namespaces.
        line = f'exec "$0" "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe"]
        process = subprocess.Popen(
            ["bash", "-c", line, CHROMIUM, *flags, f"--user-data-dir={profile}"],
            pass_fds=(to_browser[0], from_browser[1]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            page = Page(to_browser[1], from_browser[0])
            yield page
            page.call("Browser.close")
            process.wait(PATIENCE_S)
        finally:
            process.kill()
            process.wait()
            os.close(to_browser[1])
            os.close(from_browser[0])
