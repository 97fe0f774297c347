"""The metrics that lm-eval reports, declared as `metrics.py` declares all others."""

from __future__ import annotations

import math

from .metric import Metric
from .metric_conditions import LM_EVAL

__all__ = ["LM_EVAL_METRICS"]

LM_EVAL_LOWER = "(?:(?:byte_|word_)?perplexity|bits_per_byte|brier_score|ter)(?:,.+)?"
LM_EVAL_SHARE = "(?:acc|acc_norm|acc_mutual_info|acc_bytes|acc_all|exact_match)(?:,.+)?"
LM_EVAL_HIGHER = "(?:likelihood|mcc|f1|bleu|chrf|chrf\\+\\+)(?:,.+)?"
"""lm-eval's own metrics, perhaps with a filter behind a comma; others have no known direction."""

LM_EVAL_METRICS = (
    Metric("lm_eval/<task>/<metric>.stderr", "lm-eval, stderr", "lower", conditions=LM_EVAL),
    Metric(
        f"lm_eval/<task>/<metric:{LM_EVAL_SHARE}>", "lm-eval", "higher", high=1, conditions=LM_EVAL
    ),
    Metric(
        f"lm_eval/<task>/<metric:{LM_EVAL_HIGHER}>",
        "lm-eval",
        "higher",
        low=-math.inf,
        conditions=LM_EVAL,
    ),
    Metric(f"lm_eval/<task>/<metric:{LM_EVAL_LOWER}>", "lm-eval", "lower", conditions=LM_EVAL),
    Metric("lm_eval/<task>/<metric>", "lm-eval", low=-math.inf, conditions=LM_EVAL),
)
