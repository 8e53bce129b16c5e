"""The measurements of the benchmarks that need a process of their own.

`python tests/benchmarks/parts.py PART ARGUMENT...` prints one JSON object.
"""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

_BASELINES = Path(__file__).resolve().parents[2] / "baselines"
_PAIRS = 3


def _profile_part(method_name, rank_text, architecture_name):
    import torch

    from peft_regress import registry
    from peft_regress.cost import profile_step

    torch.set_num_threads(1)
    rank = int(rank_text) or None
    method = registry.get("method", method_name)
    architecture = registry.get("architecture", architecture_name)

    def profile(*, batch, fake):
        model = architecture.build(num_classes=10, seed=0)
        model = method.at(rank, heads=(architecture.head,)).adapt(model, seed=0)
        method.set_mode(model)
        started = time.perf_counter()
        profile_step(
            model,
            lambda wrapped: method.at(rank).make_optimizer(wrapped),
            input_shape=(batch, 3, 224, 224),
            num_classes=10,
            fake=fake,
        )
        return time.perf_counter() - started

    model = architecture.build(num_classes=10, seed=0)
    method.at(rank, heads=(architecture.head,)).adapt(model, seed=0)
    resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
    imports = resident_pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    profile(batch=32, fake=True)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - imports
    ones, many = [], []
    for _ in range(_PAIRS):
        ones.append(profile(batch=1, fake=True))
        many.append(profile(batch=32, fake=True))
    return {
        "fake_seconds": min(many),
        "real_seconds": profile(batch=32, fake=False),
        "batch_ratio": min(many) / min(ones),
        "megabytes": megabytes,
    }


def _needed_part():
    """Do the work that `peft-regress cost` of this case must do."""
    from peft_regress.cases import Adaptation
    from peft_regress.measure.costs import CostSettings, adaptation_cost

    adaptation_cost(Adaptation(method="lora", architecture="resnet18", rank=4), CostSettings())
    return {}


class Clock:
    """The seconds inside the functions that it wraps."""

    def __init__(self, now):
        self.now, self.inside = now, 0.0

    def of(self, action):
        def call(*arguments, **options):
            started = self.now()
            try:
                return action(*arguments, **options)
            finally:
                self.inside += self.now() - started

        return call

    def of_signals(self):
        """Time all work for invariants and filled losses."""
        from peft_regress.measure.invariants.continuing import Continuing
        from peft_regress.measure.invariants.watch import InvariantWatch

        for owner in (InvariantWatch, Continuing):
            for name in ("__init__", "before_training", "after_training"):
                setattr(owner, name, self.of(getattr(owner, name)))

    def outside_and_all(self, action):
        """Return the seconds of an action without those inside, and with them."""
        self.inside = 0.0
        started = self.now()
        action()
        seconds = self.now() - started
        return seconds - self.inside, seconds


def _harness_part(case_id):
    """Compare both outside training and evaluation, whose noise is larger than the difference."""
    from peft_regress.catalogue.matrix import parse_case_id
    from peft_regress.measure import ProfileCache, Recipe, measure, training
    from peft_regress.measure import recipe as recipes
    from peft_regress.measure.objective import Objective
    from peft_regress.measure.training import single_thread

    recipe = Recipe.of(parse_case_id(case_id), _BASELINES)
    clock = Clock(time.perf_counter)
    vars(recipes).update(finetune=clock.of(training.finetune))
    Objective.scores = clock.of(Objective.scores)
    clock.of_signals()
    profiles = ProfileCache()

    def harnessed():
        measure(recipe, profiles=profiles)

    def bare():
        data = recipe.load_data()
        test = list(data.test_batches(recipe.test_batch))
        for seed in recipe.seeds:
            model = recipe.adapted_model(seed)
            optimizer = recipe.make_optimizer(model)
            batches = recipe.batches(data, seed=seed)
            recipe.train(model, optimizer, batches, seed=seed)
            recipe.objective.scores(model, test)

    extras = []
    with single_thread():
        harnessed()  # fills the profile cache and every other cache
        for _ in range(_PAIRS):
            ours, _ = clock.outside_and_all(harnessed)
            theirs, whole = clock.outside_and_all(bare)
            extras.append((ours - theirs) / whole)
    return {"extra": statistics.median(extras)}


def _signals_part(architecture_name):
    """Return the processor time of the default matrix's cases of an architecture, and of signals.

    Both tasks, since a profile serves both.
    """
    from peft_regress.catalogue.matrix import matrix_cases
    from peft_regress.measure import ProfileCache, Recipe, measure

    clock = Clock(time.process_time)
    clock.of_signals()
    profiles = ProfileCache()
    cases = [case for case in matrix_cases() if case.architecture == architecture_name]
    _, seconds = clock.outside_and_all(
        lambda: [measure(Recipe.of(case, _BASELINES), profiles=profiles) for case in cases]
    )
    return {"signals": clock.inside, "all": seconds}


def _choose_part(architecture_name):
    """Return the processor time of all candidates at once, and of a profile of each alone."""
    from peft_regress.cases import Adaptation
    from peft_regress.choosing.candidates import Limits, of_architecture, try_all
    from peft_regress.measure.costs import CostSettings, adaptation_cost

    subject = of_architecture(architecture_name, batch=8, resolution=96)

    def choose():
        tried = try_all(subject, Limits(memory=2**30), only="lora")
        return [
            Adaptation(method=one.method, architecture=architecture_name, rank=one.rank)
            for one in tried.candidates
        ]

    settings = CostSettings(batch=8, resolution=96)
    every = choose()  # imports, and every cache
    started = time.process_time()
    choose()
    chosen = time.process_time()
    for one in every:
        adaptation_cost(one, settings)
    return {"choose": chosen - started, "singles": time.process_time() - chosen}


_PARTS = {
    "profile": _profile_part,
    "harness": _harness_part,
    "needed": _needed_part,
    "signals": _signals_part,
    "choose": _choose_part,
}

if __name__ == "__main__":
    print(json.dumps(_PARTS[sys.argv[1]](*sys.argv[2:])))
