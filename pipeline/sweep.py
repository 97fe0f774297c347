"""Tries out a recipe with varied options and keeps what nothing beats: accuracy, latency and size at once.

Every trial is a run of the recipe in a directory of its own. Steps whose fingerprint an earlier trial has are taken over from it,
so that trials that differ in the last step share all before it. Optuna keeps the trials in SQLite: a killed sweep goes on where it
was, and the trial it was in goes on from its last finished step. Few combinations are all tried; of many, Optuna's TPE sampler
(Bergstra et al. 2011; Ozaki et al. 2022 for several objectives) chooses.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..benchmarks.gate.gate import LESS_IS_BETTER
from ..benchmarks.report.compare import write_sweep_report
from ..benchmarks.report.pareto import on_front, towards_ideal
from ..checkpoints.files import write_json
from ..console import console
from ..errors import EdgewrightError, UsageError
from ..steps.workspace import differences, locked
from .recipe import Recipe, load_recipe
from .run import run_recipe
from .sweep_options import SweepOptions

__all__ = ["Objective", "run_sweep"]

STUDY = "study.db"
LESS = (*LESS_IS_BETTER, "token_ms", "load_s", "total_bytes")
PREDICTED = ("ttft_ms", "decode_tok_s", "total_bytes")
"""Figures of the plan that a target adds to a trial, as `predicted/NAME`."""


@dataclass(frozen=True)
class Objective:
    """A metric of the last step, and which way is better."""

    metric: str
    less: bool

    @classmethod
    def parse(cls, text: str) -> Objective:
        """`METRIC`, or `METRIC:min` or `METRIC:max` where its name does not tell which way is better."""
        metric, _, way = text.rpartition(":") if text.endswith((":min", ":max")) else (text, "", "")
        kind = metric.removeprefix("predicted/").partition("/")[0]
        return cls(metric, way == "min" if way else kind in LESS)

    def better(self, value: float) -> float:
        """The value turned so that larger is better."""
        return -value if self.less else value


def run_sweep(
    path: Path,
    settings: Sequence[str],
    options: SweepOptions,
    out: Path,
    command: str = "edgewright sweep",
) -> dict[str, Any]:
    """Run trials until all combinations, `trials` or `minutes` are used up; resume what stands in `out`.

    Args:
        path: the recipe.
        settings: `KEY=VALUE` overrides that every trial has.
        options: what is varied.
        out: the directory of the sweep.
        command: to reproduce it, for the ledgers.

    Returns:
        `trials` (parameters, values, state, whether on the front), `chosen` (the position of one of them, or None), and what was
        asked; also in `sweep.json`, beside report.html and report.md.

    Raises:
        UsageError: the recipe or what is varied is wrong, or another sweep stands in `out`.
        EdgewrightError: Optuna is not installed, or no trial succeeded.
    """
    optuna = _optuna()
    name = _checked(path, settings, options).name
    objectives = tuple(map(Objective.parse, options.objective)) or _objectives(
        load_recipe(path, settings)
    )
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        sweep = _Sweep(optuna, path, settings, options, objectives, out, command)
        sweep.take_up()
        for trial, chosen in sweep.asked():
            sweep.attempt(trial, chosen)
        return sweep.concluded(name)


def _checked(path: Path, settings: Sequence[str], options: SweepOptions) -> Recipe:
    """The recipe, once each value of each key has been accepted beside the first of the others."""
    firsts = {key: values[0] for key, values in options.vary.items()}
    for key, values in options.vary.items():
        for value in values:
            load_recipe(
                path, [*settings, *itertools.starmap(_setting, (firsts | {key: value}).items())]
            )
    return load_recipe(path, settings)


def _optuna() -> Any:
    try:
        optuna: Any = importlib.import_module("optuna")  # late: an extra
    except ImportError as error:
        raise EdgewrightError(
            "a sweep needs Optuna, which is not installed", "pip install 'edgewright[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _setting(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


def _objectives(recipe: Recipe) -> tuple[Objective, ...]:
    evaluate = recipe.evaluate
    if evaluate.tasks:
        from ..benchmarks.tasks.task import Task

        quality = f"accuracy/{Task.parse(evaluate.tasks[0]).label}"
    elif evaluate.perplexity:
        from ..data.sources import Source

        quality = f"perplexity/{Source.parse(evaluate.perplexity[0]).label}"
    else:
        raise UsageError(
            "the recipe measures no accuracy and no perplexity",
            "give it `evaluate.tasks`, or name each --objective",
        )
    return tuple(
        map(
            Objective.parse,
            [quality, *(["decode_tok_s/p50"] if evaluate.latency else []), "size_bytes"],
        )
    )


class _Sweep:
    """The state of one sweep: what was asked, and the study that keeps its trials."""

    def __init__(
        self,
        optuna: Any,
        path: Path,
        settings: Sequence[str],
        options: SweepOptions,
        objectives: Sequence[Objective],
        out: Path,
        command: str,
    ) -> None:
        self.states = optuna.trial.TrialState
        self.path, self.settings, self.options, self.objectives = (
            path,
            settings,
            options,
            objectives,
        )
        self.out, self.command = out, command
        self.combinations = math.prod(map(len, options.vary.values()))
        sampler = optuna.samplers.TPESampler(
            seed=options.seed, constraints_func=lambda trial: (trial.user_attrs.get("broken", 0.0),)
        )
        self.study = optuna.create_study(
            storage=f"sqlite:///{out / STUDY}",
            study_name="sweep",
            load_if_exists=True,
            sampler=sampler,
            directions=["minimize" if one.less else "maximize" for one in objectives],
        )
        asked, question = self.study.user_attrs.get("question"), self._question()
        if asked is not None and asked != question:
            raise UsageError(
                f"{out}: holds a sweep that differs in: {', '.join(differences(asked, question))}",
                "choose another --out",
            )
        self.study.set_user_attr("question", question)

    def _question(self) -> dict[str, Any]:
        """What must not change from one start of a sweep to the next: its trials would not be comparable."""
        return {
            "recipe": hashlib.sha256(self.path.read_bytes()).hexdigest(),
            "settings": list(self.settings),
            "vary": {key: list(values) for key, values in self.options.vary.items()},
            "objectives": [[one.metric, one.less] for one in self.objectives],
        }

    def take_up(self) -> None:
        """Queue what is to be tried first: all combinations where they are few enough, and the trial that a kill interrupted."""
        for trial in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            self.study.tell(trial.number, state=self.states.FAIL)
            if trial.params.keys() == self.options.vary.keys():
                self.study.enqueue_trial(trial.params)
        if self.combinations <= self.options.trials and not self.study.user_attrs.get("queued"):
            for values in itertools.product(*self.options.vary.values()):
                queued = dict(zip(self.options.vary, map(json.dumps, values), strict=True))
                self.study.enqueue_trial(queued, skip_if_exists=True)
            self.study.set_user_attr("queued", True)

    def asked(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Trials to run, each with what it varies: none that has been run, and as many as are left of trials and minutes."""
        deadline = time.monotonic() + 60 * (
            math.inf if self.options.minutes is None else self.options.minutes
        )
        while (
            len(self.tried()) < min(self.options.trials, self.combinations)
            and time.monotonic() < deadline
        ):
            trial = self.study.ask()
            chosen = {
                key: trial.suggest_categorical(key, list(map(json.dumps, values)))
                for key, values in self.options.vary.items()
            }
            known = self.tried().get(_key(chosen))
            if known is None:
                yield trial, {key: json.loads(value) for key, value in chosen.items()}
            elif known.values:
                self.study.tell(trial, known.values)  # the sampler learns, and nothing is run twice
            else:
                self.study.tell(trial, state=self.states.FAIL)

    def tried(self) -> dict[str, Any]:
        """The first trial of each combination that came to an end, good or bad; one that was interrupted has not."""
        found: dict[str, Any] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.user_attrs.get("run"):
                found.setdefault(_key(trial.params), trial)
        return found

    def attempt(self, trial: Any, chosen: Mapping[str, Any]) -> None:
        """Run one trial. What a step or the target refuses is a result too.

        Raises:
            UsageError: the last step lacks a metric that an objective names.
        """
        folder = self.out / "trials" / hashlib.sha256(_key(trial.params).encode()).hexdigest()[:8]
        shown = ", ".join(f"{key}={value}" for key, value in chosen.items())
        console.print(f"[bold]trial {len(self.tried()) + 1}[/] {shown}", highlight=False)
        try:
            recipe = load_recipe(
                self.path, [*self.settings, *itertools.starmap(_setting, chosen.items())]
            )
            ledger = run_recipe(
                recipe, folder, self.command, donors=sorted(folder.parent.glob("*"))
            )
        except EdgewrightError as error:
            console.print(f"  gave nothing: {error}", highlight=False)
            trial.set_user_attr("reason", str(error))
            trial.set_user_attr("run", str(folder.relative_to(self.out)))
            self.study.tell(trial, state=self.states.FAIL)
            return
        figures = _figures(ledger)
        if lacking := [one.metric for one in self.objectives if one.metric not in figures]:
            self.study.tell(trial, state=self.states.FAIL)
            raise UsageError(
                f"--objective {lacking[0]}: the last step has no such metric",
                f"it has: {', '.join(figures)}",
            )
        verdict = (ledger.get("gate") or {}).get("verdict", "")
        trial.set_user_attr("verdict", verdict)
        trial.set_user_attr("broken", float(verdict == "fail"))
        trial.set_user_attr("run", str(folder.relative_to(self.out)))
        self.study.tell(trial, [figures[one.metric] for one in self.objectives])

    def concluded(self, name: str) -> dict[str, Any]:
        """What came of it, which is written too."""
        trials = [
            {
                "parameters": {key: json.loads(value) for key, value in trial.params.items()},
                "run": trial.user_attrs["run"],
                "values": dict(zip((o.metric for o in self.objectives), trial.values, strict=True))
                if trial.values
                else {},
                "verdict": trial.user_attrs.get("verdict", ""),
                "reason": trial.user_attrs.get("reason", ""),
                "front": False,
            }
            for trial in sorted(self.tried().values(), key=lambda trial: trial.number)
        ]
        able = [one for one in trials if one["values"] and one["verdict"] != "fail"] or [
            one for one in trials if one["values"]
        ]
        if not able:
            raise EdgewrightError(
                f"{self.out}: none of {len(trials)} trials succeeded",
                "the messages above say why; vary something else",
            )
        points = [[o.better(one["values"][o.metric]) for o in self.objectives] for one in able]
        for one, best in zip(able, on_front(points), strict=True):
            one["front"] = best
        front = [(one, point) for one, point in zip(able, points, strict=True) if one["front"]]
        chosen = front[towards_ideal([point for _, point in front])][0]
        found = {
            "name": name,
            "command": self.command,
            "objectives": [{"metric": o.metric, "less": o.less} for o in self.objectives],
            "trials": trials,
            "chosen": trials.index(chosen),
        }
        write_json(self.out / "sweep.json", found)
        write_sweep_report(self.out, found)
        return found


def _key(parameters: Mapping[str, Any]) -> str:
    return json.dumps(dict(parameters), sort_keys=True)


def _figures(ledger: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of the step that a run is about (the gate's candidate, or the last), and what its target will make of it."""
    wanted = (ledger.get("gate") or {}).get("candidate") or ledger["steps"][-1]["name"]
    step = next(one for one in ledger["steps"] if one["name"] == wanted)
    row = next((one for one in ledger["plan"]["rows"] if one["step"] == wanted), {})
    return step["metrics"] | {
        f"predicted/{name}": row[name] for name in PREDICTED if row.get(name) is not None
    }
