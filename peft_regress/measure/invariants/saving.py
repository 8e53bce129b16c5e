"""What saved adapters give when they are loaded: this run's, and an earlier release's."""

from __future__ import annotations

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.cost.alive import peak_while
from peft_regress.measure.invariants.facts import Fact, listed
from peft_regress.measure.invariants.outputs import (
    RELOAD_TOLERANCE,
    STORED_TOLERANCE,
    agree_with_rows,
    attempt,
)
from peft_regress.measure.invariants.tensors import moved, named_tensors, trainable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
        self.peak_bytes: int | None = None
        """The most memory in use while an adapter was saved; None if that is not known."""

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
        saved, worked = attempt(
            lambda: peak_while(lambda: self._adapter.save(adapted, folder), adapted)
        )
        if saved is None:
            return dict.fromkeys(("saved_adapter_reloads", "reload_keeps_trainable"), worked)
        _, self.peak_bytes = saved
        used, worked = attempt(lambda: self._load(folder, trainable=False))
        if used is None:
            return dict.fromkeys(("saved_adapter_reloads", "reload_keeps_trainable"), worked)
        return {
            "saved_adapter_reloads": self._same_as(adapted, used),
            "reload_keeps_trainable": self._resumes(used, folder, expected),
        }

    def _same_as(self, adapted: nn.Module, used: nn.Module) -> Fact:
        computed, worked = attempt(lambda: self._probe.outputs(used))
        if computed is None:
            return worked
        same = self._probe.same(
            computed,
            self._probe.outputs(adapted),
            tolerance=RELOAD_TOLERANCE,
            layers=lambda: (self._probe.layers(used), self._probe.layers(adapted)),
        )
        # Of a prompt peft ships what its encoder computes, and not the encoder.
        if not same.holds or self._adapter.loads_for_use_only:
            return same
        return self._same_numbers(trainable(adapted), adapted, used)

    def _same_numbers(self, names: Iterable[str], adapted: nn.Module, loaded: nn.Module) -> Fact:
        """Return whether the very numbers were loaded: the probe may not show each of them."""
        wanted, found = named_tensors(adapted), named_tensors(loaded)
        wrong = [
            name
            for name in moved({name: wanted[name] for name in names}, found)
            # What prunes ships the ranks that it kept.
            if not (
                self._adapter.prunes and name in found and found[name].shape != wanted[name].shape
            )
        ]
        if not wrong:
            return Fact(holds=True)
        return Fact.false(f"loaded with other numbers: {listed(wrong)}", tensors=wrong)

    def _resumes(
        self, used: nn.Module, folder: Path, expected: Mapping[str, tuple[int, ...]]
    ) -> Fact:
        if self._adapter.loads_for_use_only:
            return Fact.null(self._adapter.loads_for_use_only)
        if left := sorted(trainable(used)):
            return Fact.false(f"loaded for use, these train: {listed(left)}", tensors=left)
        resumed, worked = attempt(lambda: self._load(folder, trainable=True))
        if resumed is None:
            return worked
        others = sorted(trainable(resumed).keys() ^ expected.keys())
        # Whether both have the trained numbers is a matter of `saved_adapter_reloads`.
        return Fact.unless(others) if others else self._same_numbers(expected, resumed, used)

    def _stored_adapter_loads(self) -> Fact:
        stored = self._stored
        if stored is None:
            return Fact.null("the baselines hold no adapter of this case")
        computed, worked = attempt(
            lambda: self._probe.outputs_in_float32(self._load(stored.folder, trainable=False))
        )
        if computed is None:
            return worked
        same = agree_with_rows(computed, stored.rows, tolerance=STORED_TOLERANCE)
        if same:
            return Fact(holds=True)
        return Fact.false("it computes other outputs than were stored with it")

    def _load(self, folder: Path, *, trainable: bool) -> nn.Module:
        return self._adapter.load(copy.deepcopy(self._probe.base), folder, trainable=trainable)
