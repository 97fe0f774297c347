"""How many of the kept traces are right when a tenth of the source's answers are wrong: by the vote, by the check, by both.

    python -m edgewright.perf.traces builtin:tiny-reasoner --questions 400 --chains 8 --noise 0.1

Training problems of the built-in tasks are written to a file. The teacher's chains are sampled once; then a tenth of the answers
(drawn by a seed) are replaced, every second one by an answer that one of the model's own chains gave, where one of them is wrong, the
others by the right one off by 1 or 10, as a slip would be. All rows of the table are of the same chains, judged by the right answers.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ..benchmarks.tasks.questions import same_answer
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
    """The answers, so many of them wrong; every second one in the way in which the model is wrong, where it is."""
    rng, given = random.Random(seed), list(right)
    for count, i in enumerate(rng.sample(range(len(right)), round(share * len(right)))):
        errors = sorted({c.answer for c in answered[i] if c.answer and c.answer != right[i]})
        given[i] = rng.choice(errors) if count % 2 and errors else slip(right[i], rng)
    return given


def main() -> None:
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
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "questions.jsonl"
        stream, excluded = {}, held_out_questions()
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
        f"{len(right)} questions, {wrong} with a wrong answer; {args.chains} chains each at temperature {args.temperature:g}"
    )
    print(
        "| rule | kept | share of chains | questions | right | rejected |\n|---|---|---|---|---|---|"
    )
    for accept in ("majority", "verified", "both"):
        report(ChoiceRules(accept=accept, keep=args.chains), answered, right, given)


def report(
    rules: ChoiceRules, answered: list[list[Chain]], right: list[str], given: list[str]
) -> None:
    """Print a row of the table: what is kept, judged by the right answers."""
    kept, correct, with_traces, rejected = 0, 0, 0, Counter[str]()
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
        kept, correct, with_traces = (
            kept + len(chosen),
            correct + sum(chosen),
            with_traces + bool(chosen),
        )
        rejected.update(filter(None, reasons))
    total = sum(map(len, answered))
    why = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
    print(
        f"| {rules.accept} | {kept} | {kept / total:.1%} | {with_traces} | {correct / max(kept, 1):.2%} | {why} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
