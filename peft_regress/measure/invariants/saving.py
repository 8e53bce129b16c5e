"""What saved adapters give when they are loaded: this run's, and an earlier release's."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.outputs import (
    RELOAD_TOLERANCE,
    STORED_TOLERANCE,
    agree_with_rows,
    attempt,
)
from peft_regress.measure.invariants.tensors import trainable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from peft_regress.measure.adapters import Adapter
    from peft_regress.measure.invariants.probe import Probe


@dataclass(frozen=True, kw_only=True)
class StoredOutput:
    """An adapter that an earlier release saved."""

    folder: Path
    rows: list[list[float]]
    """What that release computed, as `rows_of` returns it."""


class SavingFacts:
    """The facts of saving and loading."""

    def __init__(self, adapter: Adapter, probe: Probe, stored: StoredOutput | None) -> None:
        """Keep how to load an adapter, and the stored one."""
        self._adapter = adapter
        self._probe = probe
        self._stored = stored

    def of(self, adapted: nn.Module, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Fact]:
        """Check what loads from the saved files, for inference and for training.

        expected: what must train.
        """
        with tempfile.TemporaryDirectory() as folder:
            return {
                **self._after_reloading(adapted, Path(folder), expected),
                "stored_adapter_loads": self._stored_adapter_loads(),
            }

    def _after_reloading(
        self, adapted: nn.Module, folder: Path, expected: Mapping[str, tuple[int, ...]]
    ) -> dict[str, Fact]:
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
            "reload_keeps_trainable": self._resumes(used, folder, expected),
        }

    def _same_as(self, adapted: nn.Module, used: nn.Module) -> Fact:
        computed, problem = attempt(lambda: self._probe.outputs(used))
        if computed is None:
            return Fact.false(problem)
        return self._probe.same(
            computed,
            self._probe.outputs(adapted),
            tolerance=RELOAD_TOLERANCE,
            layers=lambda: (self._probe.layers(used), self._probe.layers(adapted)),
        )

    def _resumes(
        self, used: nn.Module, folder: Path, expected: Mapping[str, tuple[int, ...]]
    ) -> Fact:
        if self._adapter.loads_for_use_only:
            return Fact.null(self._adapter.loads_for_use_only)
        if left := trainable(used):
            return Fact.false(f"loaded for use, these train: {listed(sorted(left))}")
        resumed, problem = attempt(lambda: self._load(folder, trainable=True))
        if resumed is None:
            return Fact.false(problem)
        return Fact.unless(sorted(trainable(resumed).keys() ^ expected.keys()))

    def _stored_adapter_loads(self) -> Fact:
        stored = self._stored
        if stored is None:
            return Fact.null("the baselines hold no adapter of this case")
        computed, problem = attempt(
            lambda: self._probe.outputs_in_float32(self._load(stored.folder, trainable=False))
        )
        if computed is None:
            return Fact.false(problem)
        same = agree_with_rows(computed, stored.rows, tolerance=STORED_TOLERANCE)
        return Fact(
            holds=same, note="" if same else "it computes other outputs than were stored with it"
        )

    def _load(self, folder: Path, *, trainable: bool) -> nn.Module:
        return self._adapter.load(copy.deepcopy(self._probe.base), folder, trainable=trainable)
