"""Drive headless Chromium through its DevTools protocol, with aiohttp alone.

Every request that the page sends is recorded, also those that the browser blocks.
"""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--remote-debugging-port=0"),
)


class Browser:
    """One page of one browser; a context manager that starts and ends it."""

    def __init__(self, profile: Path, width: int = 1400, height: int = 1100, scheme: str = "light"):
        self.profile = profile
        self.size = (width, height)
        self.scheme = scheme
        self.requests: list[str] = []  # addresses
        self.problems: list[str] = []  # messages of the console: errors and violations of the content policy
        self._loop = asyncio.new_event_loop()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def __enter__(self) -> "Browser":
        assert CHROMIUM is not None
        width, height = self.size
        command = [CHROMIUM, *_FLAGS, f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
        self._process = subprocess.Popen(
            [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._loop.run_until_complete(self._connect())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        with contextlib.suppress(Exception):
            self._reader.cancel()
            self._loop.run_until_complete(self._session.close())
        self._process.wait(30)
        self._loop.close()

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command of the protocol and return its answer."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), 60))

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """Return the first value of an expression that is true; True for an element, which has no JSON."""
        end = time.monotonic() + seconds
        while True:
            if value := self.evaluate(f"(v => v instanceof Node || v)({expression})"):
                return value
            assert time.monotonic() < end, f"never true: {expression}\n{self.evaluate('document.body.innerText')}"
            self.wait(0.1)

    def wait(self, seconds: float) -> None:
        self._loop.run_until_complete(asyncio.sleep(seconds))

    def click(self, selector: str) -> None:
        self.wait_for(f"document.querySelector({selector!r})")
        self.evaluate(f"document.querySelector({selector!r}).click()")

    def fill(self, selector: str, text: str) -> None:
        """Type a text into a field, in place of what is in it."""
        self.wait_for(f"document.querySelector({selector!r})")
        self.evaluate(f"document.querySelector({selector!r}).focus(), document.querySelector({selector!r}).select()")
        self.call("Input.insertText", text=text)

    def upload(self, selector: str, file: Path) -> None:
        """Choose a file in a file field."""
        self.wait_for(f"document.querySelector({selector!r})")
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """Store the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))

    async def _connect(self) -> None:
        port_file = self.profile / "DevToolsActivePort"
        for _ in range(600):
            if port_file.is_file() and len(port_file.read_text().splitlines()) > 1:
                break
            await asyncio.sleep(0.1)
        port = int(port_file.read_text().splitlines()[0])
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json") as response:
            pages = [target for target in await response.json() if target["type"] == "page"]
        self._socket = await self._session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.ensure_future(self._read())
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            await self._call(f"{domain}.enable", {})
        await self._call("Emulation.setEmulatedMedia",
                         {"features": [{"name": "prefers-color-scheme", "value": self.scheme}]})  # fmt: skip

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = len(self._answers) + 1
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        answer = await self._answers[number]
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    async def _read(self) -> None:
        async for received in self._socket:
            event = json.loads(received.data)
            if "id" in event:
                self._answers[event["id"]].set_result(event)
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
            elif event["method"] == "Network.webSocketCreated":
                self.requests.append(event["params"]["url"])
            elif event["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                self.problems.append(event["params"]["entry"]["text"])
