"""What saved adapters give when they are loaded: this run's, and an earlier release's."""

import contextlib
import copy
import math
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch
from torch import nn

from peft_regress.catalogue.methods.method import Method, Shapes
from peft_regress.cost.storages import peak_while
from peft_regress.measure.invariants import facts, outputs
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.invariants.probe import Probe
from peft_regress.measure.invariants.tuner import loads_unnoticed

# Of each number, and for the sums of a layer: visible in bfloat16, harmless in a deep network.
_SHIFT: Final = 0.05


StoredOutput: TypeAlias = tuple[Path, list[list[float]]]
"""The folder of an adapter that an earlier release saved, and what that computed, by `rows_of`."""


@dataclass
class SavingFacts:
    """The facts of saving and loading."""

    _adapter: Method
    _probe: Probe
    _stored: StoredOutput | None
    peak_bytes: int | None = None
    """The most memory in use while an adapter was saved; None if that is not known."""

    def of(self, adapted: nn.Module, expected: Shapes) -> dict[str, Fact]:
        """Check what loads from the saved files, to use or to train. expected: what must train."""
        loaded: list[nn.Module] = []

        @facts.judged
        def reloads() -> None:
            _, self.peak_bytes = peak_while(lambda: self._adapter.save(adapted, folder), adapted)
            with _shifted(adapted, kept=self._adapter.prunes):
                # Into the same folder: nothing may stay of what was saved before.
                self._adapter.save(adapted, folder)
                used = self._load(folder, trainable=False)
                loaded.append(used)
                self._probe.check_same(
                    self._probe.outputs(used),
                    self._probe.outputs(adapted),
                    tolerance=outputs.RELOAD_TOLERANCE,
                    layers=lambda: (self._probe.layers(used), self._probe.layers(adapted)),
                )
                # Of a prompt peft ships what its encoder computes, and not the encoder.
                if not self._adapter.loads_for_use_only:
                    self._check_numbers(facts.trainable(adapted), adapted, used)

        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            same = resumed = reloads()
            for used in loaded:
                resumed = self._resumes(used, folder, expected)
                if same.holds:
                    same = self._notices(adapted, used, folder)
        return {
            "saved_adapter_reloads": same,
            "reload_keeps_trainable": resumed,
            "stored_adapter_loads": self._stored_adapter_loads(),
        }

    @facts.judged
    def _notices(self, adapted: nn.Module, used: nn.Module, folder: Path) -> None:
        unnoticed = loads_unnoticed(used, folder, self._adapter.adapter_parameters(adapted))
        if unnoticed:
            raise facts.false(f"it loads {unnoticed}, without a word", tensors=[unnoticed])

    def _check_numbers(self, names: Iterable[str], adapted: nn.Module, loaded: nn.Module) -> None:
        """Check that the very numbers were loaded: the probe may not show each of them."""
        wanted, found = facts.named_tensors(adapted), facts.named_tensors(loaded)
        prunes = self._adapter.prunes
        wrong = [
            name
            for name in facts.moved({name: wanted[name] for name in names}, found)
            # What prunes ships the ranks that it kept.
            if not (prunes and name in found and found[name].shape != wanted[name].shape)
        ]
        facts.check_none(wrong, "loaded with other numbers: ")

    @facts.judged
    def _resumes(self, used: nn.Module, folder: Path, expected: Shapes) -> None:
        if why := self._adapter.loads_for_use_only:
            raise facts.null(why)
        facts.check_none(sorted(facts.trainable(used)), "loaded for use, these train: ")
        resumed = self._load(folder, trainable=True)
        facts.check_none(sorted(facts.trainable(resumed).keys() ^ expected.keys()))
        # Whether both have the trained numbers is a matter of `saved_adapter_reloads`.
        self._check_numbers(expected, resumed, used)

    @facts.judged
    def _stored_adapter_loads(self) -> None:
        if self._stored is None:
            raise facts.null("the baselines hold no adapter of this case")
        folder, rows = self._stored
        computed = self._probe.outputs_in_float32(self._load(folder, trainable=False))
        if not outputs.agree_with_rows(computed, rows, tolerance=outputs.STORED_TOLERANCE):
            raise facts.false("it computes other outputs than were stored with it")

    def _load(self, folder: Path, *, trainable: bool) -> nn.Module:
        return self._adapter.load(copy.deepcopy(self._probe.base), folder, trainable=trainable)


@contextlib.contextmanager
def _shifted(model: nn.Module, *, kept: Collection[str]) -> Iterator[None]:
    """Give all that trains other numbers for a while, but parts where a zero means something."""
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    parameters = {n: one for n, one in trained.items() if not any(part in n for part in kept)}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    with torch.no_grad():
        for position, parameter in enumerate(parameters.values(), start=1):
            step = _SHIFT * (1 + position / len(parameters))
            parameter.mul_(1 + step).add_(step / math.prod(parameter.shape[1:]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])
