"""Name what is probably wrong with a version whose answers are wrong: a pure function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .garbage import CAUSES, Kind

__all__ = ["diagnose"]

GOOD = 0.8
BAD = 0.6
ROUNDING = 0.02
"""Share of other tokens plus nats that rounding may explain."""
NOT_FINITE = (
    "{} positions have logits that are no finite numbers: activations overflow half precision; "
    "export with --precision fp32 or bf16"
)
DECODING = (
    "the first token after a prompt is right in {:.0%} of the answers and later ones in {:.0%}: "
    "the cache or the positions of decoding are wrong, and the weights are not"
)
WEIGHTS = (
    "tokens are wrong from the first one on ({:.0%} right): weights or scales of a layer are wrong "
    "or in another order, or these are the weights of another model"
)
SLIGHT = (
    "{:.1%} of the tokens are not those of the checkpoint, and the KL is at least {:.2g} nats: "
    "more than rounding; weights or scales of some layers are wrong, or in another order"
)
SAME_AS_HERE = (
    "the device generates what this machine generates from the same files, so the artifact is "
    "wrong and not the device: export it again"
)
ONLY_THERE = "compare with the same file on this machine: the runtime on the device may be at fault"
GARBAGE = "{} of {} answers are garbage: {}; usual cause: {}"


def diagnose(
    hits: Sequence[Sequence[bool]],
    garbage: Sequence[Kind | None],
    not_finite: int,
    kl: float = 0.0,
    *,
    checked: bool,
) -> list[str]:
    """What is probably wrong; empty if nothing stands out.

    Args:
        hits: for each answer, whether its tokens are those of the checkpoint, by position. Empty
            without log-probabilities.
        garbage: for each answer, in which way it is garbage.
        not_finite: number of positions with a logit that is no finite number.
        kl: the mean divergence from the checkpoint in nats, or a lower bound of it.
        checked: whether the device generated the same tokens as this machine from these files.
    """
    found = [NOT_FINITE.format(not_finite)] if not_finite else []
    kinds: Counter[Kind] = Counter(kind for kind in garbage if kind)
    found += [
        GARBAGE.format(count, len(garbage), kind, CAUSES[kind])
        for kind, count in kinds.most_common()
    ]
    first = _share([row[:1] for row in hits])
    later = _share([row[1:] for row in hits])
    if first >= GOOD and later < BAD:
        found.append(DECODING.format(first, later))
    elif first < GOOD and later < GOOD:
        found.append(WEIGHTS.format(first))
    elif not found and (wrong := 1 - _share(hits)) + kl > ROUNDING:
        found.append(SLIGHT.format(wrong, kl))
    if found:
        found.append(SAME_AS_HERE if checked else ONLY_THERE)
    return found


def _share(rows: Sequence[Sequence[bool]]) -> float:
    """Share of what is true; 1 of nothing."""
    flat = [one for row in rows for one in row]
    return sum(flat) / len(flat) if flat else 1.0
