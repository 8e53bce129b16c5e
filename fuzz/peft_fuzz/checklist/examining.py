"""Carry out one situation in a worker: wrap, fill, compute, merge, save, load, train, price."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from peft_fuzz.checklist.networks import batch, fill, loaded, network, type_name, types_of, wrapped
from peft_fuzz.checklist.situations import (
    AGAIN,
    OUTPUTS,
    PARTS,
    Examine,
    Examined,
    Inspect,
    Inspected,
    Situation,
    Start,
    Started,
    find_method,
)
from peft_regress.catalogue.methods import PeftAdapter
from peft_regress.cost import profile_training_step
from peft_regress.cost.stand_ins import on_fake_or_real
from peft_regress.measure.invariants.outputs import agree
from peft_regress.measure.training import single_thread
from peft_regress.runs.schema import Failure
from peft_regress.upgrades.worker import Timed, TimeSteps, timed

_ADAPTER_FILE: Final = "adapter_model.safetensors"
_FOLDER: Final = {True: "adapter", False: "adapter-of-branch"}
_WANTED_EFFECT: Final = 0.2
"""How much an adapter moves the outputs at least, as a share of the largest: four times the widest
bound, that of bfloat16."""
_TIMES: Final = (1, 2, 4, 8, 16)
"""How much larger than usual the numbers of an adapter are, until it moves the outputs so much."""
ROUNDING: Final = 1e-7
"""Of a float32, relative: as much as another order of the same sums moves a number."""
_STEPS: Final = 8
_SEED: Final = 0
_COSTS: Final = ("forward_flops", "backward_flops", "peak_bytes")


def inspect(request: Inspect) -> Inspected:
    """Import peft and return the fields of a method's configuration with their defaults."""
    peft = import_module("peft")
    config = getattr(peft, find_method(request.method).config, None)
    if config is None:
        return Inspected(peft=peft.__version__, fields=None)
    fields = {one.name: _default(one) for one in dataclasses.fields(config)}
    return Inspected(peft=peft.__version__, fields=fields)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "none"


def examine(request: Examine) -> Examined:
    """Compute what a situation gives on one side, and write the outputs into its folder.

    The base fills a fresh adapter and saves it; the other side loads it and saves it again. Both
    also load what they have saved themselves. Failures of peft are part of the answer.
    """
    with single_thread(), warnings.catch_warnings():
        # Nobody reads them here, and peft warns at each layer.
        warnings.simplefilter("ignore")
        return _Side(request).examined()


class _Side:
    """What one side computes of a situation."""

    def __init__(self, request: Examine) -> None:
        self._situation = request.situation
        self._is_base = request.is_base
        self._folder = Path(request.folder)
        self._method = find_method(request.situation.method)
        self._outputs: dict[str, Tensor] = {}
        self._failures: dict[str, Failure] = {}
        self._found: dict[str, Any] = {}
        self._types: dict[str, dict[str, str]] = {}
        self._batch = batch(request.situation)

    def examined(self) -> Examined:
        try:
            self._output(network(self._situation))
        except RuntimeError as error:
            return Examined(unavailable=f"{self._situation.dtype}: {error}")
        if self._is_base:
            self._make()
        else:
            self._take_over()
        side = "base" if self._is_base else "branch"
        save_file(self._outputs, self._folder / OUTPUTS.format(side))
        if self._situation.trains and "adapting" not in self._failures:
            self._train()
        return Examined(failures=self._failures, types=self._types, **self._found)

    def _make(self) -> None:
        """Save a fresh adapter with numbers in it, and load it again: no release is asked more."""
        filled = self._try("adapting", self._filled)
        if filled is None or self._try("adapting", lambda: self._save(filled)) is None:
            return
        self._handle(filled)
        again = self._load("loading", is_base=True)
        if again is not None:
            self._outputs[f"unmerged{AGAIN}"] = self._output(again)
            self._handle(again, AGAIN)

    def _take_over(self) -> None:
        """Load the adapter of the base, save it, and load that again."""
        taken = self._load("loading", is_base=True)
        if taken is None:
            return
        self._outputs["unmerged"] = self._output(taken)
        is_saved = self._try("reloading", lambda: self._save(taken))
        self._handle(taken)
        again = self._load("reloading", is_base=False) if is_saved else None
        if again is not None:
            self._outputs["reloaded"] = self._output(again)
        if self._situation.trains:
            return  # which wraps a fresh one
        fresh = self._try("adapting", lambda: wrapped(self._situation))
        if fresh is not None:
            self._types["fresh"] = types_of(fresh)

    def _filled(self) -> nn.Module:
        """Return an adapter that moves the outputs clearly, by the smallest numbers that do."""
        best: tuple[float, nn.Module] | None = None
        for times in _TIMES:
            adapted = wrapped(self._situation)
            self._types["fresh"] = types_of(adapted)
            fill(adapted, self._situation, times=times)
            output = self._output(adapted)
            with cast("Any", adapted).disable_adapter():
                effect = float((output - self._output(adapted)).abs().max())
            share = effect / float(output.abs().max())
            # The first one counts even if it has no finite output; so does the larger of two.
            if best is None or share > best[0]:
                best = share, adapted
                self._outputs["unmerged"], self._found["effect"] = output, effect
            if not share < _WANTED_EFFECT:  # also for NaN
                break
        assert best is not None  # noqa: S101  (there is a first one)
        return best[1]

    def _save(self, adapted: nn.Module) -> bool:
        """Save the adapter as peft does; keep what its tensors are, and which of them changed."""
        folder = self._folder / _FOLDER[self._is_base]
        cast("Any", adapted).save_pretrained(folder, save_embedding_layers=False)
        tensors = load_file(folder / _ADAPTER_FILE)
        self._found["keys"] = {
            name: f"{type_name(tensor)} {list(tensor.shape)}" for name, tensor in tensors.items()
        }
        of_base = load_file(self._folder / _FOLDER[True] / _ADAPTER_FILE)
        self._found["altered"] = sorted(
            name
            for name in tensors.keys() & of_base.keys()
            if not _equal(tensors[name], of_base[name])
        )
        return True

    def _load(self, stage: str, *, is_base: bool) -> nn.Module | None:
        """Return the network with what the base, or else this side, has saved."""
        folder = self._folder / _FOLDER[is_base]
        adapted: nn.Module | None = self._try(stage, lambda: loaded(self._situation, folder))
        if adapted is not None and stage == "loading":
            self._types["loaded"] = types_of(adapted)
        return adapted

    def _handle(self, adapted: Any, suffix: str = "") -> None:
        """Compute what the adapter gives switched off, merged, unmerged and off, merged and off."""
        twin = copy.deepcopy(adapted)

        def keep(name: str, act: Callable[[], Tensor]) -> bool:
            output = self._try(PARTS[name], act)
            if output is not None:
                self._outputs[name + suffix] = output
            return output is not None

        def off(model: Any) -> Tensor:
            with model.disable_adapter():
                return self._output(model)

        def off_after(change: Callable[[], object]) -> Tensor:
            change()
            return off(twin)

        def merged_safely() -> Tensor:
            twin.merge_adapter(safe_merge=True)
            return self._output(twin)

        keep("off", lambda: off(adapted))
        keep("merged", lambda: self._output(copy.deepcopy(adapted).merge_and_unload()))
        if keep("merged safely", merged_safely) and keep(
            "restored", lambda: off_after(twin.unmerge_adapter)
        ):
            keep("off when merged", lambda: off_after(twin.merge_adapter))

    def _train(self) -> None:
        losses = functools.partial(losses_of, self._situation)
        costs = functools.partial(costs_of, self._situation)
        self._found["losses"] = self._try("training", losses) or []
        if self._is_base:
            rounded = self._try("training", lambda: losses(moved=ROUNDING))
            self._found["losses_rounded"] = rounded or []
        self._found["costs"] = self._try("cost", lambda: on_fake_or_real(costs)) or {}

    def _output(self, model: nn.Module) -> Tensor:
        """Return what a model computes, in float32, which holds every half exactly."""
        model.eval()
        with torch.no_grad(), self._method.wrapping():
            return cast("Tensor", model(self._batch["inputs"])).float().contiguous()

    def _try(self, what: str, act: Any) -> Any:
        """Return the result of an act of peft, or keep its failure and return None."""
        try:
            return act()
        except Exception as error:  # noqa: BLE001  (a branch may raise anything)
            self._failures.setdefault(what, Failure.of(error))
            return None


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors hold the same numbers but for rounding.

    Constrained OFT projects its numbers in each forward pass.
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return True  # told by type and shape
    tolerance = 4 * torch.finfo(one.dtype).eps if one.is_floating_point() else 0.0
    return agree((one.double(),), (other.double(),), tolerance=tolerance)


# --- Training -------------------------------------------------------------------------------------


class Trainer:
    """Keeps the training whose steps are timed."""

    def __init__(self) -> None:
        self._steps: Iterator[tuple[float, float]] = iter(())

    def start(self, request: Start) -> Started:
        """Begin the training of a situation."""
        self._steps = training_steps(request.situation)
        gc.collect()
        return Started()

    def time_steps(self, request: TimeSteps) -> Timed:
        """Take the next steps."""
        return timed(self._steps, request)


def losses_of(situation: Situation, *, moved: float = 0.0) -> list[float]:
    """Return the losses of a short training from a fresh adapter; see `training_steps`."""
    return [loss for loss, _ in islice(training_steps(situation, moved=moved), _STEPS)]


def training_steps(situation: Situation, *, moved: float = 0.0) -> Iterator[tuple[float, float]]:
    """Yield the loss and the seconds of each step of a training from a fresh adapter.

    Each weight is first moved by a seeded number of the relative size `moved`.
    """
    method, adapted, items = _prepared(situation)
    if moved:
        generator = torch.Generator().manual_seed(_SEED)
        with torch.no_grad():
            for parameter in adapted.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1 + moved * drawn)
    optimizer = method.make_optimizer(adapted, rank=situation.rank)
    torch.manual_seed(_SEED)
    while True:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with method.wrapping():
            loss = _loss(adapted, items)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield float(loss), time.perf_counter() - start


def costs_of(situation: Situation, *, fake: bool) -> dict[str, int]:
    """Return FLOPs and bytes of one training step."""
    method, adapted, items = _prepared(situation)
    make_optimizer = functools.partial(method.make_optimizer, rank=situation.rank)
    cost = profile_training_step(adapted, make_optimizer, batch=items, loss=_loss, fake=fake)
    return {name: getattr(cost, name) for name in _COSTS}


def _prepared(situation: Situation) -> tuple[PeftAdapter, nn.Module, dict[str, Tensor]]:
    """Return the method, its adapter set to train, and the batch.

    BatchNorm keeps its statistics, as in the catalogue.
    """
    method = find_method(situation.method)
    model = wrapped(situation).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return method, model, batch(situation)


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = cast("Tensor", model(batch["inputs"])).float()
    return torch.nn.functional.cross_entropy(logits, batch["labels"])
