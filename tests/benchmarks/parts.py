"""The measurements of the benchmarks that need a process of their own.

`python tests/benchmarks/parts.py PART ARGUMENT...` prints one JSON object.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from peft_regress import FineTune

_BASELINES = Path(__file__).resolve().parents[2] / "baselines"
_PAIRS = 3
_OWN_BATCH = 32


def _profile_part(method_name: str, rank_text: str, architecture_name: str) -> dict[str, float]:
    import torch

    from peft_regress import registry
    from peft_regress.catalogue.built_in import set_modes
    from peft_regress.cost import profile_step

    torch.set_num_threads(1)
    rank = int(rank_text) or None
    method = registry.get("method", method_name)
    architecture = registry.get("architecture", architecture_name)

    def profile(*, batch: int, fake: bool) -> float:
        model = architecture.build(num_classes=10, seed=0)
        model = method.adapt(model, heads=(architecture.head,), rank=rank, seed=0)
        set_modes(model, batch_norm_statistics=False)
        started = time.perf_counter()
        profile_step(
            model,
            lambda wrapped: method.make_optimizer(wrapped, rank=rank),
            input_shape=(batch, 3, 224, 224),
            num_classes=10,
            fake=fake,
        )
        return time.perf_counter() - started

    model = architecture.build(num_classes=10, seed=0)
    method.adapt(model, heads=(architecture.head,), rank=rank, seed=0)
    imports = _resident_megabytes()
    profile(batch=32, fake=True)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - imports
    ones, many = [], []
    for _ in range(_PAIRS):
        ones.append(profile(batch=1, fake=True))
        many.append(profile(batch=32, fake=True))
    return {
        "fake_seconds": min(many),
        "real_seconds": profile(batch=32, fake=False),
        "peers_seconds": _peers_seconds(method_name, rank, architecture_name),
        "batch_ratio": min(many) / min(ones),
        "megabytes": megabytes,
    }


def _peers_seconds(method_name: str, rank: int | None, architecture_name: str) -> float:
    """Time the usual recipe: one real step under FlopCounterMode, two under torch's MemTracker."""
    import torch
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode
    from torch.utils.hooks import RemovableHandle

    from peft_regress import registry
    from peft_regress.catalogue.built_in import set_modes

    class Tracker(MemTracker):  # type: ignore[no-untyped-call]
        """A MemTracker that skips frozen parameters, on which its hooks would fail."""

        def _track_module_params_and_buffers(
            self,
            module: Any,
            install_grad_hooks: bool = True,
        ) -> tuple[int, int]:
            no_hook = RemovableHandle(OrderedDict())
            handles: Any = self._param_to_grad_hook_handles
            for parameter in module.parameters():
                if not parameter.requires_grad:
                    # It installs no second hook if it finds one.
                    handles.setdefault(parameter, (no_hook, no_hook))
            return super()._track_module_params_and_buffers(module, install_grad_hooks)

    method = registry.get("method", method_name)
    architecture = registry.get("architecture", architecture_name)
    model = architecture.build(num_classes=10, seed=0)
    model = method.adapt(model, heads=(architecture.head,), rank=rank, seed=0)
    set_modes(model, batch_norm_statistics=False)
    optimizer = method.make_optimizer(model, rank=rank)
    images, labels = torch.randn(32, 3, 224, 224), torch.randint(10, (32,))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    started = time.perf_counter()
    with FlopCounterMode(display=False):
        step()
    tracker = Tracker()
    tracker.track_external(model, optimizer, images, labels)
    with tracker:
        step()
        tracker.reset_mod_stats()
        step()
    return time.perf_counter() - started


def _large_part(architecture_name: str) -> dict[str, float]:
    from peft_regress import registry
    from peft_regress.cases import Adaptation
    from peft_regress.measure.step_profile import CostSettings, adaptation_cost

    # Everything is imported, and every cache of the libraries filled, by a small profile.
    small = Adaptation(method="full", architecture="shufflenet_v2_x0_5")
    adaptation_cost(small, CostSettings(resolution=64))
    registry.get("architecture", architecture_name)
    imports = _resident_megabytes()
    adaptation = Adaptation(method="full", architecture=architecture_name)
    report = adaptation_cost(adaptation, CostSettings(batch=64))
    return {
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - imports,
        "parameter_megabytes": report.step.peak_param_bytes / 1e6,
    }


def _needed_part() -> dict[str, float]:
    """Do the work that `peft-regress cost` of this case must do."""
    from peft_regress.cases import Adaptation
    from peft_regress.measure.step_profile import CostSettings, adaptation_cost

    adaptation_cost(Adaptation(method="lora", architecture="resnet18", rank=4), CostSettings())
    return {}


def _many_part() -> dict[str, float]:
    from peft_regress.cases import Adaptation
    from peft_regress.measure.step_profile import CostSettings, adaptation_cost

    methods = (("full", None), ("head", None), ("lora", 4), ("dora", 4), ("galore", 4))
    architectures = ("shufflenet_v2_x0_5", "mobilenet_v3_small", "mobilenet_v2", "resnet18")
    pairings = [
        Adaptation(method=method, rank=rank, architecture=architecture)
        for method, rank in methods
        for architecture in architectures
    ]
    early = 0.0
    for number in range(10):
        for pairing in pairings:
            adaptation_cost(pairing, CostSettings(resolution=64))
        if number == 0:
            early = _resident_megabytes()
    return {"early_megabytes": early, "late_megabytes": _resident_megabytes()}


def _harness_part(case_id: str) -> dict[str, float]:
    """Compare both outside training and evaluation, whose noise is larger than the difference."""
    from peft_regress.catalogue.matrix import parse_case_id
    from peft_regress.measure import ProfileCache, Recipe, costs, measure, preflight, training
    from peft_regress.measure import case as cases
    from peft_regress.measure import recipe as recipes
    from peft_regress.measure.definition import FIRST_LOSSES
    from peft_regress.measure.objective import Objective
    from peft_regress.measure.training import single_thread

    case = _own_resnet18() if case_id.startswith("own/") else parse_case_id(case_id)
    recipe = Recipe.of(case, _BASELINES)
    inside = [0.0]

    def clocked(action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return action(*arguments, **options)
            finally:
                inside[0] += time.perf_counter() - started

        return call

    vars(recipes).update(finetune=clocked(training.finetune))
    Objective.scores = clocked(Objective.scores)  # type: ignore[method-assign]
    # A case of one's own is profiled each time; a built-in one takes its profile from a cache.
    vars(cases).update(
        case_costs=clocked(costs.case_costs), check_case=clocked(preflight.check_case)
    )
    _clock_signals(clocked)

    def bare() -> None:
        data = recipe.load_data()
        test = list(data.test_batches(recipe.test_batch))
        for seed in recipe.seeds:
            model = recipe.adapted_model(seed)
            optimizer = recipe.make_optimizer(model)
            batches = recipe.batches(data, seed=seed)
            recipe.train(model, optimizer, batches, seed=seed, first=FIRST_LOSSES)
            recipe.objective.scores(model, test)

    profiles = ProfileCache()

    def harnessed() -> None:
        measure(recipe, profiles=profiles)

    def outside_and_all(action: Callable[[], None]) -> tuple[float, float]:
        inside[0] = 0.0
        seconds = _seconds(action)
        return seconds - inside[0], seconds

    extras = []
    with single_thread():
        harnessed()  # fills the profile cache and every other cache
        for _ in range(_PAIRS):
            ours, _ = outside_and_all(harnessed)
            theirs, whole = outside_and_all(bare)
            extras.append((ours - theirs) / whole)
    return {"extra": statistics.median(extras)}


def _own_profile_part() -> dict[str, float]:
    from peft_regress.measure import Recipe
    from peft_regress.measure.costs import own_costs
    from peft_regress.measure.training import single_thread

    recipe = Recipe.of(_own_resnet18(), _BASELINES)
    data = recipe.load_data()
    batch = next(recipe.batches(data, seed=0))
    with single_thread():
        profiles = [_seconds(lambda: own_costs(recipe, batch)) for _ in range(_PAIRS)]
        steps = recipe.steps(data, seed=0)
        taken = [next(steps)[1] for _ in range(1 + _PAIRS)]
    return {"profile_seconds": min(profiles), "step_seconds": statistics.median(taken[1:])}


def _clock_signals(clocked: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Time all work for invariants and filled losses."""
    from peft_regress.measure.invariants import InvariantWatch

    for name in ("__init__", "before_training", "after_training"):
        setattr(InvariantWatch, name, clocked(getattr(InvariantWatch, name)))


def _signals_part(architecture_name: str) -> dict[str, float]:
    """Return the processor time of the default matrix's cases of an architecture, and of signals.

    Both tasks, since a profile serves both.
    """
    from peft_regress.catalogue.matrix import matrix_cases
    from peft_regress.measure import ProfileCache, Recipe, measure

    inside = [0.0]

    def clocked(action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            try:
                return action(*arguments, **options)
            finally:
                inside[0] += time.process_time() - started

        return call

    _clock_signals(clocked)
    profiles = ProfileCache()
    started = time.process_time()
    for case in matrix_cases():
        if case.architecture == architecture_name:
            measure(Recipe.of(case, _BASELINES), profiles=profiles)
    return {"signals": inside[0], "all": time.process_time() - started}


def _own_resnet18() -> FineTune:
    """Return LoRA on resnet18, 8 steps of 32 images of 224 x 224."""
    import peft

    from peft_regress import FineTune

    return FineTune(
        "own/lora-r4/resnet18",
        model=_resnet18,
        data=_images,
        adapter=peft.LoraConfig(r=4, target_modules=["conv1", "conv2"]),
        also_train=["fc"],
        steps=8,
        batch=_OWN_BATCH,
        seeds=1,
    )


def _resnet18() -> nn.Module:
    from torchvision.models import resnet18

    model: nn.Module = resnet18(num_classes=10)
    return model


def _images() -> tuple[Any, Any]:
    import torch

    def split(count: int) -> Any:
        return torch.randn(count, 3, 224, 224), torch.arange(count) % 10

    return split(2 * _OWN_BATCH), split(_OWN_BATCH)


def _seconds(action: Callable[[], Any]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


_PARTS: dict[str, Callable[..., dict[str, float]]] = {
    "profile": _profile_part,
    "harness": _harness_part,
    "own_profile": _own_profile_part,
    "large": _large_part,
    "needed": _needed_part,
    "many": _many_part,
    "signals": _signals_part,
}

if __name__ == "__main__":
    print(json.dumps(_PARTS[sys.argv[1]](*sys.argv[2:])))
