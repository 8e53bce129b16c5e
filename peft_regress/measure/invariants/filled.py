"""The function of an adapter: what it computes after seeded numbers fill its parameters.

Most adapters start as zero, and a few steps move them little. A filled adapter shows what its
library computes: a changed product, a changed scaling, a missing factor.
"""

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from peft_regress.catalogue.methods.method import Method
from peft_regress.errors import FilledLossError
from peft_regress.measure.invariants.outputs import in_float32
from peft_regress.measure.invariants.probe import Probe
from peft_regress.measure.training import threads

FILL_SEEDS: Final = (0, 1, 2)

# Large enough that an adapter moves the logits by about as much as they are, small enough that a
# network of twenty adapted layers does not amplify rounding.
_SPREAD: Final = 0.3
_SCALE_SPREAD: Final = 0.1
_WIDE: Final = 224


class Filled:
    """A copy of an adapted model, in float32, with seeded numbers in its adapter."""

    loss_merged_beside: float | None = None
    """The loss when the adapter was merged while a second one was there, and inactive."""

    def __init__(  # noqa: PLR0913  (the adapter, and what it computes)
        self,
        adapted: nn.Module,
        *,
        adapter: Method,
        probe: Probe,
        wide_probe: Any,
        parameters: Collection[str],
        copies: Collection[str],
    ) -> None:
        """Fill the named parameters once for each seed; the last fill stays.

        copies: those of whole modules that the library trains in place of the originals, filled
        after the adapter's own. wide_probe: what the last fill also computes, by two threads.

        Raises `FilledLossError` if a loss is NaN or infinite.
        """
        copied, (batch, wide_probe) = in_float32(adapted, (probe.batch, wide_probe))
        self.model = copy.deepcopy(copied) if copied is adapted else copied
        self.probe = Probe(base=probe.base, objective=probe.objective, batch=batch)
        self._adapter = adapter
        self.copies = copies
        self.parameters = sorted(parameters)
        self._starts = self._starts_of(self._parameters())
        self.losses = tuple(_finite(self._filled_loss(seed), seed) for seed in FILL_SEEDS)
        """The loss of the probe for each fill; cross-entropy of the float32 logits in float64."""
        with threads(2):
            wide_loss = probe.objective.precise_loss(self.model, wide_probe)
        self.wide_loss = _finite(wide_loss, FILL_SEEDS[-1])
        self.checked_losses = self.losses
        """The same with the copies filled as well."""
        if copies:
            self.parameters += copies
            self.checked_losses = tuple(map(self._filled_loss, FILL_SEEDS))

    def _parameters(self) -> dict[str, nn.Parameter]:
        return {name: self.model.get_parameter(name) for name in self.parameters}

    def _filled_loss(self, seed: int) -> float:
        self.fill(seed)
        return self.loss()

    def loss(self) -> float:
        """Return the loss of the probe."""
        return self.probe.objective.precise_loss(self.model, self.probe.batch)

    def fill(self, seed: int) -> None:
        """Put the numbers of a seed into the named parameters."""
        _draw(self._parameters(), self._starts, seed=seed)

    def draw(self, parameters: Mapping[str, nn.Parameter], *, seed: int) -> None:
        """Put seeded numbers into other parameters, such as those of another adapter."""
        _draw(parameters, self._starts_of(parameters), seed=seed)

    def _starts_of(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        scaling = (
            name for name in parameters if any(part in name for part in self._adapter.scales)
        )
        return {name: parameters[name].detach().clone() for name in scaling}


def one_wide_image(probe: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the first image of a probe with its label, enlarged to the size of the cost profile.

    Its pixels are repeated, which no processor rounds. On 32x32 images no feature map is wide.
    """
    images, labels = probe
    return functional.interpolate(images[:1], size=(_WIDE, _WIDE)), labels[:1]


def _finite(loss: float, seed: int) -> float:
    if not math.isfinite(loss):
        raise FilledLossError(f"the loss of the adapter filled by seed {seed} is {loss}")
    return loss


def _draw(
    parameters: Mapping[str, nn.Parameter], starts: Mapping[str, Tensor], *, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(parameters.items()):
            drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
            if name in starts:
                parameter.copy_(starts[name] * (1 + _SCALE_SPREAD * drawn))
            else:
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(drawn * _SPREAD / math.sqrt(fan_in))
