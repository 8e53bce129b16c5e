"""Print what certifies the training of cases, as JSON: `python first_steps_alone.py < ids`.

It takes the first steps of each case and no more. It runs in whichever environment is to be tried.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.measure import Recipe
from peft_regress.measure.first_steps import FirstSteps, trace_of
from peft_regress.measure.training import single_thread

BASELINES = Path(__file__).resolve().parents[2] / "baselines"


@single_thread()
def certificate(name: str) -> dict[str, Any] | str:
    """Return the computation of a case, or why there is none."""
    try:
        recipe = Recipe.of(parse_case_id(name), BASELINES)
        data, trace = recipe.load_data(), trace_of(recipe)
        test = list(data.test_batches(recipe.test_batch))
        for batch in test:
            trace.test_batch(batch)
        first = FirstSteps(recipe=recipe, trace=trace, test=test)
        for seed in recipe.seeds:
            if trace.problem is None:
                model = recipe.adapted_model(seed)
                optimizer = recipe.make_optimizer(model)
                batches = recipe.batches(data, seed=seed)
                if seed == recipe.seeds[0]:
                    first.take(model, optimizer, batches)
                else:
                    first.pass_over(model, optimizer, batches, seed=seed)
    except Exception as error:  # noqa: BLE001  (a release may be unable to do a case)
        return f"{type(error).__name__}: {error}"
    found = trace.computation
    return trace.problem or msgspec.to_builtins(found)


if __name__ == "__main__":
    json.dump({name: certificate(name) for name in sys.stdin.read().split()}, sys.stdout)
