r"""Measure how many kept traces are right if a tenth of the source's answers are wrong.

    python -m edgewright.perf.traces builtin:tiny-reasoner --questions 400 --chains 8 --noise 0.1

The rules to compare are the majority vote, the check against the source's answer, and both.
Training problems of the built-in tasks are written to a file, and the teacher's chains are sampled
once. Then a tenth of the answers are replaced, chosen by a seed. Every second one is replaced by a
wrong answer of one of the model's own chains, if there is one; the others by the right answer plus
or minus 1 or 10. All rows of the table use the same chains, judged by the right answers.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ..benchmarks.tasks.final_answers import same_answer
from ..benchmarks.traces.chains import ask_teacher
from ..benchmarks.traces.options import ChoiceRules, TracesOptions
from ..benchmarks.traces.teacher_questions import read_questions
from ..benchmarks.traces.votes import Chain, majority, select_chains
from ..checkpoints.config import model_path, resolve
from ..data.reasoning import held_out_questions, training_problems


def slip(right: str, rng: random.Random) -> str:
    """A whole number off by 1 or 10."""
    return str(int(right) + rng.choice((-10, -1, 1, 10)))


def noisy(right: list[str], answered: list[list[Chain]], share: float, seed: int) -> list[str]:
    """The right answers, with this share of them replaced by wrong ones."""
    rng = random.Random(seed)
    given = list(right)
    for count, i in enumerate(rng.sample(range(len(right)), round(share * len(right)))):
        errors = sorted({c.answer for c in answered[i] if c.answer and c.answer != right[i]})
        given[i] = rng.choice(errors) if count % 2 and errors else slip(right[i], rng)
    return given


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-new-tokens", type=int, default=144)
    parser.add_argument("--seed", type=int, default=7)
    return parser.parse_args()


def main() -> None:
    """Sample the chains, and print what each rule keeps."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        stream: dict[str, str] = {}
        excluded = held_out_questions()
        for problem in training_problems(args.seed, excluded):
            stream.setdefault(problem.question, problem.answer)
            if len(stream) == args.questions:
                break
        file.write_text(
            "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in stream.items())
        )
        options = TracesOptions(
            prompts=f"jsonl:{file}",
            chains=args.chains,
            limit=args.questions,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
        )
        questions, _ = read_questions(options.prompts, options.limit, args.seed)
        found = ask_teacher(
            options,
            questions,
            resolve(model_path(args.model)),
            args.seed,
            "auto",
            Path(folder) / "chains.jsonl",
        )
    right = [q.expected for q in questions]
    answered = [found[q.row] for q in questions]
    given = noisy(right, answered, args.noise, args.seed)
    wrong = sum(a != b for a, b in zip(right, given, strict=True))
    print(
        f"{len(right)} questions, {wrong} with a wrong answer; {args.chains} chains each at "
        f"temperature {args.temperature:g}"
    )
    print(
        "| rule | kept | share of chains | questions | right | rejected |\n"
        "|---|---|---|---|---|---|"
    )
    for accept in ("majority", "verified", "both"):
        report(ChoiceRules(accept=accept, keep=args.chains), answered, right, given)


def report(
    rules: ChoiceRules, answered: list[list[Chain]], right: list[str], given: list[str]
) -> None:
    """Print a row of the table: the chains that a rule keeps, judged by the right answers."""
    kept = 0
    correct = 0
    with_traces = 0
    rejected = Counter[str]()
    for chains, truth, label in zip(answered, right, given, strict=True):
        judged = [replace(chain, correct=same_answer(label, chain.answer)) for chain in chains]
        reasons = select_chains(
            judged, majority([chain.answer for chain in judged], same_answer), rules
        )
        chosen = [
            same_answer(truth, chain.answer)
            for chain, reason in zip(judged, reasons, strict=True)
            if not reason
        ]
        kept += len(chosen)
        correct += sum(chosen)
        with_traces += bool(chosen)
        rejected.update(filter(None, reasons))
    total = sum(map(len, answered))
    why = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
    print(
        f"| {rules.accept} | {kept} | {kept / total:.1%} | {with_traces} "
        f"| {correct / max(kept, 1):.2%} | {why} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
