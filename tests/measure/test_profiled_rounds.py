"""`--benchmark-cprofile` trains once more than there are seeds, and leaves no trace of it."""

import peft
import pytest
from own_training import fine_tune, measured

from peft_regress.measure.rounds import plain_rounds


def profiled_rounds(target, *, setup, teardown, rounds):
    """Run the rounds, then one more whose target runs twice, as with two loops of the profiler."""
    plain_rounds(target, setup=setup, teardown=teardown, rounds=rounds)
    args, kwargs = setup()
    for _ in range(2):
        target(*args, **kwargs)
        teardown(*args, **kwargs)


@pytest.mark.parametrize("adapter", [peft.LoraConfig(r=2, target_modules=["6"]), "galore-r4"])
def test_what_is_profiled_changes_no_record(adapter):
    case = fine_tune(adapter, seeds=2)
    one = measured(case, timed=False)
    other = measured(case, timed=False, run_rounds=profiled_rounds)
    assert one.status == "ok", one.error
    assert one == other
