"""Records with the costs and the ledgers of real steps, profiled once a session."""

import functools

from builders import LORA, make_record

from peft_regress.cases import Adaptation
from peft_regress.measure.costs import CostSettings, adaptation_cost, metrics_of, step_ledger
from peft_regress.metrics import BATCH_SUFFIX


def profile(method, architecture, rank=None, **settings):
    """Return a record with the costs of a real step, at 64x64 and both batch sizes."""
    adaptation = Adaptation(method=method, architecture=architecture, rank=rank)
    one, many = (
        adaptation_cost(adaptation, CostSettings(batch=batch, resolution=64, **settings))
        for batch in (1, 32)
    )
    reports = {"": one, BATCH_SUFFIX: many}
    return make_record(LORA, metrics_of(reports), ledger=step_ledger(reports))


cached = functools.cache(profile)
