"""lm-eval scores our server with its `local-chat-completions`, from an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewright.checkpoints.config import BUILTIN_MODEL, model_path
from edgewright.data.reasoning import held_out
from edgewright.export.onnx.export import export_onnx
from edgewright.targets.serving.keys import Keys
from edgewright.targets.serving.service import Service

from server_helpers import Running, ask, running  # isort: skip
from test_compat import environment  # isort: skip

pytestmark = pytest.mark.compat
COUNT = 5
KEY = "k-5b1d0c7e9f3a2468"
TASK = """task: local_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:", "<|user|>"], max_gen_toks: 160, temperature: 0.0}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
filter_list:
  - name: last_number
    filter:
      - {{function: regex, regex_pattern: "(-?[0-9]+)", group_select: -1}}
      - {{function: take_first}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    artifact = tmp_path_factory.mktemp("lm-eval") / "reasoner"
    export_onnx(Path(model_path(BUILTIN_MODEL)), artifact, "fp32")
    with running(Service(artifact, 1, max_batch=4), Keys([KEY])) as found:
        yield found


def scored(server: Running, folder: Path, problems: list[Any]) -> dict[str, Any]:
    """What lm-eval finds, with the answers of each problem."""
    rows = [{"question": one.question, "answer": one.answer} for one in problems]
    data = folder / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "local_sums.yaml").write_text(TASK.format(data=data))
    url = f"http://127.0.0.1:{server.port}/v1/chat/completions"
    flags = {
        "--model": "local-chat-completions",
        "--model_args": f"model=reasoner,base_url={url},num_concurrent=4,max_retries=1",
        "--tasks": "local_sums",
        "--include_path": str(folder),
        "--output_path": str(folder / "out"),
    }
    words = [word for pair in flags.items() for word in pair]
    python = environment("lmeval")
    done = subprocess.run(
        [str(python), "-m", "lm_eval", *words, "--apply_chat_template", "--log_samples"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ
        | {"OPENAI_API_KEY": KEY, "HF_HOME": str(folder / "cache"), "HF_DATASETS_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (results,) = (folder / "out").rglob("results_*.json")
    (samples,) = (folder / "out").rglob("samples_*.jsonl")
    found = json.loads(results.read_text())["results"]["local_sums"]
    return {"results": found, "samples": list(map(json.loads, samples.read_text().splitlines()))}


def test_lm_eval_scores_chats(server: Running, tmp_path: Path) -> None:
    problems = held_out(COUNT)
    found = scored(server, tmp_path, problems)
    answers = {one["doc"]["question"]: one["resps"][0][0] for one in found["samples"]}
    assert len(answers) == COUNT
    for question, answer in answers.items():
        reply = ask(
            server.port,
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": question}], "max_tokens": 160},
            Authorization=f"Bearer {KEY}",
        )
        assert reply.json["choices"][0]["message"]["content"] == answer
    assert found["results"]["exact_match,last_number"] >= 0.4, "the model solves most of them"
