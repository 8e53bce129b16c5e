"""Carry out one situation in a worker: wrap, fill, compute, merge, save, load, train, price."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from peft_fuzz.checklist import situations
from peft_fuzz.checklist.networks import batch, fill, loaded, network, wrapped
from peft_fuzz.checklist.situations import Examine, Examined, Inspected, Situation
from peft_regress.measure.training import single_thread
from peft_regress.runs.environment import installed_packages
from peft_regress.runs.schema import Failure
from peft_regress.workers.pool import Environment, Seat
from peft_regress.workers.worker import WorkerError

_ADAPTER_FILE: Final = "adapter_model.safetensors"
_FOLDER: Final = {True: "adapter", False: "adapter-of-branch"}
_WANTED_EFFECT: Final = 0.2
"""How much an adapter moves the outputs at least, as a share of the largest: four times the widest
bound, that of bfloat16."""
_TIMES: Final = (1, 2, 4, 8, 16)
"""How much larger than usual the numbers of an adapter are, until it moves the outputs so much."""
_STEPS: Final = 8
_SEED: Final = 0


# --- Beside the worker ----------------------------------------------------------------------------


def inspect(seat: Seat, environment: Environment, request: situations.Inspect) -> Inspected:
    """Ask for the fields of a method's configuration with their defaults."""
    return seat.worker(environment).ask(f"{__name__}:inspected", request, Inspected)


def examine(seat: Seat, environment: Environment, request: Examine) -> Examined:
    """Ask what a situation gives; a worker that is lost costs this situation alone."""
    worker = seat.worker(environment)
    try:
        return worker.ask(f"{__name__}:examined", request, Examined)
    except WorkerError as error:
        if seat.is_stopped:
            raise
        worker.kill()
        return Examined(lost=str(error).removeprefix(f"{worker.interpreter}: "))


# --- In the worker --------------------------------------------------------------------------------


def inspected(request: situations.Inspect) -> Inspected:
    """Return the fields of a method's configuration with their defaults."""
    config = getattr(import_module("peft"), situations.find_method(request.method).config, None)
    fields = None
    if config is not None:
        fields = {one.name: _default(one) for one in dataclasses.fields(config)}
    return Inspected(packages=installed_packages(), fields=fields)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "none"


def examined(request: Examine) -> Examined:
    """Compute what a situation gives on one side, and write the outputs into its folder."""
    with single_thread(), warnings.catch_warnings():
        # Nobody reads them here, and peft warns at each layer.
        warnings.simplefilter("ignore")
        return _Side(request).examined()


class _Side:
    def __init__(self, request: Examine) -> None:
        self._situation = request.situation
        self._is_base = request.is_base
        self._folder = Path(request.folder)
        self._method = situations.find_method(request.situation.method)
        self._outputs: dict[str, Tensor] = {}
        self._failures: dict[str, Failure] = {}
        self._found: dict[str, Any] = {}
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
        save_file(self._outputs, self._folder / situations.OUTPUTS.format(side))
        if self._situation.trains and "adapting" not in self._failures:
            losses = self._try("training", lambda: losses_of(self._situation))
            self._found["losses"] = losses or []
        return Examined(failures=self._failures, **self._found)

    def _make(self) -> None:
        """Save a fresh adapter with numbers in it, and load it again, as the branch does."""
        filled = self._try("adapting", self._filled)
        if filled is None or self._try("adapting", lambda: self._save(filled)) is None:
            return
        self._load("loading", is_base=True)

    def _take_over(self) -> None:
        """Load the adapter of the base, save it, and load that again."""
        taken = self._load("loading", is_base=True)
        if taken is None:
            return
        if self._try("reloading", lambda: self._save(taken)):
            again = self._try("reloading", lambda: self._loaded(is_base=False))
            if again is not None:
                self._outputs["reloaded"] = self._output(again)

    def _filled(self) -> nn.Module:
        """Return an adapter that moves the outputs clearly, by the smallest numbers that do."""
        best: tuple[float, nn.Module] | None = None
        for times in _TIMES:
            adapted = wrapped(self._situation)
            fill(adapted, self._situation, times=times)
            output = self._output(adapted)
            with cast("Any", adapted).disable_adapter():
                effect = float((output - self._output(adapted)).abs().max())
            share = effect / float(output.abs().max())
            # The first one counts even if it has no finite output; so does the larger of two.
            if best is None or share > best[0]:
                best = share, adapted
                self._found["effect"] = effect
            if not share < _WANTED_EFFECT:  # also for NaN
                break
        assert best is not None  # noqa: S101  (there is a first one)
        return best[1]

    def _save(self, adapted: nn.Module) -> bool:
        folder = self._folder / _FOLDER[self._is_base]
        cast("Any", adapted).save_pretrained(folder, save_embedding_layers=False)
        tensors = load_file(folder / _ADAPTER_FILE)
        self._found["keys"] = {
            name: f"{str(tensor.dtype)[6:]} {list(tensor.shape)}"
            for name, tensor in tensors.items()
        }
        return True

    def _loaded(self, *, is_base: bool) -> nn.Module:
        return loaded(self._situation, self._folder / _FOLDER[is_base])

    def _load(self, stage: str, *, is_base: bool) -> Any:
        """Compute what a saved adapter gives: on, off, merged, unmerged and off, merged and off."""
        adapted: Any = self._try(stage, lambda: self._loaded(is_base=is_base))
        if adapted is None:
            return None
        self._outputs["unmerged"] = self._output(adapted)
        twin: Any = copy.deepcopy(adapted)

        def keep(name: str, act: Callable[[], Tensor]) -> bool:
            output = self._try(situations.PARTS[name], act)
            if output is not None:
                self._outputs[name] = output
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
        return adapted

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


def losses_of(situation: Situation) -> list[float]:
    """Return the losses of a short training from a fresh adapter."""
    method, adapted = situations.find_method(situation.method), wrapped(situation).train()
    items = batch(situation)
    optimizer = method.at(situation.rank).make_optimizer(adapted)
    torch.manual_seed(_SEED)
    losses = []
    for _ in range(_STEPS):
        optimizer.zero_grad(set_to_none=True)
        with method.wrapping():
            logits = cast("Tensor", adapted(items["inputs"])).float()
            loss = torch.nn.functional.cross_entropy(logits, items["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss))
    return losses
