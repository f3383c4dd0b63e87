"""A server that speaks the Hugging Face hub's API as far as uploads and downloads of models need it.

It keeps repositories in memory: private ones need the token, files above a size travel by LFS, and every upload is a
commit. ``huggingface_hub`` reads ``HF_ENDPOINT`` when it is imported, so its users run in processes of their own. They
need ``HF_HUB_DISABLE_XET=1``, because the server stores by LFS and not by Xet.
"""

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LFS_BYTES = 100_000  # larger files travel by LFS
_MODEL = r"/api/models/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Repository:
    """One model: its files, and the commits so far."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=lambda: [hashlib.sha1(b"first").hexdigest()])


class HubServer(ThreadingHTTPServer):
    """The server with its repositories."""

    def __init__(self, token: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.lfs: dict[str, bytes] = {}  # sha256 -> content
        self.requests: list[str] = []  # method, path and authorization

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def hub_server(token: str = "a secret") -> Iterator[HubServer]:
    """Run the server until the block ends."""
    server = HubServer(token)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.route("GET")

    def do_HEAD(self):
        self.route("HEAD")

    def do_POST(self):
        self.route("POST")

    def do_PUT(self):
        self.route("PUT")

    def route(self, method: str) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{method} {path} {self.headers.get('Authorization')}")
        for pattern, methods, answer in _ROUTES:
            if method in methods and (match := re.fullmatch(pattern, path)):
                return answer(self, **match.groupdict())
        return self.send(404, {"error": f"no such path: {path}"})

    def repository(self, name: str) -> Repository | None:
        """Return a repository that the client may see; like the hub, answer 401 for all others."""
        found = self.server.repositories.get(name)
        if found and not (found.private and self.headers.get("Authorization") != f"Bearer {self.server.token}"):
            return found
        self.send(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return None

    def is_owner(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.server.token}":
            return True
        self.send(401, {"error": "Invalid credentials"})
        return False

    def create(self) -> None:
        if not self.is_owner():
            return
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if name in self.server.repositories:
            self.send(409, {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"})
            return
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.repositories[name] = Repository(private=bool(private))
        self.send(200, {"url": f"{self.server.url}/{name}", "id": name})

    def info(self, repo: str, revision: str | None = None) -> None:
        if (found := self.repository(repo)) is not None:
            siblings = [{"rfilename": name} for name in sorted(found.files)]
            self.send(200, {"id": repo, "sha": found.commits[-1], "private": found.private, "siblings": siblings})

    def tree(self, repo: str, revision: str) -> None:
        if (found := self.repository(repo)) is not None:
            oids = {path: hashlib.sha1(content).hexdigest() for path, content in found.files.items()}
            self.send(
                200,
                [{"type": "file", "oid": oids[path], "size": len(content), "path": path}
                 for path, content in found.files.items()],
            )  # fmt: skip

    def preupload(self, repo: str, revision: str) -> None:
        if self.is_owner() and self.repository(repo):
            files = [
                {"path": file["path"], "uploadMode": "lfs" if file["size"] > LFS_BYTES else "regular",
                 "shouldIgnore": False, "oid": None}
                for file in json.loads(self.body)["files"]
            ]  # fmt: skip
            self.send(200, {"files": files})

    def validate_card(self) -> None:
        content = json.loads(self.body)["content"]
        try:
            metadata = yaml.safe_load(content.split("---")[1])
            errors = [] if metadata.get("library_name") else [{"message": "no library_name"}]
        except (yaml.YAMLError, IndexError, AttributeError) as error:
            errors = [{"message": str(error)}]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def lfs_batch(self, repo: str) -> None:
        if self.is_owner():
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.server.url}/lfs/{entry['oid']}"}}}
                for entry in json.loads(self.body)["objects"]
            ]
            self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.send(400, {"error": "the content does not have this hash"})
            return
        self.server.lfs[oid] = self.body
        self.send(200, {})

    def commit(self, repo: str, revision: str) -> None:
        found = self.repository(repo) if self.is_owner() else None
        if found is None:
            return
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                found.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.files[value["path"]] = self.server.lfs[value["oid"]]
        found.commits.append(hashlib.sha1(self.body).hexdigest())
        url = f"{self.server.url}/{repo}/commit/{found.commits[-1]}"
        self.send(200, {"success": True, "commitUrl": url, "commitOid": found.commits[-1]})

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if (found := self.repository(repo)) is None:
            return
        headers = {"X-Repo-Commit": found.commits[-1]}
        if path not in found.files:
            self.send(404, {"error": "Entry not found"}, {**headers, "X-Error-Code": "EntryNotFound"})
            return
        content = found.files[path]
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        start = int(re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range") or "bytes=0-")[1])
        self.send(200 if not start else 206, content[start:], headers)

    def send(self, status: int, answer: dict | list | bytes, headers: dict[str, str] | None = None) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        )
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


_ROUTES = [
    (r"/api/repos/create", ("POST",), _Handler.create),
    (r"/api/validate-yaml", ("POST",), _Handler.validate_card),
    (_MODEL, ("GET",), _Handler.info),
    (rf"{_MODEL}/revision/(?P<revision>[^/]+)", ("GET",), _Handler.info),
    (rf"{_MODEL}/tree/(?P<revision>[^/]+)", ("GET",), _Handler.tree),
    (rf"{_MODEL}/preupload/(?P<revision>[^/]+)", ("POST",), _Handler.preupload),
    (rf"{_MODEL}/commit/(?P<revision>[^/]+)", ("POST",), _Handler.commit),
    (r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", ("POST",), _Handler.lfs_batch),
    (r"/lfs/(?P<oid>[0-9a-f]{64})", ("PUT",), _Handler.lfs_put),
    (r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", ("GET", "HEAD"), _Handler.resolve),
]
