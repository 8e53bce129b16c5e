"""Watch one fine-tuning run and check which facts hold."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from peft_regress.gc_pause import paused_gc
from peft_regress.measure.invariants.filled import Filled
from peft_regress.measure.invariants.layers import channels_last_kept, dtypes_as_asked
from peft_regress.measure.invariants.outputs import (
    IDENTITY_TOLERANCE,
    MERGE_TOLERANCE,
    RELOAD_TOLERANCE,
    STORED_TOLERANCE,
    agree,
    attempt,
    in_float32,
    output,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from peft_regress.catalogue.methods.protocol import Method

_STATISTICS: Final = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True, kw_only=True)
class StoredOutput:
    """An adapter that an earlier release saved."""

    folder: Path
    logits: list[list[float]]
    """(images, classes), computed by that release."""


class InvariantWatch:
    """Watch one fine-tuning run: give it the base, then the adapted model, then ask it.

    It keeps copies of the base model and of all frozen tensors until the run ends.

    - `identity_at_init`: the adapted, untrained model computes the base's output.
    - `expected_trainable`: the trainable parameters have the names and shapes that the method's own
      rule derives from the base model; after wrapping, after one step and after training.
    - `frozen_unchanged`: all other tensors, buffers included, are bit-identical after one step and
      after training; except running statistics, if the method trains them.
    - `trainable_changed`: every trainable tensor moved, except those that the method prunes.
    - `projections_renewed`: after training the optimizer projects gradients with other vectors than
      after the first step; None if it has no projections.
    - `merge_equals_unmerged`: merging the adapter keeps the trained output.
    - `disabled_equals_base`: with a filled, disabled adapter the model computes the base's output;
      None if wrapping alters the base.
    - `toggling_keeps_trainable`: disabling and enabling the adapter keeps the trainable set.
    - `doubled_rank_not_smaller`: at twice the rank no fewer parameters train.
    - `dtypes_as_asked`: base weights and all layers' outputs have the base's type, the adapter
      float32.
    - `channels_last_kept`: each layer that is channels last in the base stays so.
    - `saved_adapter_reloads`: saved and loaded into a fresh base, it gives the trained output.
    - `reload_keeps_trainable`: loaded for training, the same parameters train; else none does.
    - `stored_adapter_loads`: an adapter saved by an earlier release loads and gives its stored
      output.
    """

    filled_losses: tuple[float, ...] | None = None
    """The losses of a filled adapter (see `Filled`); None without an adapter."""

    def __init__(  # noqa: PLR0913  (the parts of a case)
        self,
        *,
        method: Method,
        rank: int | None,
        head: str,
        base: nn.Module,
        probe: Tensor,
        labels: Tensor,
        stored: StoredOutput | None = None,
    ) -> None:
        """Copy the prepared base model before it is adapted.

        probe: (count, 3, height, width), a few real images; labels: (count,), their classes.
        """
        self._method = method
        self._rank = rank
        self._head = head
        self._base = copy.deepcopy(base)
        self._probe = probe
        self._labels = labels
        self._stored = stored
        self._expected = dict(method.expected_trainable(base, heads=(head,), rank=rank))
        self._before: dict[str, Tensor] = {}
        self._at_start: dict[str, bool | None] = {}
        self._after_first_step: dict[str, bool] = {}
        self._projections: dict[str, Tensor] = {}

    @paused_gc()
    def before_training(self, adapted: nn.Module) -> None:
        """Check the adapted model, and copy its tensors.

        Raises `FilledLossError` if a filled adapter's loss is NaN or infinite.
        """
        of_base = output(*in_float32(self._base, self._probe))
        self._at_start = {
            "identity_at_init": agree(
                output(*in_float32(adapted, self._probe)),
                of_base,
                tolerance=IDENTITY_TOLERANCE[self._method.base_dtype],
            ),
            "expected_trainable": self._trainable_as_expected(adapted),
            **self._of_a_filled_adapter(adapted, of_base),
            "doubled_rank_not_smaller": self._doubled_rank_not_smaller(adapted),
            "dtypes_as_asked": self._holds_of_layers(
                dtypes_as_asked, adapted, has_adapter=self._has_adapter(adapted)
            ),
            "channels_last_kept": self._holds_of_layers(channels_last_kept, adapted),
        }
        self._before = {
            name: tensor.detach().clone() for name, tensor in _named_tensors(adapted).items()
        }

    def watch_first_step(self, adapted: nn.Module, optimizer: Optimizer) -> None:
        """Check again right after the first update."""

        def check(*_: object) -> None:
            handle.remove()
            self._after_first_step = {
                "expected_trainable": self._trainable_as_expected(adapted),
                "frozen_unchanged": self._frozen_unchanged(_named_tensors(adapted)),
            }
            self._projections = {
                name: tensor.clone() for name, tensor in self._method.projections(optimizer).items()
            }

        handle = optimizer.register_step_post_hook(check)

    @paused_gc()
    def after_training(self, adapted: nn.Module, optimizer: Optimizer) -> dict[str, bool | None]:
        """Check the trained model and return every invariant."""
        after = _named_tensors(adapted)
        first = self._after_first_step
        merges, merged = attempt(lambda: self._merged_outputs(adapted))
        start = self._at_start
        with tempfile.TemporaryDirectory() as folder:
            reloaded = self._after_reloading(adapted, Path(folder))
        return {
            "identity_at_init": start["identity_at_init"],
            "expected_trainable": bool(start["expected_trainable"])
            and first.get("expected_trainable", False)
            and self._trainable_as_expected(adapted),
            "frozen_unchanged": first.get("frozen_unchanged", False)
            and self._frozen_unchanged(after),
            "trainable_changed": self._trainable_changed(after),
            "projections_renewed": self._projections_renewed(optimizer),
            "merge_equals_unmerged": None
            if merges and merged is None
            else merged is not None and agree(*merged, tolerance=MERGE_TOLERANCE),
            "disabled_equals_base": start["disabled_equals_base"],
            "toggling_keeps_trainable": start["toggling_keeps_trainable"],
            "doubled_rank_not_smaller": start["doubled_rank_not_smaller"],
            "dtypes_as_asked": start["dtypes_as_asked"],
            "channels_last_kept": start["channels_last_kept"],
            **reloaded,
            "stored_adapter_loads": self._stored_adapter_loads(),
        }

    def logits(self, adapted: nn.Module) -> list[list[float]]:
        """Return the probe's logits (count, classes) in float32, for a later release's check."""
        logits: list[list[float]] = output(*in_float32(adapted, self._probe)).tolist()
        return logits

    def _has_adapter(self, adapted: nn.Module) -> bool:
        return self._method.disabled(adapted) is not None

    def _trainable_as_expected(self, model: nn.Module) -> bool:
        return self._expected == _trainable(model)

    def _frozen_unchanged(self, after: Mapping[str, Tensor]) -> bool:
        may_move = _STATISTICS if self._method.trains_batch_norm_statistics else ()
        return self._before.keys() == after.keys() and all(
            torch.equal(tensor, after[name])
            for name, tensor in self._before.items()
            if name not in self._expected and not name.endswith(may_move)
        )

    def _trainable_changed(self, after: Mapping[str, Tensor]) -> bool:
        return all(
            name in after
            and name in self._before
            and not torch.equal(self._before[name], after[name])
            for name in self._expected
            if not any(part in name for part in self._method.prunes)
        )

    def _projections_renewed(self, optimizer: Optimizer) -> bool | None:
        now = self._method.projections(optimizer)
        if not now:
            return None
        # Any layer is enough: a layer without a gradient gives the same vectors again.
        return now.keys() == self._projections.keys() and any(
            not torch.equal(tensor, self._projections[name]) for name, tensor in now.items()
        )

    def _of_a_filled_adapter(self, adapted: nn.Module, of_base: Tensor) -> dict[str, bool | None]:
        found: dict[str, bool | None] = dict.fromkeys(
            ("disabled_equals_base", "toggling_keeps_trainable")
        )
        if not self._has_adapter(adapted):
            return found
        filled = Filled(
            adapted,
            method=self._method,
            # Parameters that are missing are a matter of `expected_trainable`.
            adapter=[
                name
                for name, _ in adapted.named_parameters()
                if name in self._expected and not self._is_of_head(name)
            ],
            probe=self._probe,
            labels=self._labels,
        )
        self.filled_losses = filled.losses
        before = _trainable(filled.model)
        _, disabled = attempt(filled.disabled_output)
        found["toggling_keeps_trainable"] = (
            disabled is not None and _trainable(filled.model) == before
        )
        if not self._method.alters_base:
            found["disabled_equals_base"] = disabled is not None and agree(
                disabled, of_base, tolerance=IDENTITY_TOLERANCE["float32"]
            )
        return found

    def _is_of_head(self, name: str) -> bool:
        return f".{name.rpartition('.')[0]}".endswith(f".{self._head}")

    def _doubled_rank_not_smaller(self, adapted: nn.Module) -> bool | None:
        """Compare the counts of trainable parameters; None for a method without an adapter."""
        if self._rank is None or not self._has_adapter(adapted):
            return None
        base, twice = copy.deepcopy(self._base), 2 * self._rank
        _, doubled = attempt(
            lambda: self._method.adapt(base, heads=(self._head,), rank=twice, seed=0)
        )
        return doubled is not None and _count(doubled) >= _count(adapted)

    def _holds_of_layers(
        self, fact: Callable[..., bool], adapted: nn.Module, **options: Any
    ) -> bool:
        worked, holds = attempt(
            lambda: fact(adapted, self._base, head=self._head, probe=self._probe, **options)
        )
        return worked and bool(holds)

    def _merged_outputs(self, adapted: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Return the logits merged and unmerged, in float32; None without an adapter."""
        model, probe = in_float32(adapted, self._probe)
        merged = self._method.merge(model)
        if merged is None:
            return None
        if model is not adapted and (own := self._method.merge(adapted)) is not None:
            # In its own type it must still compute, although rounding hides the result.
            output(own, self._probe)
        return output(merged, probe), output(model, probe)

    def _after_reloading(self, adapted: nn.Module, folder: Path) -> dict[str, bool | None]:
        """Check what loads from the saved files, for inference and for training."""
        saved, _ = attempt(lambda: self._method.save(adapted, folder))
        if not saved:
            return dict.fromkeys(("saved_adapter_reloads", "reload_keeps_trainable"), False)
        _, used = attempt(lambda: self._load(folder, trainable=False))
        _, resumed = attempt(lambda: self._load(folder, trainable=True))
        computed = None
        if used is not None:
            _, computed = attempt(lambda: output(used, self._probe))
        return {
            "saved_adapter_reloads": computed is not None
            and agree(computed, output(adapted, self._probe), tolerance=RELOAD_TOLERANCE),
            "reload_keeps_trainable": used is not None
            and resumed is not None
            and not _trainable(used)
            and _trainable(resumed).keys() == self._expected.keys(),
        }

    def _stored_adapter_loads(self) -> bool | None:
        if self._stored is None:
            return None
        folder, logits = self._stored.folder, torch.tensor(self._stored.logits)
        _, computed = attempt(
            lambda: output(*in_float32(self._load(folder, trainable=False), self._probe))
        )
        return computed is not None and agree(computed, logits, tolerance=STORED_TOLERANCE)

    def _load(self, folder: Path, *, trainable: bool) -> nn.Module:
        base = copy.deepcopy(self._base)
        return self._method.load(base, folder, heads=(self._head,), trainable=trainable)


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _trainable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each parameter that requires a gradient."""
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
