"""The page of ``degla-try`` in headless Chromium, served by a real process."""

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from degla.demo.examples import example_scenes
from tests.helpers.browser import CHROMIUM, Browser
from tests.helpers.forked import start_forked

pytest.importorskip("gradio", reason="degla[demo] is not installed")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt install chromium)")


class Proxy:
    """Counts the connections of a program to other machines: its HTTP clients are told to use it as their proxy."""

    def __init__(self):
        self.requests: list[bytes] = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            connection, _ = self.socket.accept()
            with connection:
                self.requests.append(connection.recv(1000))

    @property
    def environment(self):
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        return dict.fromkeys(names, self.address) | dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")


class Page:
    """A running server."""

    def __init__(self, cwd: Path, *arguments: str, **environment: str):
        self.proxy = Proxy()
        variables = {**self.proxy.environment, **environment}
        self.process = start_forked("serve=true", "port=0", *arguments, cwd=cwd, program="tryout", **variables)
        self.address = ""
        for _ in range(1200):
            text = (cwd / "stdout").read_text() if (cwd / "stdout").is_file() else ""
            if match := re.search(r"http://\S+", text):
                self.address = match[0]
                return
            assert self.process.is_alive(), (cwd / "stderr").read_text()
            time.sleep(0.05)
        raise AssertionError("the server does not start")


@pytest.fixture(scope="module")
def page(pair_folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    base, tuned = (pair_folders / name for name in ("base", "tuned"))
    served = Page(folder, f"model={tuned}", f"base={base}", "max_upload_mb=1", "max_image_pixels=1000000")
    yield served
    served.process.terminate()
    served.process.join(30)


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path / "profile") as started:
        yield started


def opened(browser, page):
    browser.open(page.address)
    browser.wait_for("document.querySelector('#compare')")
    return browser


@needs_browser
def test_upload_suggest_and_compare(page, browser, tmp_path):
    """The way of a user through the page; nothing but the server is asked for anything."""
    example = example_scenes(2)[1]
    (tmp_path / "scene.png").write_bytes(example.image_bytes)
    opened(browser, page)
    assert browser.evaluate("document.querySelector('h1').innerText") == "Which caption fits the image?"
    browser.click("#compare")
    browser.wait_for("document.body.innerText.includes('Choose an image first, or click on an example.')")
    browser.upload("#image input[type=file]", tmp_path / "scene.png")
    browser.wait_for("document.querySelector('#image img')")
    browser.fill("#captions textarea", example.caption)
    browser.click("#suggest")
    browser.wait_for("document.body.innerText.includes('Added by rule')")
    texts = browser.evaluate("document.querySelector('#captions textarea').value").splitlines()
    assert texts[0] == example.caption and len(texts) > 3 and len(set(texts)) == len(texts)
    browser.click("#compare")
    browser.wait_for("document.querySelectorAll('#maps img').length == 2")
    assert browser.evaluate("document.querySelectorAll('#scores li').length") == len(texts)
    assert "prefer" in browser.evaluate("document.querySelector('#headline').innerText")
    words = browser.evaluate("[...document.querySelectorAll('#words mark')].map(x => x.firstChild.textContent)")
    assert words == 2 * example.caption.split()
    shares = browser.evaluate("[...document.querySelectorAll('#scores .number')].map(x => parseFloat(x.innerText))")
    assert sum(shares[::2]) == pytest.approx(100, abs=0.5) and sum(shares[1::2]) == pytest.approx(100, abs=0.5)
    assert browser.evaluate("[...document.images].every(x => x.complete && x.naturalWidth > 0)")
    for width in (1400, 400):
        browser.resize(width, 1000)
        browser.wait(0.3)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    foreign = [url for url in browser.requests if not url.startswith((page.address, "data:", "blob:", "about:"))]
    assert len(browser.requests) > 10 and foreign == [] and browser.problems == []
    assert page.proxy.requests == []


@needs_browser
def test_an_example_fills_the_page(page, browser):
    opened(browser, page)
    browser.click("#examples img")
    browser.wait_for(f"document.querySelector('#captions textarea').value == '{example_scenes(1)[0].caption}'")
    browser.click("#compare")
    browser.wait_for("document.querySelector('#headline')")
    assert "a second caption shows" in browser.evaluate("document.querySelector('#headline').innerText")


@needs_browser
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words.png", "the image cannot be used: not an image that can be read (HTML, XML or SVG)"),
        ("wide.png", "the image cannot be used: 2000 x 1000 pixels are more than max_image_pixels=1000000"),
    ],
)
def test_images_that_are_refused(page, browser, tmp_path, name, message):
    (tmp_path / "words.png").write_text("<script>alert(1)</script>")
    Image.new("RGB", (2000, 1000)).save(tmp_path / "wide.png")
    opened(browser, page)
    browser.upload("#image input[type=file]", tmp_path / name)
    browser.wait_for("document.querySelector('#image img')")
    browser.fill("#captions textarea", "a\nb")
    browser.click("#compare")
    browser.wait_for(f"document.body.innerText.includes({message!r})")


def get(address: str, data: bytes | None = None, **headers: str):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=60) as response:
            return response.status, response.read().decode(errors="replace"), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def test_the_html_loads_nothing_from_other_hosts(page):
    status, text, headers = get(page.address)
    assert status == 200 and not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", text)
    hosts = set(re.findall(r"(?:src|href)=\"(https?://[^/\"]+)", text))
    assert hosts <= {page.address}
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy
    assert '"analytics_enabled":false' in text and '"share_url"' not in text


def test_who_may_ask(page):
    """Only this machine reaches the page, and only under its own name."""
    port = int(page.address.rpartition(":")[2])
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in addresses - {"127.0.0.1"}:
        if not address.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((address, port), timeout=2)
    assert get(page.address, host="evil.example")[0] == 400
    assert get(page.address, host=f"localhost:{port}")[0] == 200


def upload(page, content: bytes):
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + content + b"\r\n--x--\r\n"
    return get(f"{page.address}/gradio_api/upload", body, **{"content-type": "multipart/form-data; boundary=x"})


def test_large_uploads_are_refused(page):
    assert upload(page, bytes(500_000))[0] == 200
    assert upload(page, bytes(1_500_000))[0] == 413


def test_files_of_the_machine_are_out_of_reach(page, tmp_path):
    """A request that names a file which was not uploaded gets an error, not the file; an uploaded one is scored."""
    content = example_scenes(1)[0].image_bytes
    (tmp_path / "secret.png").write_bytes(content)
    config = json.loads(get(f"{page.address}/config")[1])
    compare = next(item["id"] for item in config["dependencies"] if len(item["inputs"]) == 2 and item["outputs"])

    def compared(path, session):
        file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        event = {"data": [file, "a\nb"], "fn_index": compare, "session_hash": session}
        json_type = {"content-type": "application/json"}
        joined = get(f"{page.address}/gradio_api/queue/join", json.dumps(event).encode(), **json_type)
        assert joined[0] == 200, joined
        answer = get(f"{page.address}/gradio_api/queue/data?session_hash={session}")[1]
        events = [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line.startswith("data: ")]
        (completed,) = [event for event in events if event["msg"] == "process_completed"]
        return completed["success"], "prefer" in answer

    (uploaded,) = json.loads(upload(page, content)[1])
    assert compared(uploaded, "first") == (True, True)
    assert compared(tmp_path / "secret.png", "second") == (False, False)
    for path in (tmp_path / "secret.png", "/etc/hostname"):
        assert get(f"{page.address}/gradio_api/file={path}")[0] in (403, 404)
    assert get(f"{page.address}/gradio_api/file={uploaded}")[0] == 200


def test_the_end_of_the_server_deletes_the_uploads(pair_folders, tmp_path):
    served = Page(tmp_path, f"model={pair_folders / 'tuned'}")
    (uploaded,) = json.loads(upload(served, b"content")[1])
    folder = Path(uploaded).parents[2]
    assert folder.name.startswith("degla-try-") and Path(uploaded).read_bytes() == b"content"
    served.process.terminate()
    served.process.join(30)
    assert served.process.exitcode == 143 and not folder.exists()


def test_a_port_in_use_is_one_sentence(page, tmp_path):
    port = page.address.rpartition(":")[2]
    job = start_forked("serve=true", f"port={port}", "model=scenes", cwd=tmp_path, program="tryout")
    job.join(120)
    text = (tmp_path / "stderr").read_text()
    assert job.exitcode == 2 and f"port={port} cannot be used" in text and text.count("\n") == 1, text
