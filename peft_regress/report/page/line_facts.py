"""What a page knows of a line beside its values: how far it may change, and how seeds differ."""

from __future__ import annotations

import math
from typing import Any

from peft_regress.gate.bounds import Bounds
from peft_regress.metrics import Metric


def facts_of(name: str, metric: Metric, bounds: Bounds) -> dict[str, Any]:
    """Return `{bound?, seeds?}` of a metric's present value.

    `bound` is how far the value may change: relative, of a fraction and a score the difference, of
    losses that of step 1. It is absent where no change is judged, or every one. `seeds` are the
    lowest and the highest seed, where the value is the mean over seeds.
    """
    facts: dict[str, Any] = {}
    judged = metric.kind != "info" and metric.direction != "none"
    bound = bounds.on(name, metric)[0] if judged else 0.0
    if 0 < bound < math.inf:
        facts["bound"] = bound
    if metric.kind in {"accuracy", "score"}:
        seeds = [sample for sample in metric.samples or () if not isinstance(sample, list)]
        if len(seeds) > 1:
            facts["seeds"] = [min(seeds), max(seeds)]
    return facts
