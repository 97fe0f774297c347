"""A run with secrets in its environment leaves no trace of them in any file or stream."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from edgewright.console import complain
from edgewright.errors import EdgewrightError
from edgewright.redaction import redacted, redacted_values

SECRETS = {
    "HF_TOKEN": "hf_aVeryFakeTokenForThisTestOnly42",
    "HUGGING_FACE_HUB_TOKEN": "hf_anotherFakeTokenOfThisTest4711",
    "OPENAI_API_KEY": "sk-proj-fakefakefakefakefakefake0001",
    "AWS_ACCESS_KEY_ID": "AKIAFAKEFAKEFAKEFAKE",
    "AWS_SECRET_ACCESS_KEY": "wJalrFAKE/K7MDENG+bPxRfiCYFAKEKEY",
    "AWS_SESSION_TOKEN": "FwoGfakefakefake//////////session==",
    "GITHUB_TOKEN": "ghp_fakefakefakefakefakefakefake0002",
    "WANDB_API_KEY": "0123fake4567fake89ab0123fake4567fake89ab",
    "SSH_PASSWORD": "correct horse battery staple",
    "DATABASE_URL": "postgres://scott:t1ger-f%40ke-pw@db.example/x",
}
WORDS = [*SECRETS.values(), "t1ger-f%40ke-pw", "t1ger-f@ke-pw"]
Cli = Callable[..., tuple[int, str, str]]


def forms(secret: str) -> list[bytes]:
    """A secret as it is, as part of a URL, and inside of base64 at each of three offsets."""
    coded = [base64.b64encode(b"\0" * shift + secret.encode())[4:-4] for shift in range(3)]
    escaped = secret.encode("unicode_escape")
    return [secret.encode(), quote(secret, safe="").encode(), escaped, *coded]


def check_clean(content: bytes, where: object) -> None:
    for secret in WORDS:
        for form in forms(secret):
            assert form not in content, f"{secret} is in {where}"


def check_files(folder: Path) -> int:
    files = [file for file in folder.rglob("*") if file.is_file()]
    for file in files:
        check_clean(file.read_bytes(), file)
        check_clean(os.fsencode(file), "the name of a file")
    return len(files)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def test_the_check_finds_a_secret_in_every_form() -> None:
    for secret in WORDS:
        for content in (secret, quote(secret, safe=""), base64.b64encode(f"x {secret}".encode())):
            with pytest.raises(AssertionError):
                check_clean(content if isinstance(content, bytes) else content.encode(), "here")


@pytest.mark.usefixtures("secrets")
def test_messages_and_records_are_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(f"{name}={value!r} {quote(value)}" for name, value in SECRETS.items())
    foreign = "https://u:p4ssw0rd@h.example/ hf_" + "A" * 34
    complain(EdgewrightError(f"failed: {text} {foreign}", f"type: {text}"))
    complain(ValueError(text))
    said = "".join(capsys.readouterr())
    said += str(redacted_values({"a": [{text: text}, (text, 1, None)]}))
    check_clean(said.encode(), "messages")
    hidden = redacted(foreign)
    assert hidden == "https://***@h.example/ ***"


def test_ordinary_text_is_not_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false-but-long")
    monkeypatch.setenv("MY_TOKEN", "short")
    text = (
        "basic research short user@host https://h.example/a@b hf_hub tokens false-but-long sk-learn"
    )
    assert redacted(text) == text


@pytest.mark.usefixtures("secrets")
def test_a_whole_run_leaves_no_secret(
    cli: Cli, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = {
        "name": f"tiny {SECRETS['GITHUB_TOKEN']}",
        "model": str(make_model("llama")),
        "calibration": {"source": "builtin:reasoning", "samples": 4, "seq_len": 32},
        "evaluate": {"tasks": ["reasoning"], "limit": 2, "max_new_tokens": 2},
        "steps": [
            {"kind": "prune", "heads": 0.25},
            {"kind": "quantize", "method": "rtn"},
            {"kind": "export", "name": "int4", "precision": "int4"},
        ],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    typed = f"name=tiny {SECRETS['HF_TOKEN']}"
    host = f"user:{SECRETS['SSH_PASSWORD']}@127.0.0.1"
    device = ("--target", "cpu")
    commands: list[tuple[int, tuple[object, ...]]] = [
        (0, ("run", file, "--out", run, "--set", typed)),
        (
            0,
            ("compare", f"{run}:prune", f"{run}:int4", "--html", run.with_name("c.html"), "--json"),
        ),
        (0, ("bench", run / "prune", "--tasks", "reasoning", "--limit", 2, "--save", run / "m")),
        (0, ("deploy", run / "int4", *device, "--out", run / "bundle")),
        (2, ("deploy", run / "int4", *device, "--host", host)),
        (2, ("plan", f"https://scott:{'t1ger-f@ke-pw'}@hub.example/org/model")),
        (2, ("run", tmp_path / SECRETS["OPENAI_API_KEY"], "--out", run)),
        (2, ("prune", SECRETS["HF_TOKEN"], "--heads", 0.25, "--out", run / "x")),
    ]
    for code, words in commands:
        found, out, err = cli(*words)
        assert found == code, err
        check_clean((out + err).encode(), words[0])
    file.unlink()
    assert check_files(tmp_path) > 40


class Hub(BaseHTTPRequestHandler):
    """A hub that refuses everything, and repeats in its answer what it was sent."""

    def do_GET(self) -> None:
        body = f"no access for {self.headers['Authorization']} at {self.path}".encode()
        self.send_response(403, body.decode())
        self.send_header("X-Error-Message", body.decode())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


LOGIN = f"scott:{quote('t1ger-f@ke-pw')}@"


@pytest.mark.usefixtures("secrets")
@pytest.mark.parametrize(
    ("login", "more"), [(LOGIN, ()), (LOGIN, ("--debug",)), ("", ()), ("", ("--debug",))]
)
def test_a_hub_that_fails_reveals_no_secret(
    hub: int, login: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": f"http://{login}127.0.0.1:{hub}",
        "HTTPS_PROXY": f"http://{LOGIN}127.0.0.1:1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "edgewright.cli", "plan", "org/model", *more],
        env=environment,
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == (1 if more else 2), done.stderr
    assert (b"Traceback" in done.stderr) == bool(more)
    assert b"no access for " in done.stderr
    check_clean(done.stdout + done.stderr, "the streams")
    check_files(tmp_path)
