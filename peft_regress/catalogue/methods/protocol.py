"""What a fine-tuning method must provide to be measured. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from peft_regress.cases import Json
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


BaseDtype = Literal["float32", "bfloat16"]


class Method(Protocol):
    """A way to fine-tune a model: what it wraps, trains and ships."""

    @property
    def name(self) -> str:
        """The name in a case id."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks in a matrix; empty if the method has no rank."""

    @property
    def matrices(self) -> tuple[str, ...]:
        """The matrices that it belongs to, such as `default` and `extended`."""

    @property
    def trains_batch_norm_statistics(self) -> bool:
        """Whether BatchNorm layers run in train mode and estimate their statistics again."""

    @property
    def base_dtype(self) -> BaseDtype:
        """The floating-point type of the base model and the images, cast before `adapt`."""

    @property
    def prunes(self) -> tuple[str, ...]:
        """Parts of the names of parameters that the method itself may set to or leave at zero."""

    @property
    def alters_base(self) -> bool:
        """Whether wrapping changes the base's weights, so it differs with the adapter off."""

    @property
    def scales(self) -> tuple[str, ...]:
        """Parts of the names of adapter parameters that scale or replace the base's values.

        They start far from zero and from a random number.
        """

    @property
    def has_own_optimizer(self) -> bool:
        """Whether `make_optimizer` is a part of the method, so that no other may replace it."""

    @property
    def numerics(self) -> Numerics:
        """How far rounding spreads in the first losses."""

    def hyperparameters(self, rank: int | None) -> dict[str, Json]:
        """Return all settings (learning rate, alpha, betas ...), for the definition."""

    def adapt(
        self, model: nn.Module, *, heads: tuple[str, ...], rank: int | None, seed: int
    ) -> nn.Module:
        """Wrap the model and set what trains; `heads` train in full and are never adapted.

        heads: qualified names of modules, such as the last layer; a module may hold several layers,
        and there may be none. Raises `UnsupportedCaseError` if no module is eligible or a head does
        not exist, and passes on the library's own ValueError and NotImplementedError. Uses only
        generators seeded with `seed`. May change the given model in place; do not use that model
        afterwards.
        """

    def expected_trainable(
        self, base: nn.Module, *, heads: tuple[str, ...], rank: int | None
    ) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape of each parameter that must train after `base` is adapted.

        They follow from the unadapted model by the method's rule, without the library that wraps
        it, so they can check the library. Names are those of the adapted model.
        """

    def make_optimizer(self, model: nn.Module, *, rank: int | None) -> Optimizer:
        """Return the optimizer over the trainable parameters, `foreach=False`."""

    def projections(self, optimizer: Optimizer) -> Mapping[str, Tensor]:
        """Return the optimizer's projections of gradients, which it must renew, by name.

        No copies; empty if the optimizer has none.
        """

    def shipped_tensors(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the tensors that a device needs beyond the source model, by name; no copies."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what is shipped into an existing folder, as the method's library does."""

    def load(
        self, base: nn.Module, folder: Path, *, heads: tuple[str, ...], trainable: bool
    ) -> nn.Module:
        """Adapt a fresh base model from a folder that `save` wrote, as the method's library does.

        With `trainable` the result can be trained further, otherwise nothing in it trains. May
        change `base` in place. Raises `InputError` if the tensors are not exactly the shipped ones.
        """

    def disabled(self, model: nn.Module) -> AbstractContextManager[None] | None:
        """Return a context in which the adapter is off; None if there is no adapter."""

    def merge(self, model: nn.Module) -> nn.Module | None:
        """Fold the adapter into a copy of the base model; None if there is no adapter."""
