"""A teacher's own chains of thought as data to learn on: several a question, sampled, checked, voted on and filtered.

Finished batches of questions are appended to a file beside the output; batches are made up from all questions before anything is written,
and every chain has random numbers of its own, so that a run that was killed goes on and writes the same file.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...checkpoints.loading import load_tokenizer
from ...console import console, progress
from ...data.draws import uniforms
from ...data.packing import render_prompt
from ...data.reasoning import extract_answer as extract_strictly
from ...data.reasoning import held_out_questions, is_correct, training_problems
from ...data.sources import Source
from ...errors import UsageError
from ...steps.workspace import workplace
from ..measurement_files import write_text
from ..statistics import share_error
from ..tasks.backends import TorchBackend, is_artifact
from ..tasks.generation import (
    ROWS_A_BATCH,
    TOKENS_A_BATCH,
    by_length,
    end_tokens_of,
    left_padded,
    until_end,
)
from ..tasks.questions import extract_answer, read_pairs, require_math_verify, same_answer
from .options import TracesOptions
from .sampling import Sampler
from .votes import REASONS, Chain, Same, Vote, choose_chains, majority

__all__ = ["Question", "ask_teacher", "make_traces", "read_questions"]

CHAINS = "chains.jsonl"
"""What is finished: a line a question."""
DOUBTED = 100
"""Rows at most that a report lists."""


@dataclass(frozen=True)
class Question:
    """A question, where it comes from, and how its answers are read and judged."""

    row: int
    """Its number in the source, from 1 on."""
    text: str
    expected: str
    answer_of: Callable[[str], str]
    verify: Callable[[str], bool]
    same: Same


def read_questions(prompts: str, limit: int, seed: int) -> tuple[list[Question], int]:
    """The questions of a source, none of them twice, and how many were left out for that.

    Built-in problems are training problems: what stands in the held-out set is never asked. A file's answers are compared by math-verify.

    Raises:
        UsageError: the source has no questions with answers.
        EdgewrightError: an extra is not installed.
    """
    source = Source.parse(prompts)
    if source.kind == "builtin":
        stream = enumerate(training_problems(seed, held_out_questions()), 1)
        made = (
            Question(
                row,
                p.question,
                p.answer,
                extract_strictly,
                lambda text, p=p: is_correct(p, text),
                str.__eq__,
            )
            for row, p in stream
        )
    elif source.kind == "jsonl" and not source.field:
        require_math_verify()
        made = (_from_file(row, *pair) for row, pair in enumerate(read_pairs(source), 1))
    else:
        raise UsageError(
            f"{prompts}: no questions with answers",
            "give builtin:reasoning, or jsonl:FILE of question and answer",
        )
    found: dict[str, Question] = {}
    repeated = 0
    for question in made:
        repeated += question.text in found
        found.setdefault(question.text, question)
        if len(found) == limit:
            break
    return list(found.values()), repeated


def _from_file(row: int, question: str, worked: str) -> Question:
    expected = extract_answer(worked) or worked.strip()
    return Question(
        row,
        question,
        expected,
        extract_answer,
        lambda text: same_answer(expected, extract_answer(text)),
        same_answer,
    )


def make_traces(
    options: TracesOptions,
    model: Path,
    teacher: str,
    out: Path,
    seed: int,
    device: str,
    depends_on: Mapping[str, Any],
    fresh: bool = False,
) -> dict[str, Any]:
    """Let a teacher answer every question several times, and write what is worth learning to a JSONL file; returns the report.

    A line has `prompt` and `completion`, as distillation reads them, and where they come from.

    Args:
        options: what is asked, how, and what is kept.
        model: the teacher's directory.
        teacher: its content hash.
        out: the file.
        seed: of the questions, where they are generated, and of the sampling.
        device: where the teacher runs.
        depends_on: everything the result depends on; empty: an interrupted run is not continued.
        fresh: nor is it then.

    Raises:
        UsageError: there are no questions, the teacher is no checkpoint, or no token ends its answers.
    """
    if is_artifact(model):
        raise UsageError(
            f"{model}: an exported model cannot be sampled from",
            "give the checkpoint that it was made from",
        )
    questions, repeated = read_questions(options.prompts, options.limit, seed)
    with workplace(out, "chains", depends_on, CHAINS, fresh) as place:
        answered = ask_teacher(options, questions, model, seed, device, place / CHAINS)
    report: dict[str, Any] = {
        "output": str(out),
        "questions": len(questions),
        "repeated_questions": repeated,
    }
    lines, told = _chosen(options, questions, [answered[question.row] for question in questions])
    origin = {
        "teacher": teacher,
        "seed": seed,
        "sampling": {k: getattr(options, k) for k in ("chains", "temperature", "top_p")},
    }
    write_text(out, "".join(json.dumps(line | origin, ensure_ascii=False) + "\n" for line in lines))
    return report | told


def ask_teacher(
    options: TracesOptions,
    questions: Sequence[Question],
    model: Path,
    seed: int,
    device: str,
    file: Path,
) -> dict[int, list[Chain]]:
    """The chains of every question, by its row; what the file has is not asked again, what is missing is added to it."""
    done = _finished(file)
    tokenizer = load_tokenizer(model)
    special = not tokenizer.chat_template
    prompts = [
        tokenizer(render_prompt(tokenizer, q.text), add_special_tokens=special)["input_ids"]
        for q in questions
    ]
    costs = [(len(prompt) + options.max_new_tokens) * options.chains for prompt in prompts]
    batches = list(by_length(costs, TOKENS_A_BATCH, max(1, ROWS_A_BATCH // options.chains)))
    if done:
        console.print(
            f"  resumed: {len(done)} of {len(questions)} questions were answered by an interrupted run",
            highlight=False,
        )
    left = [batch for batch in batches if any(questions[i].row not in done for i in batch)]
    if not left:
        return done
    backend = TorchBackend(model, device)
    ends = end_tokens_of(backend, tokenizer)
    if not ends:
        raise UsageError(
            f"{model}: no token ends an answer", "set eos_token_id in generation_config.json"
        )
    with (
        progress("writing chains", sum(map(len, left)) * options.chains) as bar,
        file.open("ab") as handle,
    ):
        for batch in left:
            asked = [questions[i] for i in batch]
            chains = _sampled(
                options, asked, [prompts[i] for i in batch], seed, backend, tokenizer, ends
            )
            new = {
                question.row: found
                for question, found in zip(asked, chains, strict=True)
                if question.row not in done
            }
            for row, found in new.items():
                handle.write(
                    json.dumps({"row": row, "chains": [asdict(chain) for chain in found]}).encode()
                    + b"\n"
                )
            handle.flush()
            os.fsync(handle.fileno())
            done |= new
            bar.advance(len(batch) * options.chains)
    return done


def _finished(file: Path) -> dict[int, list[Chain]]:
    """What is in the file, by row; a last line that a kill has cut off is taken away."""
    if not file.is_file():
        return {}
    whole = file.read_bytes()
    end = whole.rfind(b"\n") + 1
    os.truncate(file, end)
    rows = map(json.loads, whole[:end].splitlines())
    return {row["row"]: [Chain(**chain) for chain in row["chains"]] for row in rows}


def _sampled(
    options: TracesOptions,
    questions: Sequence[Question],
    prompts: Sequence[list[int]],
    seed: int,
    backend: TorchBackend,
    tokenizer: Any,
    ends: list[int],
) -> list[list[Chain]]:
    """The chains of a batch of questions."""
    names = list(itertools.product((question.row for question in questions), range(options.chains)))
    sampler = Sampler(
        options.temperature, options.top_p, uniforms(seed, names, options.max_new_tokens)
    )
    ids, mask = left_padded([prompt for prompt in prompts for _ in range(options.chains)])
    written = backend.generate(ids, mask, options.max_new_tokens, ends, choose=sampler).tolist()
    entropies = iter(sampler.entropy())
    rows = iter(written)
    return [
        [_chain(q, next(rows), next(entropies), ends, tokenizer) for _ in range(options.chains)]
        for q in questions
    ]


def _chain(
    question: Question, tokens: list[int], entropy: float, ends: list[int], tokenizer: Any
) -> Chain:
    own = until_end(tokens, ends)
    text = tokenizer.decode(own, skip_special_tokens=False)  # as </think> may be a special token
    return Chain(
        text,
        question.answer_of(text),
        question.verify(text),
        len(own),
        round(entropy, 6),
        len(own) < len(tokens),
    )


def _chosen(
    options: TracesOptions, questions: Sequence[Question], answered: Sequence[list[Chain]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The lines to write, and what there is to report."""
    label, lines, rejected, doubted = Source.parse(options.prompts).label, [], Counter[str](), []
    right = elected = with_traces = 0
    for question, chains in zip(questions, answered, strict=True):
        vote = majority([chain.answer for chain in chains], question.same)
        reasons = choose_chains(chains, vote, options)
        voted_right = any(chains[number].correct for number in vote.voters)
        if not voted_right and vote.votes >= max(2, options.agreement * len(chains)):
            doubted.append(
                {
                    "row": question.row,
                    "expected": question.expected,
                    "elected": vote.answer,
                    "votes": vote.votes,
                }
            )
        right, elected = right + sum(chain.correct for chain in chains), elected + voted_right
        kept = [
            _line(question, number, chain, vote, label)
            for number, chain in enumerate(chains)
            if not reasons[number]
        ]
        with_traces += bool(kept)
        lines += kept
        rejected.update(filter(None, reasons))
    total = sum(map(len, answered))
    report = {
        "chains": total,
        "tokens": sum(chain.tokens for chains in answered for chain in chains),
        "kept": len(lines),
        "questions_with_traces": with_traces,
        "rejected": {reason: rejected[reason] for reason in REASONS if rejected[reason]},
        "pass@1": right / total,
        f"maj@{options.chains}": elected / len(questions),
        "stderr": share_error(elected / len(questions), len(questions)),
        "doubted_rows": doubted[:DOUBTED],
        "doubted": len(doubted),
    }
    return lines, report


def _line(question: Question, number: int, chain: Chain, vote: Vote, label: str) -> dict[str, Any]:
    verdict = "verified" if chain.correct else "majority"
    return {
        "prompt": question.text,
        "completion": chain.text,
        "answer": chain.answer,
        "verdict": verdict,
        "votes": vote.votes,
        "tokens": chain.tokens,
        "entropy": chain.entropy,
        "chain": number,
        "source": {"data": label, "row": question.row},
    }
