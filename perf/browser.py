"""Check reports in headless Chromium on a phone, a tablet and a desktop, in light and dark mode.

    python -m edgewright.perf.browser runs/demo/report.html --out shots

The exit code is 1 if a page logs an error, requests anything but itself, scrolls sideways, or is
larger than 3 MB. With `--axe axe.min.js` it is also 1 if axe-core finds that a page breaks a rule
of accessibility; everything that is folded is opened for it. Screenshots are saved. This uses the
DevTools protocol over aiohttp, which the `eval` extra installs.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

WIDTHS = {"phone": 390, "tablet": 768, "desktop": 1280}
MAX_BYTES = 3_000_000
SCROLL_SIZE = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
RUN_AXE = """(() => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const where = one => one.nodes.map(node => node.html.slice(0, 160)).join(" | ");
  return axe.run(document).then(found => JSON.stringify(
    found.violations.map(one => `${one.id} (${one.impact}): ${where(one)}`)
  ));
})()"""
"""Opens everything and gives the broken rules with the elements that break them, as JSON."""
PART_HEIGHT = 2600
"""Height of a screenshot in pixels, so that it stays readable."""


class Page:
    """One tab: sends commands, and records what the page logs and requests."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.logged: list[str] = []
        self.requested: list[str] = []

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer. Events that arrive meanwhile are recorded."""
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self.socket.receive_json()
            self._record(message)
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def _record(self, message: dict[str, Any]) -> None:
        kind = message.get("method")
        event = message.get("params", {})
        if kind == "Log.entryAdded":
            self.logged.append(f"{event['entry']['level']}: {event['entry']['text']}")
        elif kind == "Runtime.consoleAPICalled":
            self.logged.append(f"{event['type']}: {event['args']}")
        elif kind == "Runtime.exceptionThrown":
            self.logged.append(f"exception: {event['exceptionDetails']['text']}")
        elif kind == "Network.requestWillBeSent":
            self.requested.append(event["request"]["url"])


async def check(page: Page, file: Path, out: Path, axe: str) -> bool:
    """Open a file at each width and in each mode; returns whether there was no problem.

    Args:
        page: the tab.
        file: what to open.
        out: directory of the screenshots.
        axe: the source of axe-core; empty: leave accessibility out.
    """
    good = file.stat().st_size <= MAX_BYTES
    print(f"{file}: {file.stat().st_size:,} bytes")
    for domain in ("Log", "Runtime", "Network", "Page"):
        await page.send(f"{domain}.enable")
    for (name, width), scheme in itertools.product(WIDTHS.items(), ("light", "dark")):
        page.logged.clear()
        page.requested.clear()
        await page.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=name == "phone",
        )
        await page.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        await page.send("Page.navigate", url=file.resolve().as_uri())
        wide, high = await _loaded(page, file)
        foreign = [url for url in page.requested if url != file.resolve().as_uri()]
        good &= not page.logged and not foreign and wide <= width
        print(
            f"  {name} {scheme}: {wide} x {high}, console {page.logged}, foreign requests {foreign}"
        )
        await _screenshots(
            page, width, high, out / f"{file.parent.name}-{file.stem}-{name}-{scheme}"
        )
        if axe:
            broken = await _broken_rules(page, axe)
            good &= not broken
            print(f"  {name} {scheme}: axe-core {broken}")
    return good


async def _broken_rules(page: Page, axe: str) -> list[str]:
    """The rules of accessibility that the open page breaks."""
    await page.send("Runtime.evaluate", expression=axe)
    found = await page.send(
        "Runtime.evaluate", expression=RUN_AXE, awaitPromise=True, returnByValue=True
    )
    if "exceptionDetails" in found:
        raise RuntimeError(f"axe-core: {found['exceptionDetails']}")
    return json.loads(found["result"]["value"])


async def _loaded(page: Page, file: Path) -> tuple[int, int]:
    """Wait until the page is there and everything it requests has been requested; its size."""
    where = f"location.href === {json.dumps(file.resolve().as_uri())}"
    size = f"{where} && document.readyState === 'complete' ? {SCROLL_SIZE} : null"
    while True:
        found = await page.send("Runtime.evaluate", returnByValue=True, expression=size)
        await asyncio.sleep(0.5)
        if value := found["result"].get("value"):
            return value


async def _screenshots(page: Page, width: int, height: int, name: Path) -> None:
    """Save the whole page as a series of images, NAME-0.png and so on."""
    for number, top in enumerate(range(0, height, PART_HEIGHT)):
        part = min(PART_HEIGHT, height - top)
        clip = {"x": 0, "y": top, "width": width, "height": part, "scale": 1}
        shot = await page.send(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )
        name.with_name(f"{name.name}-{number}.png").write_bytes(base64.b64decode(shot["data"]))


async def visit(files: list[Path], out: Path, axe: str, port_file: Path) -> bool:
    """Connect to the browser and check all files; returns whether there was no problem."""
    while not port_file.exists():
        await asyncio.sleep(0.1)
    port = port_file.read_text().split()[0]
    async with aiohttp.ClientSession() as session:
        async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as reply:
            address = json.loads(await reply.text())["webSocketDebuggerUrl"]
        async with session.ws_connect(address, max_msg_size=0) as socket:
            return all([await check(Page(socket), file, out, axe) for file in files])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core")
    args = parser.parse_args()
    axe = args.axe.read_text() if args.axe else ""
    args.out.mkdir(parents=True, exist_ok=True)
    browser = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if browser is None:
        sys.exit("no Chromium on this machine; install it: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            good = asyncio.run(visit(args.files, args.out, axe, port_file))
        finally:
            process.terminate()
            process.wait()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
