"""What a fine-tuning method must offer to be measured. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from peft_regress.cases import Json

__all__ = ["BaseDtype", "Method"]

BaseDtype = Literal["float32", "bfloat16"]


class Method(Protocol):
    """A way to fine-tune a model: what it wraps, what it trains, what it would ship."""

    @property
    def name(self) -> str:
        """The name in a case id."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks in a matrix; empty where the method has no rank."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that it belongs to, such as `default` and `extended`; or none."""

    @property
    def trains_batch_norm_statistics(self) -> bool:
        """Whether BatchNorm layers run in train mode, their statistics re-estimated."""

    @property
    def base_dtype(self) -> BaseDtype:
        """The floating-point type that the base model and the images are cast to before `adapt`."""

    @property
    def prunes(self) -> tuple[str, ...]:
        """Parts of the names of parameters that the method itself may leave or set at zero."""

    @property
    def alters_base(self) -> bool:
        """Whether wrapping alters the base's weights, so that without the adapter it is another."""

    @property
    def scales(self) -> tuple[str, ...]:
        """Parts of the names of adapter parameters that scale, or stand for, what is there.

        They start at something that zero or a random number is no neighbour of.
        """

    def hyperparameters(self, rank: int | None) -> dict[str, Json]:
        """Return all that is set by hand (learning rate, alpha, betas ...), for the definition."""

    def adapt(self, model: nn.Module, *, head: str, rank: int | None, seed: int) -> nn.Module:
        """Wrap the model and set what trains; `head` is the qualified name of the last layer.

        Raises `UnsupportedCaseError` where no module is eligible, and lets the library's own
        ValueError and NotImplementedError through. Draws only from generators seeded by `seed`.
        The model handed in may be changed in place and must not be used afterwards.
        """

    def expected_trainable(
        self, base: nn.Module, *, head: str, rank: int | None
    ) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape of each parameter that must train once `base` is adapted.

        Derived from the unadapted model by the method's own rule, without the library that does
        the wrapping: the yardstick for what the library did. Names are those of the adapted model.
        """

    def make_optimizer(self, model: nn.Module, *, rank: int | None) -> Optimizer:
        """Return the optimizer over the trainable parameters, `foreach=False`."""

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:
        """Return what the optimizer projects gradients by and has to renew as it goes, by name.

        Empty where it does no such thing; no copies.
        """

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the tensors that a device needs beyond the source model, by name; no copies."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what is shipped into an existing folder, as the library does where there is one."""

    def load(self, base: nn.Module, folder: Path, *, head: str, trainable: bool) -> nn.Module:
        """Adapt a fresh base model from a folder that `save` wrote, as the library does.

        With `trainable` it can be trained on, else nothing in it trains. `base` may be changed in
        place. Raises `InputError` where the tensors are not exactly those that it would ship.
        """

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        """Return a context in which the adapter is off; None where there is no adapter."""

    def merge(self, model: nn.Module) -> nn.Module | None:
        """Fold the adapter into a copy of the base model; None where there is no adapter."""
