"""A model hub on loopback: serves directories as repositories, and records what was fetched."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

API = re.compile(
    r"/api/models/(?P<name>[^/]+/[^/]+)(/(?P<kind>revision|tree)/(?P<revision>[^?]+))?"
)
FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


def commit_of(folder: Path) -> str:
    """A name of 40 digits for the content of a repository, as commits have."""
    return hashlib.sha1(str(folder).encode()).hexdigest()


def blob_of(content: bytes) -> str:
    """The name by which the hub knows the content of a file."""
    return hashlib.sha1(content).hexdigest()


@dataclass
class HubServer:
    """The hub.

    Attributes:
        repositories: by hub id with its revision, such as `org/model@main`.
        fetched: the files that were downloaded, `org/model@main/config.json`.
        url: where it listens.
    """

    repositories: Mapping[str, Path]
    fetched: list[str] = field(default_factory=list)
    url: str = ""

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        """The hub id and directory of a repository, by the name of its revision or its commit."""
        for key, folder in self.repositories.items():
            owner, _, known = key.partition("@")
            if owner == name and revision in (known, commit_of(folder)):
                return key, folder
        return None


@contextmanager
def serving(repositories: Mapping[str, Path]) -> Iterator[HubServer]:
    """A hub with these repositories."""
    hub = HubServer(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(*answer(hub, unquote(self.path)))

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, text in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
                if file := FILE.fullmatch(unquote(self.path)):
                    found = hub.find(file["name"], file["revision"])
                    hub.fetched.append(f"{found[0] if found else '?'}/{file['file']}")

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def answer(hub: HubServer, path: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body, as the hub's documented interface has them."""
    if file := FILE.fullmatch(path):
        found = hub.find(file["name"], file["revision"])
        if found and (found[1] / file["file"]).is_file():
            body = (found[1] / file["file"]).read_bytes()
            return 200, {"X-Repo-Commit": commit_of(found[1]), "ETag": f'"{blob_of(body)}"'}, body
        return 404, {"X-Error-Code": "EntryNotFound"}, b""
    asked = API.match(path)
    found = asked and hub.find(asked["name"], asked["revision"] or "main")
    if not asked or not found:
        missing = "RevisionNotFound" if asked and asked["revision"] else "RepoNotFound"
        return 404, {"X-Error-Code": missing}, b""
    files = sorted(file for file in found[1].rglob("*") if file.is_file())
    names = [file.relative_to(found[1]).as_posix() for file in files]
    value: Any = {
        "id": asked["name"],
        "sha": commit_of(found[1]),
        "siblings": [{"rfilename": name} for name in names],
    }
    if asked["kind"] == "tree":
        value = [
            {
                "type": "file",
                "path": name,
                "size": file.stat().st_size,
                "oid": blob_of(file.read_bytes()),
            }
            for name, file in zip(names, files, strict=True)
        ]
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path, *, offline: bool) -> None:
    """Let this process use a hub; huggingface_hub reads its environment only when imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
