"""Simulate how often the gate decides correctly: with a regression, without one, at the limit.

    python -m edgewright.perf.gate [--trials 1000]

Two models answer the same problems. `lost` is the share of problems that only the baseline answers
correctly, `gained` the share that only the candidate does. So the true drop is lost - gained, and
`gained` is churn: answers that change although nothing gets worse. Problems are independent. Texts
have windows with lognormal losses; the candidate's losses differ by a known amount and heavy-tailed
noise.

For a loss, the table also has the best possible power of any test. By the lemma of Neyman and
Pearson (1933), the most powerful test against one null hypothesis (as many lost as gained) is at
least as powerful as any test that keeps its level against all of them.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..benchmarks.gate.gate import check_gate
from ..benchmarks.gate.policy import Limit, Policy
from ..benchmarks.measurement_files import problem_samples, window_samples

METRIC = "accuracy/simulated"
TEXT = "perplexity/simulated"
CONTEXT = {"problems/simulated": 0, "data_hash/simulated": "0", "seq_len/simulated": 0}
Pair = tuple[dict[str, Any], dict[str, Any]]
"""Measurements of a candidate and of its baseline."""


def problem_pairs(
    trials: int,
    problems: int = 1000,
    accuracy: float = 0.95,
    lost: float = 0.0,
    gained: float = 0.0,
) -> Iterator[Pair]:
    """Simulated answers of candidate and baseline, `trials` times."""
    generator = np.random.default_rng(problems)
    # both right, lost, gained, both wrong
    chances = [accuracy - lost, lost, gained, 1 - accuracy - gained]
    for _ in range(trials):
        kinds = generator.choice(4, size=problems, p=chances)
        yield _answered("candidate", (kinds == 0) | (kinds == 2)), _answered("baseline", kinds <= 1)


def _answered(name: str, correct: Any) -> dict[str, Any]:
    return {
        "name": name,
        "metrics": {METRIC: float(correct.mean())},
        "context": CONTEXT,
        "samples": {METRIC: problem_samples(correct)},
    }


def window_pairs(
    trials: int, windows: int = 128, ratio: float = 1.0, noise: float = 0.05
) -> Iterator[Pair]:
    """Simulated text losses of candidate and baseline, `trials` times.

    Args:
        trials: number of pairs.
        windows: windows of each text.
        ratio: true ratio of the perplexities.
        noise: spread of a window's own difference, in nats.
    """
    generator = np.random.default_rng(windows)
    for _ in range(trials):
        tokens = generator.integers(128, 257, windows)
        loss = generator.lognormal(math.log(1.2), 0.35, windows)
        change = math.log(ratio) + noise * generator.standard_t(4, windows)
        yield (
            _scored("candidate", (loss + change) * tokens, tokens),
            _scored("baseline", loss * tokens, tokens),
        )


def _scored(name: str, nll: Any, tokens: Any) -> dict[str, Any]:
    samples = window_samples(list(zip(nll.tolist(), tokens.tolist(), strict=True)))
    perplexity = math.exp(sum(samples["nll"]) / sum(samples["tokens"]))
    return {
        "name": name,
        "metrics": {TEXT: perplexity},
        "context": CONTEXT,
        "samples": {TEXT: samples},
    }


def verdicts(
    pairs: Iterator[Pair], metric: str = METRIC, resamples: int = 10_000, **limit: float
) -> dict[str, float]:
    """The share of each verdict of the gate."""
    policy = Policy(limits={metric: Limit.model_validate(limit)}, resamples=resamples)
    found = Counter(check_gate(new, old, policy)["verdict"] for new, old in pairs)
    return {verdict: found[verdict] / found.total() for verdict in ("pass", "fail", "inconclusive")}


def most_any_test_catches(
    lost: float, gained: float, problems: int = 1000, level: float = 0.05
) -> float:
    """The largest power against this loss of any test with this level of false alarms."""
    most = min(problems, math.ceil(problems * max(lost, gained) * 2 + 60))
    factorial = np.array([math.lgamma(i + 1) for i in range(problems + 1)])
    down, up = np.meshgrid(np.arange(most), np.arange(most), indexing="ij")
    rest = np.maximum(problems - down - up, 0)
    ways = factorial[problems] - factorial[down] - factorial[up] - factorial[rest]

    def chances(down_share: float, up_share: float) -> Any:
        logs = ways + rest * math.log1p(-down_share - up_share)
        for count, share in ((down, down_share), (up, up_share)):
            logs = logs + (count * math.log(share) if share else np.where(count, -np.inf, 0.0))
        return np.exp(logs).ravel()

    true = chances(lost, gained)

    def power(null: Any) -> float:
        order = np.argsort(-true / np.maximum(null, 1e-300))
        spent = null[order].cumsum()
        caught = true[order].cumsum()
        # The outcome `last` is rejected with a probability that makes the level exact.
        last = int(np.searchsorted(spent, level))
        before = (spent[last - 1], caught[last - 1]) if last else (0.0, 0.0)
        return float(before[1] + (level - before[0]) / null[order][last] * true[order][last])

    middle = (lost + gained) / 2
    return min(
        power(chances(share, share)) for share in np.linspace(0.8 * middle, 1.1 * middle, 16)
    )


def scenarios(trials: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Names of the simulations, and their shares of verdicts."""
    for gained in (0.0, 0.005, 0.01, 0.02, 0.03):
        pairs = problem_pairs(trials, lost=0.03 + gained, gained=gained)
        most = most_any_test_catches(0.03 + gained, gained)
        yield (
            f"3 points lost, churn {gained:.1%}, n=1000 (no test above {most:.1%})",
            verdicts(pairs, max_drop=0.0),
        )
    for churn in (0.0, 0.002, 0.01, 0.03):
        pairs = problem_pairs(trials, lost=churn, gained=churn)
        yield f"nothing lost, churn {churn:.1%}, n=1000, max_drop 0", verdicts(pairs, max_drop=0.0)
    for churn in (0.0, 0.01):
        pairs = problem_pairs(trials, lost=0.01 + churn, gained=churn)
        yield (
            f"1 point lost, churn {churn:.1%}, n=1000, max_drop 0.01",
            verdicts(pairs, max_drop=0.01),
        )
        pairs = problem_pairs(trials, problems=200, lost=0.0475 + churn, gained=churn)
        yield (
            f"recovery 0.95, churn {churn:.1%}, n=200, min_ratio 0.95",
            verdicts(pairs, min_ratio=0.95),
        )
    for windows in (16, 128):
        for ratio in (1.06, 1.09):
            found = verdicts(window_pairs(trials, windows, ratio), TEXT, max_ratio=1.06)
            yield f"perplexity x {ratio}, {windows} windows, max_ratio 1.06", found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="how often the gate decides correctly")
    parser.add_argument("--trials", type=int, default=1000)
    print(f"{'true effect':<60} {'pass':>7} {'fail':>7} {'open':>7}")
    for name, share in scenarios(parser.parse_args().trials):
        print(
            f"{name:<60} {share['pass']:>7.1%} {share['fail']:>7.1%} {share['inconclusive']:>7.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
