"""Watch one fine-tuning run and check which facts hold."""

import contextlib
import copy
import math
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

from peft_regress.catalogue.methods.method import Method, base_name, base_prefix
from peft_regress.gc_pause import paused_gc
from peft_regress.invariants import INVARIANTS
from peft_regress.measure.invariants import facts, merging, outputs, switching
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.filled import Filled
from peft_regress.measure.invariants.paths import paths_agree
from peft_regress.measure.invariants.probe import Probe
from peft_regress.measure.invariants.saving import SavingFacts, StoredOutput
from peft_regress.measure.invariants.training import MemoryWatch, TrainingFacts
from peft_regress.measure.objective import Objective

_OF_A_FILLED: Final = (
    "unmerge_restores_base",
    "refused_merge_keeps_base",
    "disabled_equals_base",
    "toggling_keeps_trainable",
    "paths_agree",
    "state_kept",
    "adapters_do_not_leak",
    "delete_leaves_nothing",
)


class InvariantWatch:
    """Watch one fine-tuning run: give it the base, then the adapted model, then ask it.

    It keeps the base model, and copies of all the adapted one's tensors, until the run ends.
    docs/metrics.md says what each invariant is.
    """

    filled_losses: tuple[float, ...] | None = None
    """The losses of a filled adapter (see `Filled`); None without an adapter to fill."""
    wide_filled_loss: float | None = None
    """The same on `wide_probe`, by two threads."""

    def __init__(  # noqa: PLR0913  (the parts of a case)
        self,
        *,
        adapter: Method,
        objective: Objective,
        base: nn.Module,
        probe: Any,
        stored: StoredOutput | None = None,
        steps: int = 0,
        wide_probe: Any = None,
    ) -> None:
        """Keep the unadapted model, which nobody may adapt or change.

        probe: a small batch of real items. steps: how many the case takes. wide_probe: what a
        filled adapter computes by two threads; None stands for the probe.
        """
        self._adapter = adapter
        self._base = base
        self._probe = Probe(base=base, objective=objective, batch=probe)
        self.training = TrainingFacts(adapter=adapter, base=base, steps=steps)
        self.saving = SavingFacts(adapter, self._probe, stored)
        self._wide_probe = probe if wide_probe is None else wide_probe
        self.memory = MemoryWatch(steps)
        self.at_start: dict[str, Fact] = {}
        """What was checked before the training."""

    @paused_gc()
    def before_training(self, adapted: nn.Module) -> None:
        """Check the adapted model, and copy its tensors.

        Raises `FilledLossError` if a filled adapter's loss is NaN or infinite.
        """
        if not self.training.has_rule:
            self.training.expected = facts.trainable(adapted)
        self._loads = self.training.expected
        of_base = self._probe.outputs_in_float32(self._base)
        self.at_start = {
            "identity_at_init": self._identity(adapted, of_base),
            "expected_trainable": self.training.trainable_as_expected(adapted),
            **self._of_a_filled_adapter(adapted, of_base),
            "doubled_rank_not_smaller": self._doubled_rank_not_smaller(adapted),
            "dtypes_as_asked": self._probe.dtypes_as_asked(
                adapted, adapter_in_float32=self._adapter.adapter_in_float32
            ),
            "channels_last_kept": self._probe.channels_last_kept(adapted),
        }
        self.training.before = facts.copies_of(adapted)

    @paused_gc()
    def after_training(self, adapted: nn.Module, optimizer: Optimizer) -> dict[str, Fact]:
        """Check the trained model and return every invariant."""
        saved = self.saving.of(adapted, self._loads)
        found = {
            **self.at_start,
            **self.training.after(adapted, optimizer, self.at_start["expected_trainable"]),
            "training_keeps_no_memory": self.memory.fact,
            "merge_equals_unmerged": merging.merge_equals_unmerged(
                adapted, adapter=self._adapter, probe=self._probe
            ),
            **saved,
        }
        return {name: found[name] for name in INVARIANTS if name in found}

    def rows(self, adapted: nn.Module) -> list[list[float]]:
        """Return the probe's outputs in float32, for a later release's check."""
        return outputs.rows_of(self._probe.outputs_in_float32(adapted))

    @facts.judged
    def _identity(self, adapted: nn.Module, of_base: outputs.Outputs) -> None:
        is_half = outputs.is_half(self._base)
        tolerance = outputs.HALF_IDENTITY_TOLERANCE if is_half else outputs.IDENTITY_TOLERANCE
        found = self._probe.outputs_in_float32(adapted)
        if self._adapter.adds_to_loss:
            found, of_base = outputs.without_loss(found), outputs.without_loss(of_base)
        elsewhere = self._adapter.starts_elsewhere
        if elsewhere and not outputs.agree(found, of_base, tolerance=tolerance):
            raise facts.null(elsewhere)
        self._probe.check_same(
            found,
            of_base,
            tolerance=tolerance,
            layers=lambda: (self._probe.layers(adapted), self._probe.layers(self._base)),
        )

    def _of_a_filled_adapter(self, adapted: nn.Module, of_base: outputs.Outputs) -> dict[str, Fact]:
        adapter = self._adapter
        if adapter.disabled(adapted) is None:
            of_none = facts.null("there is no adapter that can be switched off").fact
            return dict.fromkeys(_OF_A_FILLED, of_none)
        # Without a rule, what trains of the base is expected too.
        of_base_too = {} if self.training.has_rule else dict(self._base.named_parameters())
        prefix = base_prefix(adapted, self._base)
        # Parameters that are missing are a matter of `expected_trainable`.
        parameters = [
            name
            for name in adapter.adapter_parameters(adapted)
            if name in self.training.expected and base_name(name, prefix) not in of_base_too
        ]
        filled = Filled(
            adapted,
            adapter=adapter,
            probe=self._probe,
            wide_probe=self._wide_probe,
            parameters=parameters,
            copies=[name for name in self.training.expected if ".modules_to_save." in name],
        )
        self.filled_losses = filled.losses
        self.wide_filled_loss = filled.wide_loss
        return {
            "state_kept": switching.state_kept(filled, adapter),
            **paths_agree(filled, of_base, adapter),
            "toggling_keeps_trainable": switching.toggling_keeps_trainable(filled, adapter),
            # What follows changes the model.
            **switching.second_adapter(filled, adapter),
            "refused_merge_keeps_base": merging.refused_merge_keeps_base(filled.model, parameters),
            "unmerge_restores_base": merging.unmerge_restores_base(filled),
        }

    @facts.judged
    def _doubled_rank_not_smaller(self, adapted: nn.Module) -> None:
        twice = self._adapter.doubled()
        if twice is None or self._adapter.disabled(adapted) is None:
            raise facts.null("there is no adapter with a rank")
        has_rule = self.training.has_rule
        # A rank may not exceed a layer's size.
        with contextlib.nullcontext() if has_rule else facts.refused("at twice it", Exception):
            doubled = twice.adapt(copy.deepcopy(self._base), seed=0)
        if has_rule:
            # What else trains is a matter of `expected_trainable`.
            found, wanted = facts.trainable(doubled), twice.expected_trainable(self._base) or {}
            facts.check_none([name for name in wanted if found.get(name) != wanted[name]])
            return
        shapes = (facts.trainable(model).values() for model in (doubled, adapted))
        more, fewer = (sum(map(math.prod, each)) for each in shapes)
        if more < fewer or (more == fewer and twice.grows_with_rank):
            raise facts.false(f"{more:,} train, {fewer:,} at half the rank", size=fewer - more)
