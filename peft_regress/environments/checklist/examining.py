"""Carry out one situation: wrap, fill, compute, merge, save, load, train, price."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import re
import time
import warnings
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.batchnorm import _BatchNorm

from peft_regress.catalogue.methods.adapter_shapes import ADAPTER
from peft_regress.cost import profile_training_step
from peft_regress.cost.measuring import on_fake_or_real
from peft_regress.environments.checklist import networks
from peft_regress.environments.checklist.messages import Examined, Inspected
from peft_regress.environments.checklist.situations import find_method
from peft_regress.errors import UnsupportedCaseError
from peft_regress.measure.training import single_thread
from peft_regress.runs.schema import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from peft_regress.catalogue.methods import PeftAdapter
    from peft_regress.environments.checklist.messages import Examine, Inspect, Situation

OUTPUTS: Final = "outputs-{}.safetensors"
_ADAPTER_FILE: Final = "adapter_model.safetensors"
_STEPS: Final = 8
_SEED: Final = 0
_ROUNDING: Final = 1e-7
"""Of a float32, relative: as much as another order of the same sums moves a number."""
# Enough to move the logits by about as much as they are: an architecture has twenty layers.
_SPREAD: Final = {True: 0.1, False: 1.0}
_SCALE_SPREAD: Final = 0.1
_COSTS: Final = ("forward_flops", "backward_flops", "peak_bytes")


def inspect_method(request: Inspect) -> Inspected:
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

    The base fills a fresh adapter, saves it, and also loads it again; the other side loads it.
    Failures of peft are part of the answer.
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
        self._batch = networks.batch(
            request.situation.network, getattr(torch, request.situation.dtype)
        )

    def examined(self) -> Examined:
        unavailable = self._unavailable()
        if unavailable:
            return Examined(unavailable=unavailable)
        effect, keys = 0.0, {}
        made = self._try("adapting" if self._is_base else "loading", self._made)
        if made is not None:
            adapted, effect, keys = made
            self._merge(adapted, "merged")
        if made is not None and self._is_base:
            # What the base itself makes of its checkpoint: no release is asked for more.
            again = self._try("loading", self._loaded)
            if again is not None:
                self._outputs["unmerged_again"] = self._output(again)
                self._merge(again, "merged_again")
        side = "base" if self._is_base else "branch"
        save_file(self._outputs, self._folder / OUTPUTS.format(side))
        trained = self._trained()
        return msgspec.structs.replace(trained, failures=self._failures, keys=keys, effect=effect)

    def _unavailable(self) -> str:
        """Return why the network without an adapter cannot compute here; empty if it can."""
        try:
            self._output(_network(self._situation))
        except RuntimeError as error:
            return f"{self._situation.dtype}: {error}"
        return ""

    def _made(self) -> tuple[nn.Module, float, dict[str, str]]:
        if self._is_base:
            adapted = wrapped(self._situation, self._method)
            is_architecture = networks.is_architecture(self._situation.network)
            _fill(adapted, self._method.scales, spread=_SPREAD[is_architecture])
        else:
            adapted = self._loaded()
        self._outputs["unmerged"] = self._output(adapted)
        with cast("Any", adapted).disable_adapter():
            without = self._output(adapted)
        effect = float((self._outputs["unmerged"] - without).abs().max())
        return adapted, effect, self._saved(adapted)

    def _saved(self, adapted: nn.Module) -> dict[str, str]:
        """Save the adapter as peft does; return type and shape of each tensor."""
        folder = self._folder / ("adapter" if self._is_base else "adapter-of-branch")
        cast("Any", adapted).save_pretrained(folder, save_embedding_layers=False)
        tensors = load_file(folder / _ADAPTER_FILE)
        return {
            name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
            for name, tensor in tensors.items()
        }

    def _merge(self, adapted: nn.Module, name: str) -> None:
        merged = self._try(
            "merging", lambda: self._output(copy.deepcopy(cast("Any", adapted)).merge_and_unload())
        )
        if merged is not None:
            self._outputs[name] = merged

    def _trained(self) -> Examined:
        if not self._situation.trains or "adapting" in self._failures:
            return Examined()
        losses = self._try("training", self._losses)
        rounded = self._try("training", lambda: self._losses(_ROUNDING)) if self._is_base else None
        costs = self._try("cost", lambda: on_fake_or_real(self._costs))
        return Examined(losses=losses or [], losses_rounded=rounded or [], costs=costs or {})

    def _losses(self, moved: float = 0.0) -> list[float]:
        steps = training_steps(self._situation, moved=moved)
        return [loss for loss, _ in islice(steps, _STEPS)]

    def _costs(self, *, fake: bool) -> dict[str, int]:
        cost = profile_training_step(
            _set_to_train(wrapped(self._situation, self._method)),
            lambda model: self._method.make_optimizer(model, rank=self._situation.rank),
            batch=self._batch,
            loss=_loss,
            fake=fake,
        )
        return {name: getattr(cost, name) for name in _COSTS}

    def _loaded(self) -> nn.Module:
        peft = import_module("peft")
        with self._method.wrapping(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            loaded = peft.PeftModel.from_pretrained(
                _network(self._situation),
                self._folder / "adapter",
                adapter_name=ADAPTER,
                **_autocast(peft.PeftModel.from_pretrained, self._situation),
            )
        return cast("nn.Module", loaded.eval())

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


def wrapped(situation: Situation, method: PeftAdapter) -> nn.Module:
    """Return a network with a fresh adapter.

    Raises `UnsupportedCaseError` if peft lacks the method or the network a target, and what peft
    raises.
    """
    peft = import_module("peft")
    make_config = getattr(peft, method.config, None)
    if make_config is None:
        msg = f"peft {peft.__version__} has no {method.config}"
        raise UnsupportedCaseError(msg)
    model = _network(situation)
    names = networks.targets(situation.network, model, method)
    config = make_config(target_modules="|".join(map(re.escape, names)), **situation.settings)
    with torch.random.fork_rng(devices=[]), method.wrapping():
        torch.manual_seed(_SEED)
        adapted = peft.get_peft_model(
            model, config, adapter_name=ADAPTER, **_autocast(peft.get_peft_model, situation)
        )
    if method.frozen is not None:
        for name, parameter in adapted.named_parameters():
            if method.frozen in name:
                parameter.requires_grad = False
    return cast("nn.Module", adapted)


def training_steps(situation: Situation, *, moved: float = 0.0) -> Iterator[tuple[float, float]]:
    """Yield the loss and the seconds of each step of a training from a fresh adapter.

    Each weight is first moved by a seeded number of the relative size `moved`.
    """
    method = find_method(situation.method)
    adapted = _set_to_train(wrapped(situation, method))
    if moved:
        generator = torch.Generator().manual_seed(_SEED)
        with torch.no_grad():
            for parameter in adapted.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.mul_(1 + moved * drawn)
    batch = networks.batch(situation.network, getattr(torch, situation.dtype))
    optimizer = method.make_optimizer(adapted, rank=situation.rank)
    torch.manual_seed(_SEED)
    while True:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with method.wrapping():
            loss = _loss(adapted, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield float(loss), time.perf_counter() - start


def _network(situation: Situation) -> nn.Module:
    return networks.build(situation.network).to(getattr(torch, situation.dtype)).eval()


def _autocast(function: Any, situation: Situation) -> dict[str, bool]:
    """Return peft's argument, or nothing where a release has none and casts no adapter."""
    name = "autocast_adapter_dtype"
    if name in inspect.signature(function).parameters:
        return {name: situation.autocast}
    if situation.autocast:
        msg = f"peft {import_module('peft').__version__} has no {name}"
        raise UnsupportedCaseError(msg)
    return {}


def _set_to_train(model: nn.Module) -> nn.Module:
    """Set a model to train; BatchNorm keeps its statistics, as in the catalogue."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def _loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    logits = cast("Tensor", model(batch["inputs"])).float()
    return torch.nn.functional.cross_entropy(logits, batch["labels"])


def _fill(adapted: nn.Module, scales: tuple[str, ...], *, spread: float) -> None:
    """Fill what trains with seeded numbers: most adapters start as zero and would hide an error."""
    generator = torch.Generator().manual_seed(_SEED)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if not parameter.requires_grad:
                continue
            drawn = torch.randn(parameter.shape, generator=generator)
            if any(part in name for part in scales) or "magnitude" in name:
                parameter.mul_((1 + _SCALE_SPREAD * drawn).to(parameter.dtype))
            elif f".{ADAPTER}" in name:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(drawn * spread / math.sqrt(fan_in))
            else:  # a bias of the base
                parameter.add_((_SCALE_SPREAD * drawn).to(parameter.dtype))
