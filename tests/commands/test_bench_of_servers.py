"""`bench URL`: the table, JSON, a saved measurement and its gate, and options that do not fit."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from scripted_server import Asked, ScriptedServer, document, good, serving

import edgewright as ew

SMALL = ("--concurrency", "1,2", "--requests", 4, "--output-tokens", 4, "--prompt-tokens", 16)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serving(ScriptedServer()) as found:
        yield found


def test_a_table_has_a_row_for_each_load(cli, server: ScriptedServer) -> None:
    code, out, error = cli("bench", server.url, "--latency", *SMALL, "--request-rate", "inf,99.5")
    assert code == 0, error
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in out.splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["concurrency1", "concurrency2", "rateinf", "rate99.5"]
    for _, requests, failed, *times, tokens, per_second in rows:
        assert (requests, failed) == ("4", "0")
        assert len(times) == 4
        for time in times:
            low, middle, high = (float(part.replace(",", "")) for part in time.split(" / "))
            assert 0 <= low <= middle <= high
        assert float(tokens.replace(",", "")) > 0
        assert float(per_second.replace(",", "")) > 0
    assert f"{server.url}/v1: milliseconds, p50 / p90 / p99" in out


def test_json_is_what_is_saved_and_the_gate_judges_it(
    cli, server: ScriptedServer, tmp_path: Path
) -> None:
    file = tmp_path / "new.json"
    code, out, _ = cli("bench", server.url, "--latency", *SMALL, "--save", file, "--json")
    assert code == 0
    found = json.loads(out)
    saved = json.loads(file.read_text())
    assert {**found, "check": saved["check"]} == saved
    policy = tmp_path / "gate.yaml"
    policy.write_text(
        "limits: {ttft_ms/p50/concurrency2: {max_ratio: 1.5}, "
        "failed_requests/concurrency1: {max: 0}}\n"
    )
    judged = ("--baseline", file, "--policy", policy)
    assert cli("gate", file, *judged)[0] == 0
    slow = json.loads(file.read_text())
    del slow["check"]
    slow["metrics"]["ttft_ms/p50/concurrency2"] *= 2
    other = tmp_path / "slow.json"
    other.write_text(json.dumps(slow))
    assert cli("gate", other, *judged)[0] == 5
    slow["context"]["load/concurrency2"]["prompt_tokens"] = 32
    other.write_text(json.dumps(slow))
    code, _, error = cli("gate", other, *judged)
    assert code == 2
    assert "load/concurrency2 differs" in error


def test_tasks_have_a_table_and_the_latency_another(cli, tmp_path: Path) -> None:
    async def answer(asked: Asked) -> AsyncIterator[bytes]:
        if "prompt" in asked.body:
            async for part in good(asked):
                yield part
            return
        yield document({"choices": [{"message": {"content": "\\boxed{4}"}}]})

    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"{a}+2?", "answer": f"#### {a + 2}"} for a in (2, 3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(ScriptedServer(answer)) as server:
        tasks = ("--tasks", f"qa:{file}", "--limit", 2)
        code, out, error = cli("bench", server.url, *tasks)
        assert code == 0, error
        assert re.search(r"│ sums +│ 0\.500 ± 0\.\d+ │ 2 │", out)
        assert "TTFT" not in out
        code, out, error = cli("bench", server.url, *tasks, "--latency", *SMALL)
    assert code == 0, error
    assert "sums" in out
    assert "concurrency2" in out


def test_a_slow_server_is_not_taken_for_one_that_is_not_there(cli, tmp_path: Path) -> None:
    async def slow(asked: Asked) -> AsyncIterator[bytes]:
        await asyncio.sleep(3)
        yield document({"choices": [{"message": {"content": "4"}}]})

    file = tmp_path / "sums.jsonl"
    row = json.dumps({"question": "2+2?", "answer": "#### 4"}) + "\n"
    file.write_text(row + row.replace("2?", "3?"))
    with serving(ScriptedServer(slow)) as server:
        tasks = ("--tasks", f"qa:{file}", "--request-seconds", 0.2, "--retries", 0)
        code, out, error = cli("bench", server.url, *tasks)
    assert (code, out) == (1, ""), error
    said = " ".join(error.split())
    assert "no answer within 0.2 s" in said
    assert "--request-seconds" in said
    assert "start the server" not in said


def test_python_measures_the_same(server: ScriptedServer) -> None:
    found = ew.bench(
        server.url, latency=True, concurrency=(2,), requests=4, output_tokens=4, prompt_tokens=16
    )
    assert found["context"]["load/concurrency2"]["output_tokens"] == 4


def test_failures_are_in_the_table_and_in_its_notes(cli) -> None:
    async def busy(asked: Asked) -> AsyncIterator[bytes]:
        if asked.streams and len(server.streamed) % 3 == 0:
            yield document({"error": {"message": "[/bold] busy"}}, "429 Too Many Requests")
            return
        async for part in good(asked):
            yield part

    server = ScriptedServer(busy)
    with serving(server):
        code, out, _ = cli("bench", server.url, "--latency", *SMALL)
    assert code == 0
    assert re.search(
        r"[12] of 4 requests failed and are in no other figure: HTTP 429: \[/bold\] busy", out
    )


def test_a_server_that_is_not_there_is_one_message(cli) -> None:
    with serving(ScriptedServer()) as server:
        url = server.url
    code, out, error = cli("bench", url, "--latency")
    assert (code, out) == (1, ""), error
    assert "start the server, or correct the URL" in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "add --latency"),
        (("--tasks", "reasoning", "--windows", 3), "--windows: not for the URL of a server"),
        (("--tasks", "nonsense:a"), "nonsense:a: no such task"),
        (("--latency", "--limit", "5"), "--limit: not for the URL of a server"),
        (("--latency", "--perplexity", "text:x"), "--perplexity: not for the URL of a server"),
        (("--latency", "--batches", "4"), "--batches: not for the URL of a server"),
        (("--latency", "--reference", "x"), "--reference: not for the URL"),
        (("--latency", "--concurrency", "0"), "--concurrency"),
        (("--latency", "--concurrency", "many"), "--concurrency"),
        (("--latency", "--request-rate", "0"), "--request-rate"),
        (("--latency", "--request-rate", "nan"), "--request-rate"),
        (("--latency", "--requests", "2"), "is never reached"),
        (("--latency", "--output-tokens", "1"), "--output-tokens"),
    ],
)
def test_options_that_do_not_fit_a_server(cli, options: tuple[str, ...], said: str) -> None:
    code, out, error = cli("bench", "http://127.0.0.1:1", *options)
    assert (code, out) == (2, "")
    assert said in " ".join(error.split())


@pytest.mark.parametrize(
    "options", [("--concurrency", "4"), ("--request-rate", "2.5"), ("--api", "chat"), ("--seed", 1)]
)
def test_options_of_a_server_do_not_fit_a_model(cli, options: tuple[object, ...]) -> None:
    code, _, error = cli("bench", "builtin:tiny-reasoner", "--latency", *options)
    assert code == 2
    assert f"{options[0]}: only for the URL of a server" in error


def test_a_url_is_sent_no_password_and_shows_none(cli) -> None:
    code, out, error = cli("bench", "http://me:hunter2222@127.0.0.1:1/v1", "--latency")
    assert code == 2
    assert "hunter2222" not in out + error
