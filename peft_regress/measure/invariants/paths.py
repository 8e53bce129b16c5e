"""One filled adapter, whichever way its model is run, named, merged or unloaded: one output.

A way to run a model says something of the adapter where the base computes its own output that way.
What peft refuses does not apply.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from peft_regress.catalogue.methods.method import Method
from peft_regress.cost.batches import batch_as, leaves_of
from peft_regress.measure.float64 import float64
from peft_regress.measure.invariants import facts, outputs, tuner
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.filled import FILL_SEEDS, Filled
from peft_regress.measure.invariants.outputs import Outputs, agree
from peft_regress.measure.invariants.probe import LayerOutputs, Probe, channels_last
from peft_regress.measure.invariants.tuner import SECOND
from peft_regress.measure.objective import Context, evaluated
from peft_regress.measure.training import device_of, undisturbed

_TRAINING: Final = "in training mode"
_NO_ADAPTER: Final = "__base__"  # peft's name of it, for a row of a batch
_REFUSALS: Final = (NotImplementedError, TypeError, ValueError)


class _Way(NamedTuple):
    name: str
    model: Callable[[], nn.Module]
    wanted: Outputs
    layers: Callable[[], LayerOutputs]
    """What the layers compute where the output is as wanted."""
    how: Context | None = None
    tolerance: float = outputs.MERGE_TOLERANCE
    refusals: tuple[type[Exception], ...] = ()
    """What peft raises if this adapter does not have the way."""
    part: Callable[[Outputs], Outputs] = tuple
    """Takes what is compared."""

    def may_be_rounding(self, probe: Probe) -> bool:
        """Return whether bfloat16's rounding alone may move the output beyond the tolerance.

        It is 2^16 times that of float32, which the model in float64 shows.
        """
        model = copy.deepcopy(self.model()).double()
        batch = batch_as(torch.float64, probe.batch)
        with float64():
            exact = facts.attempt(lambda: probe.objective.outputs(model, batch))
        return exact is not None and not agree(self.wanted, exact, tolerance=self.tolerance / 2**16)


@undisturbed()
def paths_agree(filled: Filled, of_base: Outputs, adapter: Method) -> dict[str, Fact]:
    """Compare each way with what the filled adapter, or the base, computes in eval mode."""
    probe, model = filled.probe, copy.deepcopy(filled.model)
    base, _ = outputs.in_float32(probe.base, probe.batch)
    wanted = probe.outputs(model)
    ways = [
        _Way(name, lambda: model, wanted, lambda: probe.layers(model), how, tolerance)
        for name, (how, tolerance) in _HOW.items()
        if _is_of_base(probe, base, of_base, how, tolerance)
    ]
    off = facts.null("wrapping alters the base's weights or layers").fact
    if adapter.keeps_base:
        way = _Way("off", lambda: model, of_base, lambda: probe.layers(base))
        how = _off(adapter, evaluated)
        off = _walked(probe, way._replace(how=how, tolerance=outputs.IDENTITY_TOLERANCE))
        if any(way.name == _TRAINING for way in ways):
            ways.append(way._replace(name=f"off {_TRAINING}", how=_off(adapter, _training)))
    with tuner.quiet():
        # Making them, too, the library may raise.
        made = facts.judged(ways.extend)(_of_peft(filled, model, wanted, of_base, adapter))
        found = {way.name: _walked(probe, way) for way in ways}
    if not made.holds:
        found["merged, or beside a second adapter"] = made
    return {"disabled_equals_base": off, "paths_agree": _all_of(found)}


def _all_of(found: Mapping[str, Fact]) -> Fact:
    wrong = {name: fact for name, fact in found.items() if fact.holds is False}
    if not wrong:
        applies = any(fact.holds for fact in found.values())
        none = facts.null("the base computes something else in each way").fact
        return Fact(holds=True) if applies else none
    first, fact = next(iter(wrong.items()))
    note = f"{first}, {fact.note}" + (f"; {facts.listed([*wrong])}" if len(wrong) > 1 else "")
    return facts.false(note, tensors=[*wrong], size=fact.defect.size).fact


@facts.judged
def _walked(probe: Probe, way: _Way) -> None:
    with facts.refused("peft refuses it", *way.refusals):
        model = way.model()
        state = torch.get_rng_state()
        found = way.part(probe.outputs(model, way.how))
    drawn = not torch.equal(torch.get_rng_state(), state)
    if agree(found, way.wanted, tolerance=way.tolerance):
        return
    if drawn:
        raise facts.null("it draws random numbers")
    if way.tolerance == outputs.AUTOCAST_TOLERANCE and way.may_be_rounding(probe):
        raise facts.null("rounding to bfloat16 alone may change as much")

    def layers() -> tuple[LayerOutputs, LayerOutputs]:
        return probe.layers(model, way.how), way.layers()

    probe.check_same(found, way.wanted, tolerance=way.tolerance, layers=layers)


def _within(*contexts: Callable[[nn.Module], AbstractContextManager[Any]]) -> Context:
    @contextmanager
    def how(model: nn.Module) -> Iterator[None]:
        with ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context(model))
            yield

    return how


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Put a model in training mode, but for BatchNorm and dropout."""
    with evaluated(model):
        model.train()
        for module in model.modules():
            if isinstance(module, _BatchNorm) or hasattr(module, "p"):
                module.eval()
        yield


def _called(change: Callable[[Any], Any], **more: Any) -> Context:
    """Return a context that changes the arguments of a model's calls."""

    @contextmanager
    def how(model: nn.Module) -> Iterator[None]:
        hook = model.register_forward_pre_hook(
            lambda _, args, kwargs: (change(args), {**change(kwargs), **more}), with_kwargs=True
        )
        with hook, evaluated(model), torch.no_grad():
            yield

    return how


def _off(adapter: Method, mode: Context) -> Context:
    def disabled(model: nn.Module) -> AbstractContextManager[None]:
        found = adapter.disabled(model)
        assert found is not None  # noqa: S101  (only an adapter that can be off is filled)
        return found

    return _within(mode, disabled, lambda _: torch.no_grad())


_HOW: Final[dict[str, tuple[Context, float]]] = {
    "with gradients": (_within(evaluated, lambda _: torch.enable_grad()), outputs.MERGE_TOLERANCE),
    "without gradients": (_within(evaluated, lambda _: torch.no_grad()), outputs.MERGE_TOLERANCE),
    _TRAINING: (_within(_training, lambda _: torch.enable_grad()), outputs.MERGE_TOLERANCE),
    "on images channels last": (_called(channels_last), outputs.MERGE_TOLERANCE),
    "under autocast": (
        _within(
            evaluated,
            lambda _: torch.no_grad(),
            lambda model: torch.autocast(device_of(model).type, torch.bfloat16),
        ),
        outputs.AUTOCAST_TOLERANCE,
    ),
}


def _is_of_base(
    probe: Probe, base: nn.Module, of_base: Outputs, how: Context, tolerance: float
) -> bool:
    found = facts.attempt(lambda: probe.outputs(base, how))
    return found is not None and agree(found, of_base, tolerance=tolerance)


def _of_peft(
    filled: Filled, model: Any, wanted: Outputs, of_base: Outputs, adapter: Method
) -> Iterator[_Way]:
    probe = filled.probe
    if not tuner.layers_of(model):
        return

    def of_copy(
        name: str,
        make: Callable[[Any], nn.Module],
        wanted: Outputs = wanted,
        like: Any = model,
    ) -> _Way:
        return _Way(
            name,
            lambda: make(copy.deepcopy(model)),
            wanted,
            lambda: probe.layers(like),
            refusals=_REFUSALS,
        )

    # What merging computes is a matter of `merge_equals_unmerged`.
    merged = facts.attempt(lambda: copy.deepcopy(model).merge_and_unload())
    if merged is not None:
        yield of_copy(
            "merged safely",
            lambda copied: copied.merge_and_unload(safe_merge=True),
            probe.outputs(merged),
            merged,
        )._replace(refusals=())
    if not adapter.keeps_base:  # nor does adding another
        return
    if hasattr(model, "unload") and not filled.copies:  # it keeps copies of whole modules
        yield of_copy("unloaded", lambda copied: copied.unload(), of_base, probe.base)
    if hasattr(model, "add_weighted_adapter") and all(".lora_" in n for n in filled.parameters):
        yield of_copy("as a weighted adapter", _weighted)
    count = next((len(leaf) for leaf in leaves_of(probe.batch) if leaf.ndim), 0)
    if count and hasattr(model.base_model, "_enable_peft_forward_hooks"):
        yield from _by_row(filled, wanted, of_base, count)


def _weighted(model: Any) -> nn.Module:
    model.add_weighted_adapter([model.active_adapter], [1.0], SECOND, combination_type="linear")
    model.set_adapter(SECOND)
    return cast("nn.Module", model)


def _by_row(filled: Filled, wanted: Outputs, of_base: Outputs, count: int) -> Iterator[_Way]:
    """Yield the ways of a batch that names an adapter for each of its rows: one, and several."""
    probe = filled.probe
    model: Any = copy.deepcopy(filled.model)
    first = str(model.active_adapter)
    computed = {first: wanted, _NO_ADAPTER: of_base}
    facts.attempt(lambda: tuner.add_second(model))
    added = {name: part for name, part in model.named_parameters() if f".{SECOND}" in name}
    if added:
        filled.draw(added, seed=len(FILL_SEEDS))
        model.set_adapter(SECOND)
        computed[SECOND] = probe.outputs(model)
        model.set_adapter(first)

    def rows(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensor[row] for row, tensor in enumerate(tensors)])

    def whole(found: Outputs) -> Outputs:
        return tuple(tensor for tensor in found if tensor.ndim and len(tensor) == count)

    def layers_of(names: Sequence[str]) -> LayerOutputs:
        layers = {_NO_ADAPTER: probe.layers(probe.base)}
        for name in computed.keys() - {_NO_ADAPTER}:
            model.set_adapter(name)
            layers[name] = probe.layers(model)
        model.set_adapter(first)
        return {
            layer: rows([layers[name][layer] for name in names])
            for layer in layers[first]
            if all(len(layers[name].get(layer, ())) == count for name in names)
        }

    for way, names in (("named for each row", [first]), ("in a mixed batch", [*computed])):
        each = list(itertools.islice(itertools.cycle(names), count))
        yield _Way(
            way,
            lambda: model,
            tuple(map(rows, zip(*(whole(computed[name]) for name in each), strict=True))),
            functools.partial(layers_of, each),
            _called(lambda given: given, adapter_names=each),
            refusals=_REFUSALS,
            part=whole,
        )
