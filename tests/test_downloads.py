"""degla-data against a real HTTP server on this machine, which also fails in the ways that servers do."""

import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml

from degla.download.catalogue import read_catalogue
from degla.download.fetch import STAGING_FOLDER, lock_data_dir
from degla.download.inventory import RECORD, Inventory
from degla.download.transfer import download
from degla.download.unpack import unpack
from degla.errors import ConfigError, DataError
from tests.conftest import SHARED, degla

ROOT = Path(__file__).parents[1]
BODY = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


class Server(ThreadingHTTPServer):
    """Files by path, and how each is to be served."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.tags: dict[str, str | None] = {}  # ETag of a path; None sends none
        self.ignores_ranges = False
        self.drops: list[int] = []  # bytes after which the next answers end, in order
        self.statuses: list[tuple[int, dict[str, str]]] = []  # answers before the file itself, in order
        self.content_type = "application/octet-stream"
        self.redirects: dict[str, str] = {}
        self.stall_seconds = 0.0
        self.requests: list[tuple[str, dict[str, str]]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        server, path = self.server, self.path.strip("/")
        server.requests.append((path, dict(self.headers)))
        if server.statuses:
            status, headers = server.statuses.pop(0)
            return self.answer(status, headers)
        if path in server.redirects:
            return self.answer(302, {"Location": server.redirects[path]})
        if path not in server.files:
            return self.answer(404, {})
        body, tag = server.files[path], server.tags.get(path, '"1"')
        start = 0
        wanted = self.headers.get("Range")
        if wanted and not server.ignores_ranges and self.headers.get("If-Range") in (None, tag):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.answer(416, {"Content-Range": f"bytes */{len(body)}"})
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Type", server.content_type)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = start + server.drops.pop(0) if server.drops else len(body)
        self.wfile.write(body[start:stop])
        if server.stall_seconds:
            self.wfile.flush()
            time.sleep(server.stall_seconds)
        return None

    def answer(self, status, headers):
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    server.files["file.bin"] = BODY
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(server, tmp_path, name="file.bin", **arguments) -> bytes:
    download(server.url(name), tmp_path / name, **{"first_wait_seconds": 0.01, **arguments})
    assert [path.name for path in tmp_path.iterdir()] == [name], "nothing is left beside the file"
    return (tmp_path / name).read_bytes()


# ---- transfer -----------------------------------------------------------------------------------------------------


def test_a_file_arrives_whole(server, tmp_path):
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == [None]


def test_dropped_connections_are_resumed_where_they_ended(server, tmp_path):
    server.drops = [1_000_000, 500_000, 1]
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-", "bytes=1500001-"]


def test_a_killed_download_is_resumed_by_the_next_call(server, tmp_path):
    server.drops = [1_000_000, 0, 0]
    with pytest.raises(DataError, match=r"ended after 1,000,000 of 3,000,000 bytes after 2 attempts.*1,000,000 bytes"):
        fetch(server, tmp_path, retries=1)
    server.requests.clear()
    server.drops = []
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == ["bytes=1000000-"]


def test_a_download_that_was_killed_after_its_last_byte_is_finished(server, tmp_path):
    server.drops = [1_000_000, 0, 0]
    with pytest.raises(DataError):
        fetch(server, tmp_path, retries=1)
    (tmp_path / "file.bin.part").write_bytes(BODY)
    server.drops = []
    assert fetch(server, tmp_path) == BODY
    assert server.ranges[-1] == "bytes=3000000-"


def test_a_file_that_has_changed_on_the_server_is_started_again(server, tmp_path):
    server.drops = [1_000_000, 0]
    with pytest.raises(DataError):
        fetch(server, tmp_path, retries=0)
    server.files["file.bin"], server.tags["file.bin"] = BODY[::-1], '"2"'
    server.drops = []
    assert fetch(server, tmp_path) == BODY[::-1]


def test_a_file_of_another_size_is_started_again_where_the_server_names_no_version(server, tmp_path):
    server.tags["file.bin"] = None
    server.drops = [1_000_000, 0]
    with pytest.raises(DataError):
        fetch(server, tmp_path, retries=0)
    server.files["file.bin"] = BODY[::-1] + b"more"
    server.drops = []
    assert fetch(server, tmp_path) == BODY[::-1] + b"more"


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.ignores_ranges = True
    server.drops = [1_000_000]
    assert fetch(server, tmp_path) == BODY


def test_bytes_of_another_address_are_not_resumed(server, tmp_path):
    server.files["other"] = BODY[::-1]
    server.drops = [1_000_000]
    with pytest.raises(DataError):
        download(server.url("other"), tmp_path / "file.bin", retries=0)
    assert fetch(server, tmp_path) == BODY
    assert server.ranges == [None, None]


def test_a_partial_file_that_is_too_long_is_discarded(server, tmp_path):
    server.drops = [1_000_000]
    with pytest.raises(DataError):
        fetch(server, tmp_path, retries=0)
    (tmp_path / "file.bin.part").write_bytes(BODY + b"more")
    assert fetch(server, tmp_path) == BODY


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.statuses = [(503, {"Retry-After": "0"}), (429, {}), (500, {})]
    assert fetch(server, tmp_path) == BODY
    assert len(server.requests) == 4


def test_a_server_that_asks_to_wait_for_days_is_not_waited_for(server, tmp_path):
    server.statuses = [(429, {"Retry-After": "999999"})]
    with pytest.raises(DataError, match=r"429.*asks to wait 999999 s; try again later"):
        fetch(server, tmp_path)


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    with pytest.raises(DataError, match="nothing: the server answers 404"):
        fetch(server, tmp_path, name="nothing")
    assert len(server.requests) == 1


def test_a_stalled_server_ends_the_attempt(server, tmp_path):
    server.drops, server.stall_seconds = [1_000_000, 0], 1.0
    start = time.monotonic()
    with pytest.raises(DataError, match="timed out"):
        fetch(server, tmp_path, retries=0, timeout_seconds=0.2)
    assert time.monotonic() - start < 5


def test_a_refused_connection_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"connection failed \(.*refused.*\) after 2 attempts"):
        download("http://127.0.0.1:9/file", tmp_path / "file", retries=1, first_wait_seconds=0.01)


def test_a_web_page_is_refused(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DataError, match=r"sends a web page instead of file\.bin"):
        fetch(server, tmp_path)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/file"])
def test_redirects_stay_on_the_web(server, tmp_path, target):
    server.redirects["file"] = target
    with pytest.raises(DataError):
        fetch(server, tmp_path, name="file", retries=0)
    assert not (tmp_path / "file").exists()


def test_redirects_are_followed(server, tmp_path):
    server.redirects["elsewhere"] = server.url("file.bin")
    assert fetch(server, tmp_path, name="elsewhere") == BODY


def test_more_bytes_than_the_disk_has_free_are_not_begun(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("degla.download.transfer.shutil.disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"1,000 bytes free, and 3,000,000 more are needed.*set data_dir"):
        fetch(server, tmp_path)


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written.*data_dir"):
        download(server.url("file.bin"), tmp_path / "folder" / "file.bin")


# ---- unpacking ----------------------------------------------------------------------------------------------------


def make_zip(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name, target in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    return path


def make_tar(path: Path, files: dict[str, bytes], **special: str) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for kind, target in special.items():
            info = tarfile.TarInfo(f"top/{kind}")
            info.type = {"symlink": tarfile.SYMTYPE, "hardlink": tarfile.LNKTYPE, "fifo": tarfile.FIFOTYPE}[kind]
            info.linkname = target
            archive.addfile(info)
    return path


GOOD = {"top/a.txt": b"a", "top/deep/b.txt": b"b" * 1000, "__MACOSX/top/._a.txt": b"x", "top/.DS_Store": b"x"}
MAKERS = {"zip": make_zip, "tar": make_tar}


def tree(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", MAKERS)
def test_archives_are_unpacked_beside_what_is_there(tmp_path, kind):
    archive = MAKERS[kind](tmp_path / "archive", GOOD)
    target = tmp_path / "data"
    (target / "top" / "deep").mkdir(parents=True)
    (target / "top" / "deep" / "mine.txt").write_bytes(b"mine")
    (target / "top" / "a.txt").write_bytes(b"old")
    unpack(archive, kind, target, tmp_path / "scratch")
    assert tree(target) == {"top/a.txt": b"a", "top/deep/b.txt": b"b" * 1000, "top/deep/mine.txt": b"mine"}
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("kind", MAKERS)
def test_the_folder_at_the_top_can_be_left_out(tmp_path, kind):
    archive = MAKERS[kind](tmp_path / "archive", GOOD)
    unpack(archive, kind, tmp_path / "images", tmp_path / "scratch", strip=True)
    assert tree(tmp_path / "images") == {"a.txt": b"a", "deep/b.txt": b"b" * 1000}
    two = MAKERS[kind](tmp_path / "two", {"one/a": b"", "other/b": b""})
    with pytest.raises(DataError, match="expected to hold one folder, but holds 2 entries"):
        unpack(two, kind, tmp_path / "more", tmp_path / "scratch", strip=True)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("name", ["../out.txt", "top/../../out.txt", "/tmp/out.txt", "top\\..\\out.txt", "C:/out.txt"])
def test_paths_outside_the_folder_are_refused(tmp_path, kind, name):
    archive = MAKERS[kind](tmp_path / "archive", {"top/a.txt": b"a", name: b"bad"})
    with pytest.raises(DataError, match="a path outside its folder; it is not unpacked"):
        unpack(archive, kind, tmp_path / "in" / "data", tmp_path / "in" / "scratch")
    assert tree(tmp_path / "in") == {} and not (tmp_path / "out.txt").exists() and not Path("/tmp/out.txt").exists()


@pytest.mark.parametrize("special", [{"symlink": "/etc"}, {"hardlink": "top/a.txt"}, {"fifo": ""}])
def test_links_and_devices_are_refused(tmp_path, special):
    archive = make_tar(tmp_path / "archive", {"top/a.txt": b"a"}, **special)
    with pytest.raises(DataError, match="is a link or a device; it is not unpacked"):
        unpack(archive, "tar", tmp_path / "data", tmp_path / "scratch")
    assert not (tmp_path / "data").exists()


def test_links_in_a_zip_are_refused(tmp_path):
    archive = make_zip(tmp_path / "archive", {"top/a.txt": b"a"}, links={"top/link": "/etc"})
    with pytest.raises(DataError, match="top/link, which is a link"):
        unpack(archive, "zip", tmp_path / "data", tmp_path / "scratch")


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_archives_leave_nothing(tmp_path, kind, damage):
    files = {"top/a.bin": BODY[:200_000]}
    archive = MAKERS[kind](tmp_path / "archive", files)
    content = bytearray(archive.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        for offset in range(len(content) // 2, len(content) // 2 + 2000):
            content[offset] ^= 0xFF
    else:
        content = bytearray(b"<html>not found</html>")
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"archive is damaged|archive cannot be read"):
        unpack(archive, kind, tmp_path / "data", tmp_path / "scratch")
    assert not (tmp_path / "data").exists() and not (tmp_path / "scratch").exists()


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("degla.download.unpack._ALWAYS_ALLOWED", 10_000)
    archive = make_zip(tmp_path / "archive", {"zeros": bytes(5_000_000)})
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(archive, "zip", tmp_path / "data", tmp_path / "scratch")


# ---- the catalogue ------------------------------------------------------------------------------------------------


def test_the_addresses_that_come_with_the_package_are_of_the_layout_that_benchmarks_read():
    """Every folder of the benchmark configs is filled by some data set, or by the user."""
    catalogue = read_catalogue()
    targets = {file.target for data in catalogue.data_sets.values() for file in data.files}
    targets |= {path for data in catalogue.data_sets.values() for path in data.expects}
    named = set()
    for path in (ROOT / "configs" / "benchmark").glob("*.yaml"):
        text = path.read_text()
        named |= {part.split()[0].strip("\"'") for part in text.split("${data_dir}/")[1:]}
    made_here = {"flickr8k/order.json"}  # by the benchmark, at its first run
    other_name = {"flickr8k/captions.txt": "karpathy"}  # the note of the data set says which key to set
    for name in named - made_here:
        name = other_name.get(name, name)
        assert any(f"{target}/".startswith(f"{name}/") for target in targets), f"no data set fills {name}"


def test_every_benchmark_that_reads_files_is_a_use():
    uses = read_catalogue().uses
    benchmarks = {path.stem for path in (ROOT / "configs" / "benchmark").glob("*.yaml")}
    without_files = {"all", "none", "own", "paper", "scenes"}
    assert {use.partition("=")[2] for use in uses if use.startswith("benchmark=")} == benchmarks - without_files


@pytest.mark.parametrize("folder", ["sugarcrepe", "valse"])
def test_the_checksums_are_those_of_the_published_files(folder):
    if not (SHARED / folder).is_dir():
        pytest.skip(f"the published files are not here ({SHARED / folder})")
    for file in read_catalogue().data_sets[folder].files:
        content = (SHARED / folder / file.file_name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file.sha256 and len(content) == file.size


def test_torchvisions_checksums_are_ours():
    """The addresses that torchvision knows too are the same there."""
    import torchvision.datasets as tv

    sets = read_catalogue().data_sets
    known = {
        (tv.CIFAR10.url, tv.CIFAR10.tgz_md5),
        (tv.CIFAR100.url, tv.CIFAR100.tgz_md5),
        (tv.Food101._URL, tv.Food101._MD5),
        (tv.DTD._URL, tv.DTD._MD5),
        (tv.SUN397._DATASET_URL, tv.SUN397._DATASET_MD5),
        *tv.OxfordIIITPet._RESOURCES,
        *((tv.Flowers102._download_url_prefix + name, md5) for name, md5 in tv.Flowers102._file_dict.values()),
    }
    names = ("cifar10", "cifar100", "food101", "dtd", "sun397", "pets", "flowers102")
    assert {(file.url, file.md5) for name in names for file in sets[name].files} == known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"url": "ftp://host/a.zip"}, "must begin with http"),
        ({"url": "file:///etc/passwd"}, "must begin with http"),
        ({"to": "../elsewhere"}, "must be a path below data_dir"),
        ({"to": "/elsewhere"}, "must be a path below data_dir"),
        ({"folder": "a/../../b"}, "must be a path below data_dir"),
        ({"sha256": "12"}, "pattern"),
        ({"unpack": "rar"}, "'zip' or 'tar'"),
        ({"unpack": None}, "`unpack` and `folder` go together"),
        ({"num_files": 0}, "greater than or equal to 1"),
        ({"urls": ["x"]}, "not permitted"),
        ({"url": "http://host"}, "no file name"),
    ],
)
def test_addresses_are_checked(tmp_path, change, message):
    file = {"url": "http://host/a.zip", "to": "here", "unpack": "zip", "folder": "here/a", **change}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(catalogue_of(file)))
    with pytest.raises(ConfigError, match=rf"addresses: .*mine\.yaml: data_sets\.made.*{message}"):
        read_catalogue(tmp_path / "mine.yaml")


def test_files_that_are_not_catalogues_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    for text, message in (("{", "is not YAML"), ("[1]", "valid dictionary"), ("uses: {}", "data_sets: Field required")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_catalogue(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_catalogue(tmp_path / "nothing.yaml")
    path.write_text(yaml.safe_dump({**catalogue_of(), "uses": {"benchmark=x": ["other"]}}))
    with pytest.raises(ConfigError, match=r"`uses\.benchmark=x` names other"):
        read_catalogue(path)


def catalogue_of(*files: dict, **more) -> dict:
    data = {"title": "Made", "licence": "none", "source": "http://host/page", **more}
    data |= {"files": list(files)} if files else {"by_hand": "ask"}
    return {"data_sets": {"made": data}, "uses": {"benchmark=made": ["made"]}}


# ---- the program --------------------------------------------------------------------------------------------------


@pytest.fixture
def made(server, tmp_path):
    """Two files, one of them an archive, and a file of their addresses."""
    archive = make_zip(tmp_path / "images.zip", {f"top/{i}.jpg": BODY[i * 1000 : (i + 1) * 1000] for i in range(20)})
    server.files["images.zip"] = archive.read_bytes()
    server.files["captions.json"] = b'{"a": "b"}'
    write_addresses(server, tmp_path)
    return server


def write_addresses(server, tmp_path, **captions):
    content = catalogue_of(
        {"url": server.url("captions.json"), "to": "made", **captions},
        {"url": server.url("images.zip"), "to": "made/images", "unpack": "zip", "strip": True, "folder": "made/images",
         "num_files": 20},
    )  # fmt: skip
    (tmp_path / "addresses.yaml").write_text(yaml.safe_dump(content))


def data(tmp_path, *arguments, check=True):
    return degla(
        *arguments, "addresses=addresses.yaml", "data_dir=data", cwd=tmp_path, program="downloads", check=check
    )


def test_the_program_lists_fetches_and_checks(made, tmp_path):
    listed = data(tmp_path).stdout
    assert "made" in listed and "missing" in listed and "none; http://host/page" in listed
    assert not (tmp_path / "data").exists(), "a list writes nothing"
    assert "missing: degla-data get=[made]" in data(tmp_path, "check=true").stdout
    assert "made: here" in data(tmp_path, "get=[made]").stdout
    assert len(tree(tmp_path / "data" / "made" / "images")) == 20
    assert json.loads((tmp_path / "data" / "made" / "captions.json").read_text()) == {"a": "b"}
    assert {path.name for path in (tmp_path / "data" / STAGING_FOLDER).iterdir()} == {"lock"}, "archives are removed"
    record = json.loads((tmp_path / "data" / RECORD).read_text())
    assert record["made/captions.json"]["sha256"] == hashlib.sha256(b'{"a": "b"}').hexdigest()
    assert record["made/images"]["files"] == 20
    made.requests.clear()
    assert data(tmp_path, "get=made").returncode == 0
    assert made.requests == [], "what is here is not fetched again"
    checked = data(tmp_path, "check=true").stdout
    assert checked.split() == ["benchmark=made", "here"]
    data(tmp_path, "get=[made]", "force=true")
    assert len(made.requests) == 2
    ours = {path.name for path in tmp_path.iterdir()} - {"stdout", "stderr"}  # of the forked process
    assert ours == {"addresses.yaml", "data", "images.zip"}


def test_damage_is_found_by_the_check(made, tmp_path):
    data(tmp_path, "get=[made]")
    path = tmp_path / "data" / "made" / "captions.json"
    path.write_bytes(b'{"a": "c"}')
    result = data(tmp_path, "check=true", check=False)
    assert result.returncode == 2 and "captions.json has the sha256" in result.stderr
    assert "made changed: degla-data get=[made]" in result.stdout
    data(tmp_path, "get=[made]", "force=true")
    (tmp_path / "data" / "made" / "images" / "7.jpg").unlink()
    result = data(tmp_path, "check=true", "get=[made]", check=False)
    assert result.returncode == 2 and "holds 19 of 20 files" in result.stderr
    data(tmp_path, "get=[made]")
    assert len(tree(tmp_path / "data" / "made" / "images")) == 20


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_checksum_is_refused_and_nothing_stays(made, tmp_path, kind):
    write_addresses(made, tmp_path, **{kind: hashlib.new(kind, b"other").hexdigest()})
    result = data(tmp_path, "get=[made]", check=False)
    assert result.returncode == 2
    assert f"the {kind} is " in result.stderr and "the file was deleted" in result.stderr
    assert "(by hand: http://host/page)" in result.stderr and "Traceback" not in result.stderr
    assert tree(tmp_path / "data") == {f"{STAGING_FOLDER}/lock": b""}


def test_the_first_download_is_recorded_and_a_later_one_compared_with_it(made, tmp_path):
    data(tmp_path, "get=[made]")
    made.files["captions.json"] = b'{"a": "d"}'
    result = data(tmp_path, "get=[made]", "force=true", check=False)
    assert result.returncode == 2 and "was expected" in result.stderr and RECORD in result.stderr
    assert (tmp_path / "data" / "made" / "captions.json").read_bytes() == b'{"a": "b"}', "the old file stays"


def test_unknown_names_are_answered_with_the_right_one(made, tmp_path):
    result = data(tmp_path, "get=[mad]", check=False)
    assert result.returncode == 2 and "there is no data set mad: did you mean made?" in result.stderr


def test_what_must_be_done_by_hand_is_printed(tmp_path):
    (tmp_path / "addresses.yaml").write_text(yaml.safe_dump(catalogue_of(expects=["there"])))
    assert "by hand" in data(tmp_path, "check=true").stdout
    result = data(tmp_path, "get=[made]")
    assert "made: ask" in result.stdout + result.stderr
    (tmp_path / "data" / "there").mkdir()
    assert data(tmp_path, "check=true").stdout.split() == ["benchmark=made", "here"]


def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(server, tmp_path):
    (tmp_path / "addresses.yaml").write_text(yaml.safe_dump(catalogue_of({"url": server.url("file.bin"), "to": "x"})))
    command = [sys.executable, "-m", "degla.downloads", "get=[made]", "addresses=addresses.yaml", "data_dir=data"]

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))

    def run(**arguments):
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, **arguments)

    result = run(preexec_fn=small_disk)
    assert result.returncode == 2, result.stderr
    assert "the disk is full while writing" in result.stderr and "resumes" in result.stderr
    assert "Traceback" not in result.stderr
    assert run().returncode == 0
    assert (tmp_path / "data" / "x" / "file.bin").read_bytes() == BODY
    assert server.ranges == [None, "bytes=2000000-"]


def test_a_disk_that_fills_while_unpacking_leaves_no_half_folder(made, tmp_path):
    made.files["images.zip"] = make_zip(tmp_path / "images.zip", {"top/zeros.jpg": bytes(3_000_000)}).read_bytes()
    write_addresses(made, tmp_path)
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    result = subprocess.run(
        [sys.executable, "-m", "degla.downloads", "get=[made]", "addresses=addresses.yaml", "data_dir=data"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)),
    )
    assert result.returncode == 2 and "the disk is full" in result.stderr, result.stderr
    assert not (tmp_path / "data" / "made" / "images").exists()


def test_two_programs_do_not_write_into_one_folder(made, tmp_path):
    (tmp_path / "data").mkdir()
    with lock_data_dir(tmp_path / "data"):
        result = data(tmp_path, "get=[made]", check=False)
    assert result.returncode == 2 and "another degla-data is downloading into data" in result.stderr


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(DataError, match="delete it to start a new record"):
        Inventory(tmp_path)


def test_the_check_of_everything_is_short(tmp_path):
    result = degla("check=true", "data_dir=data", cwd=tmp_path, program="downloads")
    assert 10 < len(result.stdout.splitlines()) < 20


def test_the_list_imports_no_torch(tmp_path):
    code = "import sys, degla.downloads as d; sys.argv = ['x', 'check=true']; d.main(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "False", result.stderr
