"""One comment on a pull request of GitHub or a merge request of GitLab, replaced at every push.

The comment is found again by a hidden line, and only among those of the same account. The token
comes from the environment, is sent to the server that the CI job names and to no other, and a
redirect is not followed. Whatever goes wrong here is said and is no failure of the gate: a job of
a fork may not write comments, and has its summary.
"""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from ...documents import parse_json, read_object
from ...errors import EdgewrightError, UsageError
from ..plain_text import plain

__all__ = ["Published", "marker", "publish"]

SECONDS = 20.0
"""A request may take."""
MOST_REPLY = 16 << 20
"""Bytes of a page of 100 comments; each may have 65,536 characters."""
MOST_EVENT = 32 << 20
MOST_PAGES = 30
PER_PAGE = 100
NEXT = re.compile(r'<([^<>]+)>\s*;[^,]*rel="?next"?')
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN = re.compile(r"[\x21-\x7e]+")
NO_REQUEST = "this job belongs to no pull request"


@dataclass(frozen=True)
class Published:
    """What became of a comment.

    Attributes:
        url: its address; empty: there is none.
        note: why there is none.
    """

    url: str = ""
    note: str = ""


class _NotPublished(Exception):
    """Why there is no comment."""


@dataclass(frozen=True)
class _Forge:
    """Where the comments of one request are, and how its server wants to be asked.

    Attributes:
        api: address of the interface.
        comments: path of the list of comments.
        comment: path of one comment; `{}` is its number.
        change: method of HTTP that replaces a comment.
        headers: of every request.
        is_own: whether a comment is by the account of the answer to `/user`, which is empty if
            the token has no user.
        address: the address of a comment for people.
    """

    api: str
    comments: str
    comment: str
    change: str
    headers: Mapping[str, str]
    is_own: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    address: Callable[[Mapping[str, Any]], str]


def marker(name: str) -> str:
    """The first line of a comment, which nobody sees and by which it is found again."""
    return f"<!-- edgewright gate: {name} -->\n"


def publish(text: str, name: str, environment: Mapping[str, str] = os.environ) -> Published:
    """Write the comment of a name, or replace it, from inside a CI job.

    Args:
        text: Markdown.
        name: of the comment; a request may have several.
        environment: the variables of the job, and the token.
    """
    body = f"{marker(name)}{text}{_footer(environment)}"
    try:
        forge = _forge(environment)
        return Published(url=_written(forge, marker(name), body))
    except _NotPublished as error:
        return Published(note=f"no comment: {error}")


def _forge(environment: Mapping[str, str]) -> _Forge:
    """The server and the request that the job belongs to."""
    if environment.get("GITHUB_ACTIONS"):
        return _github(environment)
    if environment.get("GITLAB_CI"):
        return _gitlab(environment)
    raise _NotPublished("this is no job of GitHub Actions or GitLab CI")


def _github(environment: Mapping[str, str]) -> _Forge:
    repository = environment.get("GITHUB_REPOSITORY", "")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise _NotPublished("GITHUB_REPOSITORY is not OWNER/NAME")
    number = _pull_request(environment.get("GITHUB_EVENT_PATH", ""))
    token = _token(environment, "GITHUB_TOKEN", "GH_TOKEN")
    return _Forge(
        api=_api(environment, "GITHUB_API_URL"),
        comments=f"/repos/{repository}/issues/{number}/comments",
        comment=f"/repos/{repository}/issues/comments/{{}}",
        change="PATCH",
        headers={
            "Authorization": f"Bearer {token}",
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
        },
        is_own=_is_own_on_github,
        address=lambda comment: str(comment.get("html_url", "")),
    )


def _is_own_on_github(comment: Mapping[str, Any], user: Mapping[str, Any]) -> bool:
    """The token of a job has no user: it writes as a bot."""
    author = comment.get("user") or {}
    return author.get("login") == user["login"] if user else author.get("type") == "Bot"


def _pull_request(event: str) -> int:
    """The number of the pull request that started a job of GitHub."""
    if not event:
        raise _NotPublished(NO_REQUEST)
    try:
        told = read_object(Path(event), "GitHub writes it", MOST_EVENT)
    except UsageError as error:
        raise _NotPublished(str(error)) from error
    request = told.get("pull_request")
    number = request.get("number") if isinstance(request, dict) else None
    if type(number) is not int or number < 1:
        raise _NotPublished(NO_REQUEST)
    return number


def _gitlab(environment: Mapping[str, str]) -> _Forge:
    project = environment.get("CI_MERGE_REQUEST_PROJECT_ID", "")
    number = environment.get("CI_MERGE_REQUEST_IID", "")
    if not (project.isascii() and project.isdigit() and number.isascii() and number.isdigit()):
        raise _NotPublished(NO_REQUEST)
    token = _token(environment, "GITLAB_TOKEN")
    notes = f"/projects/{project}/merge_requests/{number}/notes"
    page = f"{environment.get('CI_MERGE_REQUEST_PROJECT_URL', '')}/-/merge_requests/{number}"
    return _Forge(
        api=_api(environment, "CI_API_V4_URL"),
        comments=notes,
        comment=f"{notes}/{{}}",
        change="PUT",
        headers={"PRIVATE-TOKEN": token, "Accept": "application/json"},
        is_own=lambda note, user: (note.get("author") or {}).get("id") == user.get("id"),
        address=lambda note: f"{page}#note_{note.get('id')}",
    )


def _token(environment: Mapping[str, str], *names: str) -> str:
    token = next((found for name in names if (found := environment.get(name))), "")
    if not token:
        raise _NotPublished(f"{names[0]} is not set; a job of a fork gets none")
    if not TOKEN.fullmatch(token):
        raise _NotPublished(f"{names[0]} has characters that no token has")
    return token


def _api(environment: Mapping[str, str], name: str) -> str:
    """The address of the interface: https, or on this machine."""
    api = environment.get(name, "").rstrip("/")
    try:
        parts = urlsplit(api)
    except ValueError:
        parts = urlsplit("")
    local = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise _NotPublished(f"{name} is no https address")
    return api


def _footer(environment: Mapping[str, str]) -> str:
    """A line with the commit and the job; empty where they are not known."""
    get = environment.get
    job = get("CI_JOB_URL", "")
    if run := get("GITHUB_RUN_ID"):
        server = get("GITHUB_SERVER_URL", "")
        job = f"{server}/{get('GITHUB_REPOSITORY', '')}/actions/runs/{run}"
    commit = get("GITHUB_SHA") or get("CI_COMMIT_SHA") or ""
    parts = [f"commit {commit[:12]}"] if re.fullmatch("[0-9a-f]{40,64}", commit) else []
    if re.fullmatch(r"https?://[\w.:/@%-]+", job, re.ASCII):
        parts.append(f"[job]({job})")
    return f"\n{', '.join(parts)}\n" if parts else ""


def _written(forge: _Forge, mark: str, body: str) -> str:
    """Replace the comment that begins with the mark, or write it: its address."""
    own = next((one for one in _comments(forge) if str(one.get("body", "")).startswith(mark)), None)
    if own is None:
        answer, _ = _ask(forge, "POST", forge.comments, {"body": body})
    else:
        path = forge.comment.format(quote(str(own["id"]), safe=""))
        answer, _ = _ask(forge, forge.change, path, {"body": body})
    address = forge.address(answer if isinstance(answer, dict) else {})
    if not re.fullmatch(r"https?://[\x21-\x7e]+", address):
        raise _NotPublished("the server did not say where the comment is")
    return address


def _comments(forge: _Forge) -> Iterator[Mapping[str, Any]]:
    """The comments of the token's own account, page by page."""
    try:
        answer, _ = _ask(forge, "GET", "/user")
        user = answer if isinstance(answer, dict) else {}
    except _NotPublished:
        user = {}
    path = f"{forge.comments}?per_page={PER_PAGE}"
    for _ in range(MOST_PAGES):
        found, headers = _ask(forge, "GET", path)
        for one in found if isinstance(found, list) else ():
            if isinstance(one, dict) and forge.is_own(one, user):
                yield one
        following = NEXT.search(headers.get("Link") or "")
        if following is None:
            return
        if not following[1].startswith(f"{forge.api}/"):
            raise _NotPublished("the list of comments goes on at another server")
        path = following[1].removeprefix(forge.api)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are errors: the token would go to another server."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """Follow none."""


OPENER = urllib.request.build_opener(_NoRedirect)


def _ask(
    forge: _Forge, method: str, path: str, body: Mapping[str, str] | None = None
) -> tuple[Any, HTTPMessage]:
    """The JSON and the headers of an answer."""
    request = urllib.request.Request(  # `_api` allows https, and http to this machine
        forge.api + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={**forge.headers, "Content-Type": "application/json", "User-Agent": "edgewright"},
        method=method,
    )
    try:
        with OPENER.open(request, timeout=SECONDS) as answer:
            data = answer.read(MOST_REPLY + 1)
            headers = answer.headers
    except urllib.error.HTTPError as error:
        with error:
            raise _NotPublished(_refusal(method, error)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _NotPublished(f"the server did not answer: {plain(error)}") from error
    if len(data) > MOST_REPLY:
        raise _NotPublished("the server's answer is too long")
    try:
        return parse_json(data, "the server's answer", "it is no JSON"), headers
    except EdgewrightError as error:
        raise _NotPublished(str(error)) from error


def _refusal(method: str, error: urllib.error.HTTPError) -> str:
    """What a status means, and what to do."""
    if error.code in (401, 403, 404):
        return (
            f"the token may not {'read' if method == 'GET' else 'write'} comments "
            f"(HTTP {error.code}). GitHub: `permissions: pull-requests: write`, which a job of a "
            "fork does not get. GitLab: a token with the scope `api`"
        )
    return f"the server answered {method} with HTTP {error.code}"
