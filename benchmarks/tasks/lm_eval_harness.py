"""Run EleutherAI's lm-eval on edgewright's backends, for torch checkpoints and ONNX artifacts.

Importing this module registers two models with lm-eval, `edgewright-torch` and `edgewright-onnx`,
so that lm-eval's own command line and Python API can use them. `edgewright bench --tasks
lm-eval:...` calls `run_harness`. Prompts, windows, truncation and stop sequences are those of
lm-eval's own model for transformers, so both give the same results.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ...checkpoints.settings import load_settings
from ...checkpoints.tokenizer import load_tokenizer
from ...data.packing import IGNORE, Encoded
from ...errors import UsageError
from .accuracy import Answer, continuations
from .backends import Backend, OnnxBackend, TorchBackend
from .generation import answer_prompts
from .kept_answers import KeptAnswers
from .lm_eval_conditions import first_prompt, one_per_problem, task_conditions

__all__ = ["HarnessLM", "OnnxLM", "TorchLM", "run_harness"]

MAX_NEW_TOKENS = 256
"""lm-eval's default for a task without a limit."""
RESAMPLES = 1000
"""Bootstrap samples of lm-eval, for metrics whose standard error has no formula."""


class HarnessLM(TemplateLM):
    """A backend with the interface of lm-eval: text in, log-likelihoods or text out.

    Args:
        backend: the loaded model.
        path: the model's directory, with tokenizer and config.json.
        kept: answers of an interrupted measurement; new ones are added.
    """

    def __init__(self, backend: Backend, path: Path, kept: KeptAnswers | None = None) -> None:
        super().__init__()
        self.own = backend
        self.kept = kept
        self.tokenizer = load_tokenizer(path)
        self.max_length = int(resolve_max_length(load_settings(path), self.tokenizer))

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The token put before a text that has no context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        """A name that lm-eval uses in the keys of its caches."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids. If the text already begins with the begin token, no second one is added."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        if add_special_tokens is None and string.startswith(
            self.tokenizer.decode(self.prefix_token_id)
        ):
            special = {"add_special_tokens": False}
        return list(self.tokenizer.encode(string, **special))

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The prompt for a conversation."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        rows = []
        for _text, context, continuation in requests:
            ids = (context + continuation)[-(self.max_length + 1) :]
            rows.append(Encoded(ids, [IGNORE] * (len(ids) - len(continuation)) + continuation))
        return continuations(self.own, rows)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihoods of whole texts, scored in windows. Each token is scored once."""
        windows: list[Any] = []
        owners: list[int] = []
        for owner, (text,) in enumerate(request.args for request in requests):
            parts = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
            cut = [("", *make_disjoint_window(part)) for part in parts]
            windows += cut
            owners += [owner] * len(cut)
        totals = [0.0] * len(requests)
        for owner, (score, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += score
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to the first stop sequence.

        Raises:
            UsageError: a task needs sampling, or its answers leave no room for a prompt.
        """
        groups: dict[str, list[int]] = defaultdict(list)
        for at, request in enumerate(requests):
            groups[repr(request.args[1])].append(at)
        texts = [""] * len(requests)
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        for members in groups.values():
            options = requests[members[0]].args[1]
            prompts = [requests[at].args[0] for at in members]
            for at, text in zip(members, self._generate_group(prompts, options, end), strict=True):
                texts[at] = text
        return texts

    def _generate_group(self, texts: Sequence[str], options: Any, end: str) -> list[str]:
        """Greedy answers to prompts that have the same generation options."""
        settings: dict[str, Any] = dict(normalize_gen_kwargs(options, MAX_NEW_TOKENS))
        if settings.get("do_sample"):
            raise UsageError(
                "lm-eval: this task samples, and edgewright decodes greedily",
                "set do_sample: false in the task",
            )
        stop = handle_stop_sequences(settings.pop("until", None), eos=end)
        longest = settings["max_gen_toks"]
        if longest >= self.max_length:
            raise UsageError(
                f"lm-eval: {longest} new tokens leave no room for a prompt in the model's context "
                f"of {self.max_length}",
                "lower max_gen_toks",
            )
        prompts = [self.tok_encode(text)[-(self.max_length - longest) :] for text in texts]
        written = answer_prompts(
            self.own, self.tokenizer, prompts, longest, stop, self.kept, "answering"
        )
        decoded = [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]
        return [postprocess_generated_text(text, stop, None) for text in decoded]


@register_model("edgewright-torch")
class TorchLM(HarnessLM):
    """A checkpoint in any format that edgewright reads."""

    def __init__(self, pretrained: str, device: str | None = None, **_: Any) -> None:
        super().__init__(TorchBackend(Path(pretrained), device or "cpu"), Path(pretrained))


@register_model("edgewright-onnx")
class OnnxLM(HarnessLM):
    """An artifact of `edgewright export`."""

    def __init__(self, pretrained: str, **_: Any) -> None:
        super().__init__(OnnxBackend(Path(pretrained)), Path(pretrained))


def run_harness(
    backend: Backend,
    path: Path,
    task: str,
    shots: int | None,
    limit: int,
    seed: int = 0,
    kept: KeptAnswers | None = None,
) -> tuple[dict[str, list[Answer]], dict[str, float], dict[str, Any]]:
    """Run a task of lm-eval, or of a user's YAML file.

    Args:
        backend: the loaded model.
        path: the model's directory.
        task: the name of a task or of a group of tasks in lm-eval, or a task file.
        shots: number of worked examples; None for the task's own number.
        limit: the most problems of each task.
        seed: seed for choosing the examples.
        kept: answers of an interrupted measurement; new ones are added.

    Returns:
        The answers of each task, right or wrong by the task's first metric that is 0 or 1. Then
        all values that lm-eval reported, as `lm_eval/<task>/<metric>` (with `.stderr` for the
        standard error, and with a filter's name after a comma). And what must be equal before two
        results are compared (`task_conditions`).

    Raises:
        UsageError: there is no such task, or its data cannot be loaded.
    """
    found = _evaluate(HarnessLM(backend, path, kept), task, shots, limit, seed)
    answers = {name: _answers(name, samples) for name, samples in found["samples"].items()}
    return (
        {name: rows for name, rows in answers.items() if rows},
        _metrics(found["results"]),
        task_conditions(found),
    )


def _evaluate(
    model: HarnessLM, task: str, shots: int | None, limit: int, seed: int
) -> dict[str, Any]:
    """The results of lm-eval's own evaluation, with its samples."""
    file = Path(task)
    local = file.suffix in (".yaml", ".yml")
    if local and not file.is_file():
        raise UsageError(
            f"lm-eval:{task}: no such file", "give the path of a task file or the name of a task"
        )
    try:
        evaluate: Any = lm_eval.simple_evaluate  # its decorator hides the parameters' types
        return evaluate(
            model,
            tasks=[str(file.resolve()) if local else task],
            num_fewshot=shots,
            limit=limit,
            bootstrap_iters=RESAMPLES,
            task_manager=TaskManager(include_defaults=not local),
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (KeyError, ValueError, OSError, ConnectionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"lm-eval:{task}: lm-eval cannot run it: {reason}",
            "list the tasks with `lm_eval ls tasks`; the task's data must be accessible",
        ) from error


def _answers(task: str, samples: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """Right and wrong answers by the first metric that is 0 or 1 for all problems.

    Only the task's first filter counts. Without such a metric the result is empty.
    """
    first = one_per_problem(samples)
    binary = (
        [m for m in first[0]["metrics"] if all(sample[m] in (0, 1) for sample in first)]
        if first
        else []
    )
    if not binary:
        return []
    return [
        Answer(
            task,
            first_prompt(sample),
            str(sample["target"]),
            str(sample["filtered_resps"][0]),
            sample[binary[0]] == 1,
        )
        for sample in first
    ]


def _metrics(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """lm-eval's results by our names.

    lm-eval's keys are `metric,filter` and `metric_stderr,filter`; `none` means no filter.
    """
    metrics: dict[str, float] = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, applied = key.partition(",")
            if applied and isinstance(value, int | float) and math.isfinite(value):
                name = metric.removesuffix("_stderr") + ("" if applied == "none" else f",{applied}")
                suffix = ".stderr" if metric.endswith("_stderr") else ""
                metrics[f"lm_eval/{task}/{name}{suffix}"] = float(value)
    return metrics
