"""A life: the adapted model, beside what it must be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from peft_fuzz.methods import Method
from peft_fuzz.networks import build
from peft_fuzz.networks.network import AdaptedNetwork
from peft_fuzz.oracle import expected, library, owned
from peft_fuzz.oracle.bounds import FUNCTION, HALF, UNKNOWN_TERMS, apart, overflows
from peft_fuzz.oracle.checks import AbsentError, fail
from peft_fuzz.oracle.plan import Plan

FILL: Final = 0.3
"""Standard deviation of what `fill` adds: as large as the weights of a small layer."""
TOO_SMALL: Final = 1e-6


class Life:
    """The state of a life.

    Attributes:
        origin: The network without adapters, as it was, in its present dtype.
        reference: The same with the biases that adapters have trained (`bias` of some methods).
        merged_size: The largest entry that a base weight had while adapters were merged into it.
        replaced: The reference's weights before what unmerging gave back was taken for them.
        known: What the model returned for adapters in effect since their parameters changed.
    """

    def __init__(self, on: AdaptedNetwork, method: Method, folder: Path, *, autocast: bool) -> None:
        self.on = on
        self.method = method
        self.folder = folder
        self.autocast = autocast
        self.saves = 0
        if not build.runs(on.network):
            raise AbsentError("the network does not run without an adapter")
        self.origin: nn.Module = build.build(on.network)
        self.reference: nn.Module = deepcopy(self.origin)
        self.x = build.make_input(on.network)
        self.known: dict[tuple[str, ...], Tensor] = {}
        self.merged_size: dict[str, float] = {}
        self.replaced: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.optimized: frozenset[str] = frozenset()
        self.plan = Plan.start(on, method.abilities)
        self.renew_oracle()
        self.model: Any = None
        self.check_base()

    def renew_oracle(self) -> None:
        """Make the oracle of the present reference."""
        self.oracle = expected.Oracle(self.reference, self.x)

    def check_base(self) -> None:
        """Raise AbsentError if the network itself does not run here (half precision)."""
        try:
            with torch.no_grad():
                self.start = self.origin(self.x)
        except (RuntimeError, ValueError) as error:
            message = f"the network does not run without an adapter: {error}"
            raise AbsentError(message) from error

    def wrap(self) -> None:
        """Put the first adapter on the network."""
        import peft

        first = self.on.adapters[0]
        torch.default_generator.manual_seed(self.on.network.seed)
        config = library.configuration(self.method, first.settings)
        keywords: Any = library.autocast_argument(peft.get_peft_model, autocast=self.autocast)
        origin = deepcopy(self.origin)
        self.model = peft.get_peft_model(origin, config, adapter_name=first.name, **keywords)
        self.model.eval()
        self.adopt_base(first.name)

    # What the model has.

    def holders(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the layers with adapters and the holders of copies, by their paths."""
        return owned.holders(self.model)

    def held(self, adapter: str) -> Iterator[tuple[str, str, Tensor]]:
        """Yield the path of its layer, the name in it and the tensor for each of an adapter."""
        for path, module in self.holders():
            for key, tensor in owned.held(module, adapter).items():
                yield path, key, tensor

    def owners(self) -> dict[int, str]:
        """Return the name of the adapter that has a tensor, by the tensor's id."""
        return owned.owners(self.model)

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of all tensors of the model."""
        tensors = owned.all_tensors(self.model).items()
        return {name: tensor.detach().clone() for name, tensor in tensors}

    def changed_since(self, before: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that are not as they were; not those that are new."""
        for name, tensor in owned.all_tensors(self.model).items():
            if name in before and not (
                tensor.shape == before[name].shape
                and tensor.dtype == before[name].dtype
                and torch.equal(tensor, before[name])
            ):
                yield name, tensor

    def base_layers(self) -> list[tuple[str, nn.Module]]:
        """Return the layers of the network, out of what wraps them, by their paths."""
        adapted = self.model.get_base_model()
        return [
            (layer.name, owned.base_layer(adapted.get_submodule(layer.name)))
            for layer in self.on.network.layers
            if layer.same_as is None
        ]

    def trainable_tensors(self) -> list[Tensor]:
        """Return what must train now: the trainable adapters' parameters and the base's biases."""
        return [tensor for tensor in self.model.parameters() if tensor.requires_grad]

    def filled(self) -> list[Tensor]:
        """Return what filling is about: what trains of the active adapters, and the base's biases.

        What wrongly trains beside it, such as AdaLoRA's `ranknum`, is for another check.
        """
        owners, acting = self.owners(), {None, *self.plan.active}
        wrong = {
            id(tensor)
            for _, module in self.holders()
            if self.method.trains and owned.is_tuner_layer(module)
            for name in self.plan.active
            for key, tensor in owned.held(module, name).items()
            if not key.startswith(self.method.trains)
        }
        return [
            tensor
            for tensor in self.trainable_tensors()
            if owners.get(id(tensor)) in acting and id(tensor) not in wrong
        ]

    def all_empty(self) -> bool:
        """Return whether the active adapters have parameters, and none holds a number."""
        sizes = [
            tensor.numel()
            for name in self.plan.active
            for _, _, tensor in self.held(name)
            if isinstance(tensor, nn.Parameter)
        ]
        return bool(sizes) and not any(sizes)

    def draws(self) -> bool:
        """Return whether dropout of an active adapter draws random numbers now."""
        settings = [self.plan.settings[name] for name in self.plan.active]
        return self.plan.training and any(
            self.method.holds(self.method.random, each) for each in settings
        )

    # What it computes, and must compute.

    def observe(self) -> Tensor:
        """Return the model's output in evaluation mode; the modes are as before afterwards."""
        with torch.no_grad():
            return self.called()

    def called(self) -> Tensor:
        """Return the same with the graph of its gradients."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            output: Tensor = self.model(self.x)
        finally:
            for module, training in modes:
                module.training = training
        return output

    def parameters(self, effect: Sequence[str]) -> dict[str, Tensor] | None:
        """Return the base's parameters that adapters change, by the formula; None if unknown."""
        return expected.parameters(self.oracle, self.model, self.plan, self.method, effect)

    def output_with_copies(self) -> Tensor | None:
        """Return the output of the base with the active adapters' copies of whole layers.

        None with copies beside a shared module: whether each use of it has the copy is not
        documented.
        """
        found: dict[str, Tensor] = {}
        for layer in self.on.network.layers:
            module = self.model.get_base_model().get_submodule(layer.name)
            if owned.is_copy_holder(module):
                found |= expected.copied(module, layer.name, self.plan.active)
        if found and self.on.network.shares_a_module:
            return None
        return self.oracle.output(found)

    def reweighted(self, adapters: Sequence[str]) -> dict[str, Tensor]:
        """Return other weights of the layers that adapters are on."""
        layers = {layer for name in adapters for layer in self.plan.targets(name)}
        return {
            name: value.detach() * 1.5
            for name, value in self.oracle.base.named_parameters()
            if name.rpartition(".")[0] in layers and name.endswith("weight")
        }

    def weights_matter(self, adapter: str) -> bool:
        """Return whether other weights of an adapter's layers would change the output.

        They do not where a kernel meets padding alone: then there is no gradient, either.
        """
        base = self.oracle.output()
        other = self.oracle.output(self.reweighted([adapter]))
        return apart(other, base) > TOO_SMALL * float(base.abs().max())

    def compare(  # noqa: PLR0913
        self,
        output: Tensor,
        wanted: Tensor,
        check: str,
        what: str,
        *,
        parameters: Mapping[str, Tensor] | None = None,
        slack: float = 4.0,
    ) -> None:
        """Raise NotHeldError if two outputs are further apart than rounding allows.

        `parameters` tell how large the terms are; `slack` is how much larger than the output they
        may be without them.
        """
        distance = apart(output, wanted)
        relative = FUNCTION[output.dtype] * (1 + self.plan.unmerged)
        if parameters is None and self.plan.unmerged and output.dtype not in HALF:
            relative *= UNKNOWN_TERMS
        largest = float(wanted.abs().max())
        if distance <= relative * largest:
            return
        size = max(slack * largest, self.oracle.magnitude(parameters))
        bound = relative * size
        if distance <= bound or overflows(size, output.dtype):
            return
        if output.shape != wanted.shape:
            fail(
                check, f"The output is {tuple(output.shape)}, but {tuple(wanted.shape)} of {what}."
            )
        fail(
            check,
            f"The output differs from that of {what} by {distance:.1e} of {largest:.1e}; "
            f"rounding allows {bound:.1e}.",
        )

    # What acts do.

    def forget(self, *names: str) -> None:
        """Forget the outputs that changed adapters took part in."""
        self.known = {key: out for key, out in self.known.items() if not {*key} & {*names}}

    def save(self, adapters: list[str] | None = None) -> Path:
        """Save adapters into a new folder."""
        self.saves += 1
        folder = self.folder / str(self.saves)
        library.save(self.model, folder, adapters)
        return folder

    def fill(self, tensors: list[Tensor], seed: int) -> None:
        """Add seeded numbers to tensors."""
        generator = torch.Generator().manual_seed(1000 + seed)
        with torch.no_grad():
            for tensor in tensors:
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape, generator=generator) * FILL
                    tensor.add_(noise.to(tensor.dtype))
        self.adopt_biases()

    def adopt_base(self, name: str) -> None:
        """Take over the base weights if an adapter's method changes them at the start."""
        if self.method.holds(self.method.same_base, self.plan.settings.get(name) or {}):
            return
        with torch.no_grad():
            for path, module in self.base_layers():
                self.reference.get_submodule(path).load_state_dict(module.state_dict())
        self.known.clear()
        self.renew_oracle()

    def adopt_biases(self) -> None:
        """Take over the biases of the base that adapters train."""
        if not self.plan.has_bias:
            return
        with torch.no_grad():
            for path, module in self.base_layers():
                mine = dict(self.reference.get_submodule(path).named_parameters())
                for name, tensor in module.named_parameters():
                    if name in mine and name.endswith("bias"):
                        mine[name].copy_(tensor)
                        self.replaced.pop(f"{path}.{name}", None)
        self.known.clear()
        self.renew_oracle()

    def give_back_weights(self) -> None:
        """Take the weights of a fresh base, in place of those that unmerging had rounded."""
        if not self.replaced:
            return
        with torch.no_grad():
            for where, weight in self.replaced.items():
                self.reference.get_parameter(where).copy_(weight)
        self.replaced.clear()
        self.renew_oracle()
        if next(self.reference.parameters()).dtype not in HALF:
            self.known.clear()  # of the rounded weights
