"""Records with the costs and the ledgers of real steps, profiled once a session."""

import functools

from builders import LORA, make_record

from peft_regress.cases import Adaptation
from peft_regress.measure.costs import CostSettings, adaptation_cost, cost_metrics, step_ledger
from peft_regress.metrics import BATCH_SUFFIX


def profile(method, architecture, rank=None, **settings):
    """Return a record with the costs of a real step, at 64x64 and both batch sizes."""
    adaptation = Adaptation(method=method, architecture=architecture, rank=rank)
    one, many = (
        adaptation_cost(adaptation, CostSettings(batch=batch, resolution=64, **settings))
        for batch in (1, 32)
    )
    metrics = {**cost_metrics(one), **cost_metrics(many, suffix=BATCH_SUFFIX)}
    return make_record(LORA, metrics, ledger=step_ledger({"": one, "_b32": many}))


cached = functools.cache(profile)
