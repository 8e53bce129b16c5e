"""Watch one fine-tuning run and check which facts hold."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.utils._python_dispatch import _disable_current_modes

from peft_regress.gc_pause import paused_gc
from peft_regress.measure.adapters.names import base_name, base_prefix
from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.filled import Filled
from peft_regress.measure.invariants.layers import (
    layer_outputs,
    not_channels_last,
    of_other_dtype,
    where_differing,
)
from peft_regress.measure.invariants.outputs import (
    HALF_IDENTITY_TOLERANCE,
    IDENTITY_TOLERANCE,
    MERGE_TOLERANCE,
    RELOAD_TOLERANCE,
    STORED_TOLERANCE,
    agree,
    agree_with_rows,
    attempt,
    in_float32,
    is_half,
    rows_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from peft_regress.measure.adapters import Adapter
    from peft_regress.measure.invariants.layers import LayerOutputs
    from peft_regress.measure.invariants.outputs import Outputs
    from peft_regress.measure.objective import Objective

_STATISTICS: Final = (".running_mean", ".running_var", ".num_batches_tracked")
_NO_ADAPTER: Final = "there is no adapter that can be switched off"


@dataclass(frozen=True, kw_only=True)
class StoredOutput:
    """An adapter that an earlier release saved."""

    folder: Path
    rows: list[list[float]]
    """What that release computed, as `rows_of` returns it."""


class InvariantWatch:
    """Watch one fine-tuning run: give it the base, then the adapted model, then ask it.

    It keeps the base model, and copies of all the adapted one's tensors, until the run ends.

    - `identity_at_init`: the adapted, untrained model computes the base's output.
    - `expected_trainable`: the trainable parameters have the names and shapes that the method's own
      rule derives from the base model; after wrapping, after one step and after training. None for
      an adapter without such a rule, unless the set changes in training.
    - `frozen_unchanged`: all other tensors, buffers included, are bit-identical after one step and
      after training; except running statistics, if the method or the mode trains them.
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
    """The losses of a filled adapter (see `Filled`); None without an adapter to fill."""

    def __init__(  # noqa: PLR0913  (the parts of a case)
        self,
        *,
        adapter: Adapter,
        objective: Objective,
        base: nn.Module,
        probe: Any,
        stored: StoredOutput | None = None,
        moving: Collection[str] = (),
        steps: int = 0,
    ) -> None:
        """Keep the unadapted model, which nobody may adapt or change.

        probe: a small batch of real items. moving: the base's buffers that its training mode moves.
        steps: how many the case takes.
        """
        self._adapter = adapter
        self._objective = objective
        self._base = base
        self._probe = probe
        self._stored = stored
        self._moving = frozenset(moving)
        self._steps = steps
        by_rule = adapter.expected_trainable(base)
        self._has_rule = by_rule is not None
        self._expected: dict[str, tuple[int, ...]] = dict(by_rule or {})
        self._before: dict[str, Tensor] = {}
        self._at_start: dict[str, Fact] = {}
        self._after_first_step: dict[str, Fact] = {}
        self._projections: dict[str, Tensor] = {}
        self._filled: nn.Module | None = None

    @paused_gc()
    def before_training(self, adapted: nn.Module, *, keeps_filled: bool = False) -> None:
        """Check the adapted model, and copy its tensors.

        keeps_filled: whether to keep the filled adapter for `without_training`.

        Raises `FilledLossError` if a filled adapter's loss is NaN or infinite.
        """
        if not self._has_rule:
            self._expected = trainable(adapted)
        of_base = self._outputs(*in_float32(self._base, self._probe))
        self._at_start = {
            "identity_at_init": self._identity(adapted, of_base),
            "expected_trainable": self._trainable_as_expected(adapted),
            **self._of_a_filled_adapter(adapted, of_base, keeps=keeps_filled),
            "doubled_rank_not_smaller": self._doubled_rank_not_smaller(adapted),
            "dtypes_as_asked": self._of_layers(
                of_other_dtype, adapted, adapter_in_float32=self._adapter.adapter_in_float32
            ),
            "channels_last_kept": self._of_layers(not_channels_last, adapted),
        }
        self._before = {
            name: tensor.detach().clone() for name, tensor in _named_tensors(adapted).items()
        }

    def watch_first_step(self, adapted: nn.Module, optimizer: Optimizer) -> None:
        """Check again right after the first update."""

        def check(*_: object) -> None:
            handle.remove()
            # Whoever records the step must not see the checks.
            with _disable_current_modes():
                self._after_first_step = {
                    "expected_trainable": self._trainable_as_expected(adapted),
                    "frozen_unchanged": self._frozen_unchanged(adapted),
                }
                self._projections = {
                    name: tensor.clone()
                    for name, tensor in self._adapter.projections(optimizer).items()
                }

        handle = optimizer.register_step_post_hook(check)

    @paused_gc()
    def after_training(self, adapted: nn.Module, optimizer: Optimizer) -> dict[str, Fact]:
        """Check the trained model and return every invariant."""
        start = self._at_start
        with tempfile.TemporaryDirectory() as folder:
            reloaded = self._after_reloading(adapted, Path(folder))
        return {
            "identity_at_init": start["identity_at_init"],
            "expected_trainable": self._first_false(
                "expected_trainable",
                start["expected_trainable"],
                self._trainable_as_expected(adapted),
            ),
            "frozen_unchanged": self._first_false(
                "frozen_unchanged", self._frozen_unchanged(adapted)
            ),
            "trainable_changed": self._trainable_changed(adapted),
            "projections_renewed": self._projections_renewed(optimizer),
            "merge_equals_unmerged": self._merge_equals_unmerged(adapted),
            "disabled_equals_base": start["disabled_equals_base"],
            "toggling_keeps_trainable": start["toggling_keeps_trainable"],
            "doubled_rank_not_smaller": start["doubled_rank_not_smaller"],
            "dtypes_as_asked": start["dtypes_as_asked"],
            "channels_last_kept": start["channels_last_kept"],
            **reloaded,
            "stored_adapter_loads": self._stored_adapter_loads(),
        }

    @paused_gc()
    def without_training(self, adapted: nn.Module) -> dict[str, Fact]:
        """Return the invariants that need no trained model, of one that took some steps.

        Merging, saving and loading are tried on the filled adapter, where there is one.
        """
        of_half = is_half(self._base)
        filled = adapted if self._filled is None or of_half else self._filled
        with tempfile.TemporaryDirectory() as folder:
            reloaded = self._after_reloading(filled, Path(folder))
        return {
            **self._at_start,
            "merge_equals_unmerged": self._merge_equals_unmerged(filled),
            **reloaded,
            "stored_adapter_loads": self._stored_adapter_loads(),
        }

    def rows(self, adapted: nn.Module) -> list[list[float]]:
        """Return the probe's outputs in float32, for a later release's check."""
        return rows_of(self._outputs(*in_float32(adapted, self._probe)))

    def _outputs(self, model: nn.Module, probe: Any) -> Outputs:
        return self._objective.outputs(model, probe)

    def _layers(self, model: nn.Module) -> LayerOutputs:
        model, probe = in_float32(model, self._probe)
        return layer_outputs(model, self._base, objective=self._objective, probe=probe)

    def _same(
        self,
        found: Outputs,
        wanted: Outputs,
        *,
        tolerance: float,
        layers: Callable[[], tuple[LayerOutputs, LayerOutputs]],
    ) -> Fact:
        """Return whether outputs agree; if not, name the first layer that differs."""
        if agree(found, wanted, tolerance=tolerance):
            return Fact(holds=True)
        return Fact.false(where_differing(found, wanted, layers, tolerance=tolerance))

    def _first_false(self, name: str, *others: Fact) -> Fact:
        """Return the first of the facts that is false: also that after the first step."""
        first = self._after_first_step.get(name, Fact.false("the optimizer took no step"))
        return next((fact for fact in (first, *others) if fact.holds is False), others[-1])

    def _identity(self, adapted: nn.Module, of_base: Outputs) -> Fact:
        tolerance = HALF_IDENTITY_TOLERANCE if is_half(self._base) else IDENTITY_TOLERANCE
        found = self._outputs(*in_float32(adapted, self._probe))
        elsewhere = self._adapter.starts_elsewhere
        if elsewhere and not agree(found, of_base, tolerance=tolerance):
            return Fact.null(elsewhere)
        return self._same(
            found,
            of_base,
            tolerance=tolerance,
            layers=lambda: (self._layers(adapted), self._layers(self._base)),
        )

    def _trainable_as_expected(self, model: nn.Module) -> Fact:
        found = trainable(model)
        if found == self._expected:
            no_rule = "no rule says what must train; the reference's set judges it"
            return Fact(holds=True) if self._has_rule else Fact.null(no_rule)
        wrong = sorted(set(found.items()) ^ set(self._expected.items()))
        return Fact.unless(list(dict.fromkeys(name for name, _ in wrong)))

    def _frozen_unchanged(self, adapted: nn.Module) -> Fact:
        after = _named_tensors(adapted)
        may_move = _STATISTICS if self._adapter.trains_batch_norm_statistics else ()
        prefix = base_prefix(adapted, self._base)
        moved = [
            name
            for name, tensor in self._before.items()
            if name not in self._expected
            and not name.endswith(may_move)
            and base_name(name, prefix) not in self._moving
            and (name not in after or not torch.equal(tensor, after[name]))
        ]
        return Fact.unless([*moved, *sorted(after.keys() - self._before.keys())])

    def _trainable_changed(self, adapted: nn.Module) -> Fact:
        after = _named_tensors(adapted)
        return Fact.unless(
            [
                name
                for name in self._expected
                if not any(part in name for part in self._adapter.prunes)
                and (
                    name not in after
                    or name not in self._before
                    or torch.equal(self._before[name], after[name])
                )
            ]
        )

    def _projections_renewed(self, optimizer: Optimizer) -> Fact:
        now = self._adapter.projections(optimizer)
        if not now:
            return Fact.null("the optimizer projects no gradients")
        # Any layer is enough: a layer without a gradient gives the same vectors again.
        before = self._projections
        if now.keys() == before.keys() and any(
            not torch.equal(tensor, before[name]) for name, tensor in now.items()
        ):
            return Fact(holds=True)
        gaps = [group["update_proj_gap"] for group in optimizer.param_groups if "rank" in group]
        if gaps and (gap := min(gaps)) >= self._steps:
            return Fact.null(f"they are renewed every {gap} steps, the case takes {self._steps}")
        return Fact.false("they are those of the first step")

    def _of_a_filled_adapter(
        self, adapted: nn.Module, of_base: Outputs, *, keeps: bool
    ) -> dict[str, Fact]:
        adapter = self._adapter
        if adapter.disabled(adapted) is None:
            of_none = Fact.null(_NO_ADAPTER)
            return dict.fromkeys(("disabled_equals_base", "toggling_keeps_trainable"), of_none)
        # Parameters that are missing are a matter of `expected_trainable`.
        parameters = [
            name
            for name in adapter.adapter_parameters(adapted)
            if name in self._expected and not self._is_of_base(adapted, name)
        ]
        filled = Filled(
            adapted,
            adapter=adapter,
            objective=self._objective,
            parameters=parameters,
            probe=self._probe,
        )
        self.filled_losses = filled.losses
        self._filled = filled.model if keeps else None
        before = trainable(filled.model)
        disabled, problem = attempt(filled.disabled_outputs)
        if disabled is None:
            off = toggled = Fact.false(problem)
        else:
            wrong = sorted(set(trainable(filled.model).items()) ^ set(before.items()))
            toggled = Fact.unless([name for name, _ in wrong])
            off = self._same(
                disabled,
                of_base,
                tolerance=IDENTITY_TOLERANCE,
                layers=lambda: (filled.disabled_layers(self._base), self._layers(self._base)),
            )
        if adapter.alters_base:
            off = Fact.null("wrapping alters the base's weights")
        return {"disabled_equals_base": off, "toggling_keeps_trainable": toggled}

    def _is_of_base(self, adapted: nn.Module, name: str) -> bool:
        """Return whether a parameter is one of the base's own, such as a bias that trains."""
        if self._has_rule:
            return False
        plain = base_name(name, base_prefix(adapted, self._base))
        return plain in dict(self._base.named_parameters())

    def _doubled_rank_not_smaller(self, adapted: nn.Module) -> Fact:
        """Compare the counts of trainable parameters; None for an adapter without a rank."""
        twice = self._adapter.doubled()
        if twice is None or self._adapter.disabled(adapted) is None:
            return Fact.null("there is no adapter with a rank")
        base = copy.deepcopy(self._base)
        doubled, problem = attempt(lambda: twice.adapt(base, seed=0))
        if doubled is None:
            # A rank may not exceed a layer's size.
            return Fact.false(problem) if self._has_rule else Fact.null(f"at twice it, {problem}")
        more, fewer = _count(doubled), _count(adapted)
        return Fact(
            holds=more >= fewer,
            note="" if more >= fewer else f"{more:,} train, {fewer:,} at half the rank",
        )

    def _of_layers(
        self, wrong: Callable[..., list[str] | None], adapted: nn.Module, **options: Any
    ) -> Fact:
        found, problem = attempt(
            lambda: wrong(
                adapted, self._base, objective=self._objective, probe=self._probe, **options
            )
        )
        if problem:
            return Fact.false(problem)
        return Fact.null("no layer is channels last") if found is None else Fact.unless(found)

    def _merge_equals_unmerged(self, adapted: nn.Module) -> Fact:
        outputs, problem = attempt(lambda: self._merged_outputs(adapted))
        if problem:
            return Fact.false(problem)
        if outputs is None:
            return Fact.null("there is no adapter that can be merged")
        return self._same(
            *outputs, tolerance=MERGE_TOLERANCE, layers=lambda: self._merged_layers(adapted)
        )

    def _merged_layers(self, adapted: nn.Module) -> tuple[LayerOutputs, LayerOutputs]:
        model, _ = in_float32(adapted, self._probe)
        merged = self._adapter.merge(model)
        return ({} if merged is None else self._layers(merged)), self._layers(model)

    def _merged_outputs(self, adapted: nn.Module) -> tuple[Outputs, Outputs] | None:
        """Return the outputs merged and unmerged, in float32; None without an adapter."""
        model, probe = in_float32(adapted, self._probe)
        merged = self._adapter.merge(model)
        if merged is None:
            return None
        if model is not adapted and (own := self._adapter.merge(adapted)) is not None:
            # In its own type it must still compute, although rounding hides the result.
            self._outputs(own, self._probe)
        return self._outputs(merged, probe), self._outputs(model, probe)

    def _after_reloading(self, adapted: nn.Module, folder: Path) -> dict[str, Fact]:
        """Check what loads from the saved files, for inference and for training."""
        saving = attempt(lambda: self._adapter.save(adapted, folder))
        if saving.problem:
            raises = Fact.false(saving.problem)
            return dict.fromkeys(("saved_adapter_reloads", "reload_keeps_trainable"), raises)
        used, problem = attempt(lambda: self._load(folder, trainable=False))
        if used is None:
            raises = Fact.false(problem)
            return dict.fromkeys(("saved_adapter_reloads", "reload_keeps_trainable"), raises)
        return {
            "saved_adapter_reloads": self._same_as(adapted, used),
            "reload_keeps_trainable": self._resumes(used, folder),
        }

    def _same_as(self, adapted: nn.Module, used: nn.Module) -> Fact:
        computed, problem = attempt(lambda: self._outputs(used, self._probe))
        if computed is None:
            return Fact.false(problem)
        return self._same(
            computed,
            self._outputs(adapted, self._probe),
            tolerance=RELOAD_TOLERANCE,
            layers=lambda: (self._layers(used), self._layers(adapted)),
        )

    def _resumes(self, used: nn.Module, folder: Path) -> Fact:
        if self._adapter.loads_for_use_only:
            return Fact.null(self._adapter.loads_for_use_only)
        if left := trainable(used):
            return Fact.false(f"loaded for use, these train: {listed(sorted(left))}")
        resumed, problem = attempt(lambda: self._load(folder, trainable=True))
        if resumed is None:
            return Fact.false(problem)
        return Fact.unless(sorted(trainable(resumed).keys() ^ self._expected.keys()))

    def _stored_adapter_loads(self) -> Fact:
        stored = self._stored
        if stored is None:
            return Fact.null("the baselines hold no adapter of this case")
        computed, problem = attempt(
            lambda: self._outputs(
                *in_float32(self._load(stored.folder, trainable=False), self._probe)
            )
        )
        if computed is None:
            return Fact.false(problem)
        same = agree_with_rows(computed, stored.rows, tolerance=STORED_TOLERANCE)
        return Fact(
            holds=same, note="" if same else "it computes other outputs than were stored with it"
        )

    def _load(self, folder: Path, *, trainable: bool) -> nn.Module:
        return self._adapter.load(copy.deepcopy(self._base), folder, trainable=trainable)


def trainable(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each parameter that requires a gradient."""
    return {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _named_tensors(model: nn.Module) -> Mapping[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _count(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
