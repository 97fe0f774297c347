"""GitHub's and GitLab's comments on loopback, as strict as the real servers are documented to be.

Both want their token in their own header, give lists in pages with a `Link` to the next one, and
refuse a comment that is empty or too long. GitHub also wants to know the program (`User-Agent`),
and the token of a job has no user.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "forge-token-0123456789"
REPOSITORY = "octo/models"
PROJECT = 42
NUMBER = 7
MOST = {"github": 65_536, "gitlab": 1_000_000}
"""Characters of a comment."""


@dataclass
class Forge:
    """One server: what it holds, what it allows, and what it was asked.

    Attributes:
        kind: `github` or `gitlab`.
        comments: in the order of their numbers.
        read_only: the token may not write, as that of a fork's job.
        account: of the token; empty: it is that of a job of GitHub.
        elsewhere: redirect every request to this address.
        next_page: where the next page of a list is said to be, instead of here.
    """

    kind: str
    comments: list[dict[str, Any]] = field(default_factory=list)
    read_only: bool = False
    account: str = ""
    elsewhere: str = ""
    next_page: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""

    @property
    def api(self) -> str:
        """The address of the interface."""
        return self.address + ("/api/v4" if self.kind == "gitlab" else "")

    @property
    def author(self) -> dict[str, Any]:
        """Who the token writes as."""
        if self.kind == "gitlab":
            return {"author": {"id": 1, "username": "bot"}}
        if self.account:
            return {"user": {"login": self.account, "type": "User"}}
        return {"user": {"login": "github-actions[bot]", "type": "Bot"}}

    def add(self, body: str, **author: Any) -> dict[str, Any]:
        """Write a comment, by the token's account or by another."""
        number = len(self.comments) + 100
        url = f"{self.address}/{REPOSITORY}/pull/{NUMBER}#issuecomment-{number}"
        made = {"id": number, "body": body, "html_url": url, **(author or self.author)}
        self.comments.append(made)
        return made

    def environment(self, event: str) -> dict[str, str]:
        """The variables of a job for a request; `event`: the file that describes it."""
        if self.kind == "gitlab":
            return {
                "GITLAB_CI": "true",
                "CI_API_V4_URL": self.api,
                "CI_MERGE_REQUEST_PROJECT_ID": str(PROJECT),
                "CI_MERGE_REQUEST_IID": str(NUMBER),
                "CI_MERGE_REQUEST_PROJECT_URL": f"{self.address}/{REPOSITORY}",
                "CI_JOB_URL": f"{self.address}/{REPOSITORY}/-/jobs/5",
                "CI_COMMIT_SHA": "a" * 40,
                "GITLAB_TOKEN": TOKEN,
            }
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.api,
            "GITHUB_SERVER_URL": self.address,
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "5",
            "GITHUB_SHA": "a" * 40,
            "GITHUB_EVENT_PATH": event,
            "GITHUB_TOKEN": TOKEN,
        }

    def answer(self, method: str, target: str, headers: Any, data: bytes) -> tuple[int, Any, str]:
        """Status, JSON and `Link` of the answer to a request."""
        self.asked.append((method, target))
        if self.elsewhere:
            return 307, {}, ""
        expected = {
            "github": ("Authorization", f"Bearer {TOKEN}"),
            "gitlab": ("PRIVATE-TOKEN", TOKEN),
        }
        name, value = expected[self.kind]
        if headers.get(name) != value:
            return 401, {"message": "Bad credentials"}, ""
        if self.kind == "github" and not headers.get("User-Agent"):
            return 403, {"message": "Request forbidden by administrative rules"}, ""
        path = target.partition("?")[0].removeprefix(self.api.removeprefix(self.address))
        if path == "/user":
            return self._user()
        if self.kind == "gitlab":
            whole = f"/projects/{PROJECT}/merge_requests/{NUMBER}/notes"
            one = whole
        else:
            whole = f"/repos/{REPOSITORY}/issues/{NUMBER}/comments"
            one = f"/repos/{REPOSITORY}/issues/comments"
        if path == whole:
            return self._list(target) if method == "GET" else self._write(method, None, data)
        found = re.fullmatch(re.escape(one) + r"/(\d+)", path)
        return self._write(method, int(found[1]), data) if found else (404, {}, "")

    def _user(self) -> tuple[int, Any, str]:
        if self.kind == "gitlab":
            return 200, {"id": 1, "username": "bot"}, ""
        if self.account:
            return 200, {"login": self.account}, ""
        return 403, {"message": "Resource not accessible by integration"}, ""

    def _list(self, target: str) -> tuple[int, Any, str]:
        query = parse_qs(urlsplit(target).query)
        size = min(int(query.get("per_page", ["30"])[0]), 100)
        page = int(query.get("page", ["1"])[0])
        shown = self.comments[(page - 1) * size : page * size]
        following = f"{self.address}{target.partition('?')[0]}?per_page={size}&page={page + 1}"
        more = len(self.comments) > page * size
        link = f'<{self.next_page or following}>; rel="next", <{following}>; rel="last"'
        return 200, shown, link if more else ""

    def _write(self, method: str, number: int | None, data: bytes) -> tuple[int, Any, str]:
        if self.read_only:
            return 403, {"message": "Resource not accessible by integration"}, ""
        body = json.loads(data).get("body")
        if not isinstance(body, str) or not body.strip() or len(body) > MOST[self.kind]:
            return 422, {"message": "Validation Failed"}, ""
        if number is None:
            return (201, self.add(body), "") if method == "POST" else (404, {}, "")
        known = [one for one in self.comments if one["id"] == number]
        if method != {"github": "PATCH", "gitlab": "PUT"}[self.kind] or not known:
            return 404, {"message": "Not Found"}, ""
        known[0]["body"] = body
        return 200, known[0], ""


@contextmanager
def forge_server(kind: str, **settings: Any) -> Iterator[Forge]:
    """A server that answers while the block runs."""
    forge = Forge(kind, **settings)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value, link = forge.answer(self.command, self.path, self.headers, data)
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            if link:
                self.send_header("Link", link)
            if status == 307:
                self.send_header("Location", forge.elsewhere + self.path)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    for method in ("GET", "POST", "PATCH", "PUT"):
        setattr(Handler, f"do_{method}", Handler._answer)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    forge.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield forge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
