"""A headless Chromium with one page, driven through a pipe by its own protocol."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any


class Chromium:
    """A page that can be opened and asked; ends with its block.

    Args:
        program: the browser.
        folder: where its profile may be.
        width: of the window in pixels.
    """

    def __init__(self, program: str, folder: Path, *, width: int):
        self._program, self._profile, self._width = program, folder / f"profile-{width}", width
        self._number, self._left = 0, b""

    def __enter__(self) -> "Chromium":
        read_in, self._write = os.pipe()
        self._read, write_out = os.pipe()

        def as_3_and_4() -> None:  # where the browser has its protocol
            in_copy, out_copy = os.dup(read_in), os.dup(write_out)
            os.dup2(in_copy, 3)
            os.dup2(out_copy, 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        size = [f"--window-size={self._width},900", f"--user-data-dir={self._profile}"]
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        self._process = subprocess.Popen(
            [self._program, *flags, *size], preexec_fn=as_3_and_4, close_fds=False, **quiet
        )
        os.close(read_in)
        os.close(write_out)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        phone = dict(width=self._width, height=900, deviceScaleFactor=1, mobile=self._width < 600)
        self._call("Emulation.setDeviceMetricsOverride", self._session, **phone)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        self._process.wait(30)

    def open(self, address: str) -> None:
        """Opens an address."""
        self._call("Page.navigate", self._session, url=address)

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        options = dict(expression=script, returnByValue=True, awaitPromise=True, replMode=True)
        found = self._call("Runtime.evaluate", self._session, **options)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 120) -> None:
        """Waits until a script is true in the page."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, self.run("document.body.innerText")
            time.sleep(0.1)

    def _call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        self._number += 1
        call = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(call).encode() + b"\0")
        while True:
            while b"\0" not in self._left:
                self._left += os.read(self._read, 1 << 16)
            line, _, self._left = self._left.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                return answer["result"]
