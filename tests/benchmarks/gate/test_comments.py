"""The comment on a pull request: written once, found again, replaced; never at another server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from forge_server import NUMBER, TOKEN, Forge, forge_server

from edgewright.benchmarks.gate.comments import marker, publish

KINDS = ("github", "gitlab")


@pytest.fixture
def event(tmp_path: Path) -> str:
    """The file in which GitHub describes what started a job."""
    file = tmp_path / "event.json"
    file.write_text(json.dumps({"number": NUMBER, "pull_request": {"number": NUMBER}}))
    return str(file)


@pytest.fixture(params=KINDS)
def forge(request: pytest.FixtureRequest) -> Iterator[Forge]:
    with forge_server(request.param) as one:
        yield one


def test_it_is_written_once_and_replaced_at_the_next_push(forge: Forge, event: str) -> None:
    environment = forge.environment(event)
    first = publish("first\n", "int4", environment)
    second = publish("second\n", "int4", environment)
    other = publish("other\n", "int8", environment)
    assert (first.note, second.note, other.note) == ("", "", "")
    assert first.url == second.url != other.url
    assert [one["body"].splitlines()[:2] for one in forge.comments] == [
        [marker("int4").strip(), "second"],
        [marker("int8").strip(), "other"],
    ]
    footer = forge.comments[0]["body"].splitlines()[-1]
    assert footer.startswith(f"commit aaaaaaaaaaaa, [job]({forge.address}/")


@pytest.mark.parametrize("before", [99, 100, 250])
def test_it_is_found_behind_many_other_comments(forge: Forge, event: str, before: int) -> None:
    for number in range(before):
        forge.add(f"comment {number}")
    own = forge.add(marker("int4") + "old")
    publish("new", "int4", forge.environment(event))
    assert own["body"].startswith(marker("int4") + "new")
    assert len(forge.comments) == before + 1


def test_what_others_wrote_is_not_touched(forge: Forge, event: str) -> None:
    """Somebody may write the hidden line into a comment of their own."""
    person = {"user": {"login": "eve", "type": "User"}, "author": {"id": 666}}
    theirs = forge.add(marker("int4") + "theirs", **person)
    publish("mine", "int4", forge.environment(event))
    publish("again", "int4", forge.environment(event))
    assert theirs["body"] == marker("int4") + "theirs"
    assert [one["body"].split("\n")[1] for one in forge.comments] == ["theirs", "again"]


def test_a_token_of_a_person_finds_that_persons_comment(event: str) -> None:
    with forge_server("github", account="ada") as forge:
        forge.add(marker("int4") + "a robot's", user={"login": "robot", "type": "Bot"})
        for text in ("one", "two"):
            publish(text, "int4", forge.environment(event))
        assert [one["body"].split("\n")[1] for one in forge.comments] == ["a robot's", "two"]


def test_a_fork_may_not_write_and_says_so(forge: Forge, event: str) -> None:
    forge.read_only = True
    done = publish("text", "int4", forge.environment(event))
    assert done.url == "" and "may not write comments (HTTP 403)" in done.note
    assert "pull-requests: write" in done.note
    assert forge.comments == []


@pytest.mark.parametrize(
    ("kind", "name", "value", "why"),
    [
        ("github", "GITHUB_TOKEN", "", "GITHUB_TOKEN is not set"),
        ("gitlab", "GITLAB_TOKEN", "", "GITLAB_TOKEN is not set"),
        ("github", "GITHUB_TOKEN", "a\r\nX-Evil: 1", "characters that no token has"),
        ("github", "GITHUB_TOKEN", "wrong", "may not read comments (HTTP 401)"),
        ("github", "GITHUB_API_URL", "http://example.org", "GITHUB_API_URL is no https address"),
        ("gitlab", "CI_API_V4_URL", "http://[", "CI_API_V4_URL is no https address"),
        ("github", "GITHUB_REPOSITORY", "a/../../user", "not OWNER/NAME"),
        ("github", "GITHUB_EVENT_PATH", "", "belongs to no pull request"),
        ("github", "GITHUB_EVENT_PATH", "missing.json", "cannot be read"),
        ("gitlab", "CI_MERGE_REQUEST_IID", "", "belongs to no pull request"),
        ("gitlab", "CI_MERGE_REQUEST_IID", "7/../8", "belongs to no pull request"),
        ("github", "GITHUB_ACTIONS", "", "no job of GitHub Actions or GitLab CI"),
    ],
)
def test_why_there_is_no_comment(kind: str, name: str, value: str, why: str, event: str) -> None:
    with forge_server(kind) as forge:
        done = publish("text", "int4", {**forge.environment(event), name: value})
        assert done.url == "" and done.note.startswith("no comment: ") and why in done.note
        assert TOKEN not in done.note
        assert forge.comments == []


@pytest.mark.parametrize(
    "told", [{}, {"pull_request": None}, {"pull_request": {"number": True}}, [1]]
)
def test_an_event_without_a_pull_request(told: object, tmp_path: Path) -> None:
    file = tmp_path / "event.json"
    file.write_text(json.dumps(told))
    with forge_server("github") as forge:
        assert publish("text", "int4", forge.environment(str(file))).note
        assert forge.asked == []


def test_the_token_goes_to_no_other_server(forge: Forge, event: str) -> None:
    with forge_server(forge.kind) as other:
        forge.elsewhere = other.address
        assert "HTTP 307" in publish("text", "int4", forge.environment(event)).note
        forge.elsewhere = ""
        for number in range(101):
            forge.add(f"comment {number}")
        forge.next_page = f"{other.address}/notes?page=2"
        assert "at another server" in publish("text", "int4", forge.environment(event)).note
        assert other.asked == []


def test_a_server_that_is_gone(event: str) -> None:
    with forge_server("github") as forge:
        environment = forge.environment(event)
    assert "the server did not answer" in publish("text", "int4", environment).note
