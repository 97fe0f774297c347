"""Runs a recipe with varied options and finds the best trade-offs of accuracy, latency and size.

Every trial is a run of the recipe in a directory of its own. A step with the same fingerprint as in
an earlier trial is taken from there, so trials that differ in the last step share all others.
Optuna keeps the trials in SQLite: run the same command again to resume a killed sweep, from the
last finished step. Few combinations are all tried; of many, Optuna's TPE sampler (Bergstra et al.
2011; Ozaki et al. 2022 for several objectives) chooses.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.report.compare import write_sweep_report
from ..benchmarks.report.pareto import nearest_to_ideal, pareto_optimal
from ..checkpoints.atomic_files import write_json
from ..checkpoints.disk import writing
from ..console import console
from ..data.shortfall import shortfall
from ..errors import EdgewrightError, NotWritten, UsageError
from ..redaction import redacted
from ..steps.workspace import differences
from .recipe_file import load_recipe
from .run import run_recipe
from .sweep_objectives import (
    Objective,
    check_objectives,
    default_objectives,
    objective_values,
)
from .sweep_options import SweepOptions
from .sweep_recipes import trial_recipe, varied_recipes, with_data
from .sweep_study import STUDY, altered, check_trials, open_study, parameters_key, trial_folder

__all__ = ["run_sweep"]


def run_sweep(
    path: Path,
    settings: Sequence[str],
    options: SweepOptions,
    out: Path,
    command: str = "edgewright sweep",
) -> dict[str, Any]:
    """Run trials until combinations, `trials` or `minutes` are used up; resume a sweep in `out`.

    Args:
        path: the recipe.
        settings: `KEY=VALUE` overrides for every trial.
        options: what is varied.
        out: the directory of the sweep.
        command: the command line, for the ledgers.

    Returns:
        The objectives, `trials` (parameters, values, verdict, whether on the Pareto front), and
        `chosen`, the position of the best one. Also written to `sweep.json`, beside report.html and
        report.md.

    Raises:
        UsageError: the recipe or what is varied is wrong, or `out` holds another sweep.
        EdgewrightError: Optuna is not installed, or no trial succeeded.
    """
    optuna = _optuna()
    asked = tuple(map(Objective.parse, options.objective))
    recipe = load_recipe(path, settings)
    varied = list(varied_recipes(path, settings, options.vary))
    objectives = asked or default_objectives(with_data(recipe))
    for one in varied:
        check_objectives(objectives, with_data(one))
    out.mkdir(parents=True, exist_ok=True)
    with writing(out / STUDY):
        sweep = _Sweep(optuna, path, settings, options, objectives, out, command)
        sweep.queue()
        for trial, chosen in sweep.next_trials():
            sweep.run_trial(trial, chosen)
        return sweep.conclude(recipe.name)


def _optuna() -> Any:
    try:
        optuna: Any = importlib.import_module("optuna")  # late: an extra
    except ImportError as error:
        raise EdgewrightError(
            "a sweep needs Optuna, which is not installed", "pip install 'edgewright[sweep]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


class _Sweep:
    """One sweep: its settings, and the Optuna study that keeps its trials."""

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
        self.path = path
        self.settings = settings
        self.options = options
        self.objectives = objectives
        self.out = out
        self.command = command
        self.combinations = math.prod(map(len, options.vary.values()))
        sampler = optuna.samplers.TPESampler(
            seed=options.seed, constraints_func=lambda trial: (trial.user_attrs.get("broken", 0.0),)
        )
        self.study = open_study(
            out / STUDY,
            lambda: optuna.create_study(
                storage=f"sqlite:///{out / STUDY}",
                study_name="sweep",
                load_if_exists=True,
                sampler=sampler,
                directions=["minimize" if one.less else "maximize" for one in objectives],
            ),
        )
        before = self.study.user_attrs.get("question")
        question = self._question()
        if before is not None and before != question:
            raise UsageError(
                f"{out}: holds a sweep that differs in: {', '.join(differences(before, question))}",
                "choose another --out",
            )
        self.study.set_user_attr("question", question)
        self.earlier = len(self.study.get_trials(deepcopy=False))
        self.altered: set[str] = set()
        check_trials(out, self.finished().values(), objectives)
        for key, trial in self.finished().items():
            if file := altered(out / trial.user_attrs["run"]):
                console.print(f"  {file} was altered since", highlight=False, markup=False)
                self.altered.add(key)

    def _question(self) -> dict[str, Any]:
        """What must be the same when a sweep is resumed: otherwise trials are not comparable."""
        return {
            "recipe": hashlib.sha256(self.path.read_bytes()).hexdigest(),
            "settings": list(self.settings),
            "vary": {key: list(values) for key, values in self.options.vary.items()},
            "objectives": [[one.metric, one.less] for one in self.objectives],
        }

    def queue(self) -> None:
        """Queue what must be done again, and all combinations if they are few."""
        for trial in self._to_repeat():
            self.study.enqueue_trial(trial.params)
        for trial in self.study.get_trials(deepcopy=False, states=(self.states.RUNNING,)):
            self.study.tell(trial.number, state=self.states.FAIL)
            if trial.params.keys() == self.options.vary.keys():
                self.study.enqueue_trial(trial.params)
        if self.combinations <= self.options.trials and not self.study.user_attrs.get("queued"):
            for values in itertools.product(*self.options.vary.values()):
                queued = dict(zip(self.options.vary, map(json.dumps, values), strict=True))
                self.study.enqueue_trial(queued, skip_if_exists=True)
            self.study.set_user_attr("queued", True)

    def next_trials(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Trials that have not run yet, with their options, while trials and minutes are left."""
        deadline = time.monotonic() + 60 * (
            math.inf if self.options.minutes is None else self.options.minutes
        )
        while (
            len(self.finished()) < min(self.options.trials, self.combinations)
            and time.monotonic() < deadline
        ):
            trial = self.study.ask()
            chosen = {
                key: trial.suggest_categorical(key, list(map(json.dumps, values)))
                for key, values in self.options.vary.items()
            }
            known = self.finished().get(parameters_key(chosen))
            if known is None:
                yield trial, {key: json.loads(value) for key, value in chosen.items()}
            elif known.values:
                self.study.tell(
                    trial, known.values
                )  # the sampler gets the values, and no run is repeated
            else:
                self.study.tell(trial, state=self.states.FAIL)

    def finished(self) -> dict[str, Any]:
        """The finished trials by combination, with those that failed since this command began.

        What failed before is tried again, because the reason may be gone: too little memory, say.
        """
        found: dict[str, Any] = {}
        for trial in self.study.get_trials(deepcopy=False):
            key = parameters_key(trial.params)
            repeat = trial.state == self.states.FAIL or key in self.altered
            if trial.user_attrs.get("run") and not (repeat and trial.number < self.earlier):
                found.setdefault(key, trial)
        return found

    def _to_repeat(self) -> list[Any]:
        """The latest trial of each combination that failed, or whose results were altered."""
        finished = self.finished()
        failed = {
            parameters_key(trial.params): trial
            for trial in self.study.get_trials(deepcopy=False)[: self.earlier]
            if trial.user_attrs.get("run")
        }
        return [trial for key, trial in failed.items() if key not in finished]

    def run_trial(self, trial: Any, chosen: Mapping[str, Any]) -> None:
        """Run one trial. A trial that a step or the target refuses is recorded as failed.

        Raises:
            UsageError: the last step lacks a metric that an objective names.
        """
        folder = trial_folder(self.out, trial.params)
        shown = ", ".join(f"{key}={value}" for key, value in chosen.items())
        console.print(f"[bold]trial {len(self.finished()) + 1}[/] {shown}", highlight=False)
        try:
            recipe = trial_recipe(self.path, self.settings, chosen)
            ledger = run_recipe(
                recipe, folder, self.command, donors=sorted(folder.parent.glob("*"))
            )
        except NotWritten:  # says nothing about the options: run it again
            raise
        except EdgewrightError as error:
            console.print(f"  failed: {error}", highlight=False)
            trial.set_user_attr("reason", redacted(str(error)))
            trial.set_user_attr("run", str(folder.relative_to(self.out)))
            self.study.tell(trial, state=self.states.FAIL)
            return
        values = objective_values(ledger)
        if missing := [one.metric for one in self.objectives if one.metric not in values]:
            self.study.tell(trial, state=self.states.FAIL)
            raise UsageError(
                f"--objective {missing[0]}: the last step has no such metric",
                f"it has: {', '.join(values)}",
            )
        verdict = (ledger.get("gate") or {}).get("verdict", "")
        trial.set_user_attr("verdict", verdict)
        trial.set_user_attr("broken", float(verdict == "fail"))
        trial.set_user_attr("run", str(folder.relative_to(self.out)))
        self.study.tell(trial, [values[one.metric] for one in self.objectives])

    def conclude(self, name: str) -> dict[str, Any]:
        """Choose a trial; write the result and its report, and return the result.

        Raises:
            EdgewrightError: no trial succeeded.
        """
        trials = [self._entry(trial) for trial in self._in_order()]
        measured = [one for one in trials if one["values"]]
        candidates = [one for one in measured if one["verdict"] != "fail"] or measured
        if not candidates:
            raise EdgewrightError(
                f"{self.out}: none of {len(trials)} trials succeeded",
                "the messages above say why; vary something else",
            )
        points = [
            [o.larger_is_better(one["values"][o.metric]) for o in self.objectives]
            for one in candidates
        ]
        for one, optimal in zip(candidates, pareto_optimal(points), strict=True):
            one["front"] = optimal
        front = [
            (one, point) for one, point in zip(candidates, points, strict=True) if one["front"]
        ]
        chosen = front[nearest_to_ideal([point for _, point in front])][0]
        found = {
            "name": name,
            "command": self.command,
            "objectives": [{"metric": o.metric, "less": o.less} for o in self.objectives],
            "notes": self._notes(len(trials)),
            "trials": trials,
            "chosen": trials.index(chosen),
        }
        write_json(self.out / "sweep.json", found)
        write_sweep_report(self.out, found)
        return found

    def _notes(self, trials: int) -> list[str]:
        """A note if fewer trials were run than were asked for."""
        asked = self.options.trials
        few = self.combinations < asked
        why = "there are no more combinations" if few else "the time (--budget) was used up"
        return shortfall(trials, asked, "trials", why)

    def _in_order(self) -> list[Any]:
        """The finished trials, in the order in which they were first begun."""
        first: dict[str, int] = {}
        for trial in self.study.get_trials(deepcopy=False):
            first.setdefault(parameters_key(trial.params), trial.number)
        finished = self.finished()
        return [finished[key] for key in sorted(finished, key=first.__getitem__)]

    def _entry(self, trial: Any) -> dict[str, Any]:
        """A trial in `sweep.json`."""
        names = (objective.metric for objective in self.objectives)
        return {
            "parameters": {key: json.loads(value) for key, value in trial.params.items()},
            "run": trial.user_attrs["run"],
            "values": dict(zip(names, trial.values, strict=True)) if trial.values else {},
            "verdict": trial.user_attrs.get("verdict", ""),
            "reason": trial.user_attrs.get("reason", ""),
            "front": False,
        }
