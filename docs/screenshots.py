"""Take the screenshots of docs/screenshots/ with headless Chromium.

    pip install pyte
    python -m docs.screenshots runs/demo/<time> runs/evaluate/<time> runs/demo/sweep_<time>
    python -m docs.screenshots runs/demo/<time> --only-try     the page of degla-try alone

Arguments: the folder of a run of ``experiment=demo``, of an evaluation with ``compare=[...]``, and of a sweep. The
console is that of a new run of the demo in a pseudo-terminal. Pages are taken 1400 and 400 pixels wide, light and dark.
"""

import argparse
import contextlib
import fcntl
import io
import os
import pty
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pyte
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.text import Text

OUT = Path(__file__).parent / "screenshots"
COLUMNS, LINES = 110, 40
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("evaluation", type=Path, nargs="?")
    parser.add_argument("sweep", type=Path, nargs="?")
    parser.add_argument("--only-try", action="store_true", help="only the page and the console of degla-try")
    parser.add_argument("--console-steps", type=int, default=400, help="steps of the demo run in the console")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    try_page(arguments.run)
    try_console(arguments.run)
    if arguments.only_try:
        return
    if arguments.evaluation is None or arguments.sweep is None:
        parser.error("the folders of an evaluation and of a sweep are missing")
    pages = {
        "run_report": arguments.run / "report.html",
        "evaluation": arguments.evaluation / "report.html",
        "explorer": arguments.evaluation / "explorer.html",
        "sweep": arguments.sweep / "sweep.html",
    }
    for name, path in pages.items():
        for width, height in ((1400, 1100), (400, 1100)):
            for scheme in ("light", "dark"):
                shoot(path.resolve().as_uri(), OUT / f"{name}_{width}_{scheme}.png", width, height, scheme)
    with tensorboard(arguments.run) as address:
        shoot(
            f"{address}/?tagFilter=train%2Floss%7Csamples%2F#timeseries",
            OUT / "tensorboard.png",
            1400,
            1000,
            "light",
            wait_milliseconds=15_000,
        )
    console(OUT / "console.png", arguments.console_steps)


def shoot(address: str, path: Path, width: int, height: int, scheme: str, wait_milliseconds: int = 2000) -> None:
    """Take one screenshot and store it with a palette of 128 colours."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome",
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}",
            f"--virtual-time-budget={wait_milliseconds}",
            f"--screenshot={path.resolve()}",
            address,
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    shrink(path)


def shrink(path: Path) -> None:
    """Store a screenshot with a palette of 128 colours."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def try_page(run: Path) -> None:
    """Use the page of ``degla-try`` as a visitor does: upload, suggestions, comparison."""
    from degla.demo.examples import example_scenes
    from tests.helpers.browser import Browser

    with tempfile.TemporaryDirectory() as folder:
        port, example = free_port(), example_scenes(1)[0]
        (Path(folder) / "scene.png").write_bytes(example.image_bytes)
        command = [sys.executable, "-m", "degla.tryout", f"model={run}", "serve=true", f"port={port}"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[0]
            with Browser(Path(folder) / "profile") as browser:
                browser.open(address)
                browser.upload("#image input[type=file]", Path(folder) / "scene.png")
                browser.wait_for("document.querySelector('#image img')")
                browser.fill("#captions textarea", example.caption)
                browser.click("#suggest")
                browser.wait_for("document.body.innerText.includes('Added by rule')")
                browser.click("#compare")
                browser.wait_for("document.querySelectorAll('#maps img').length == 2")
                for width in (1400, 400):
                    for scheme in ("light", "dark"):
                        browser.resize(width, 1100, scheme)
                        browser.wait(1)
                        browser.evaluate(f"document.body.classList.toggle('dark', {str(scheme == 'dark').lower()})")
                        browser.wait(1)
                        path = OUT / f"try_{width}_{scheme}.png"
                        browser.screenshot(path)
                        shrink(path)
        finally:
            server.terminate()
            server.wait()


def try_console(run: Path) -> None:
    """Draw what ``degla-try`` prints for the first example."""
    command = [sys.executable, "-m", "degla.tryout", f"model={run}"]
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1"}
    text = Text("$ degla-try\n", style="bold")
    text.append_text(Text.from_ansi(subprocess.run(command, env=environment, capture_output=True, text=True).stdout))
    draw(text, OUT / "try_console.png")


@contextlib.contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """Serve a run's events on this machine; yields the address."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(run),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            time.sleep(0.5)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
        time.sleep(5)  # until it has read the events
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def console(path: Path, steps: int) -> None:
    """Run the demo in a pseudo-terminal, and draw what the terminal shows at the end."""
    screen = pyte.HistoryScreen(COLUMNS, LINES, history=1000)
    stream = pyte.ByteStream(screen)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "degla.train", "experiment=demo", f"trainer.max_steps={steps}"]
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.environ |= {"TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[1])}
            os.execv(sys.executable, command)
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        with contextlib.suppress(OSError):  # Linux ends a pseudo-terminal with an error
            while content := os.read(terminal, 65536):
                stream.feed(content)
        os.waitpid(pid, 0)
    rows = [*screen.history.top, *(screen.buffer[line] for line in range(LINES))]
    text = Text("$ make demo\n", style="bold")
    for row in rows:
        for column in range(COLUMNS):
            cell = row[column]
            colour = None if cell.fg == "default" else cell.fg if not _is_hex(cell.fg) else f"#{cell.fg}"
            text.append(cell.data, Style(color=_RICH_NAMES.get(colour or "", colour), bold=cell.bold))
        text.append("\n")
    draw(text, path)


def draw(text: Text, path: Path) -> None:
    """Draw the text of a console."""
    text.rstrip()
    drawing = Console(record=True, width=COLUMNS, file=io.StringIO())
    drawing.print(text)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "console.svg"
        page.write_text(drawing.export_svg(title="degla"), encoding="utf-8")
        height = 90 + 19 * (text.plain.count("\n") + 1)
        shoot(page.as_uri(), path, 1100, height, "light")


_RICH_NAMES = {"brown": "yellow", "brightblack": "bright_black"}


def _is_hex(colour: str) -> bool:
    return len(colour) == 6 and all(digit in "0123456789abcdef" for digit in colour)


if __name__ == "__main__":
    main()
