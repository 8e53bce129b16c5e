"""Which tests measure a case, and which of them this run selects."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec
import pytest

from peft_regress.cases import Case
from peft_regress.catalogue.matrix import DEFAULT_MATRIX, check_matrix, shard_of
from peft_regress.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft_regress.plugin.session import RegressSession

__all__ = ["CollectionHooks", "case_id_of", "case_of"]


def case_of(item: pytest.Item) -> Case | None:
    """Return the pairing that a test measures by its marker, or None for an ordinary test."""
    marker = item.get_closest_marker("case")
    if marker is None or "peft_regress" not in getattr(item, "fixturenames", ()):
        # A marker of that name in a suite that has nothing to do with this plugin.
        return None
    try:
        if marker.args:
            msg = f"{item.nodeid}: marker case(...) takes task, method, architecture, rank by name"
            raise InputError(msg)
        return msgspec.convert(marker.kwargs, Case)
    except msgspec.ValidationError as error:
        msg = f"{item.nodeid}: marker case(...): {error}"
        raise InputError(msg) from None


def case_id_of(item: pytest.Item) -> str | None:
    """Return the pairing's id; None also where the marker is wrong, which is told elsewhere."""
    with contextlib.suppress(InputError):
        case = case_of(item)
        return None if case is None else case.id
    return None


class CollectionHooks:
    """Keep the cases of this run's matrix and shard, and note what was left out, and by whom."""

    def __init__(self, session: RegressSession) -> None:
        self.session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Note what was collected before anything is deselected, then take this shard's part."""
        try:
            self._keep_matrix(config, items)
            cases = self._mark(items)
        except InputError as error:
            self._refuse(config, error)
            return
        self.session.collected = set(cases)
        if self.session.options.shard is not None and cases:
            self._keep_shard(config, items, list(cases.values()))

    def _keep_matrix(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Leave out the cases of other matrices: `benchmarks/` holds the tests of all of them."""
        if self.session.options.matrix != DEFAULT_MATRIX:
            # Here, where every conftest.py has registered what it has.
            check_matrix(self.session.options.matrix)
        kept: list[pytest.Item] = []
        dropped: list[pytest.Item] = []
        for item in items:
            try:
                case = case_of(item)
            except InputError:
                case = None  # `_mark` says what is wrong with it
            mine = case is None or self.session.is_of_matrix(case)
            (kept if mine else dropped).append(item)
            if case is not None and not mine:
                self.session.note_left_out(case)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    def _mark(self, items: list[pytest.Item]) -> dict[str, Case]:
        """Return the cases by id, after giving each of their tests what it needs."""
        cases: dict[str, Case] = {}
        for item in items:
            case = case_of(item)
            if case is None:
                continue
            if case.id in cases:
                msg = f"case {case.id} is measured by two tests; the second is {item.nodeid}"
                raise InputError(msg)
            cases[case.id] = case
            item.add_marker(pytest.mark.xdist_group(str(case.adaptation)))
            # A case that fails before its first timed round leaves the timer unused: no news.
            item.add_marker(pytest.mark.filterwarnings("ignore:Benchmark fixture was not used"))
        return cases

    def _keep_shard(
        self, config: pytest.Config, items: list[pytest.Item], cases: list[Case]
    ) -> None:
        shard = self.session.options.shard
        assert shard is not None  # noqa: S101  (the caller checked)
        try:
            weights = {
                name: float(old.record.metrics["step_seconds"].value)
                for name, old in self.session.references().items()
                if "step_seconds" in old.record.metrics
            }
            shards = shard_of(cases, count=shard.count, weights=weights)
        except InputError as error:
            self._refuse(config, error)
            return
        kept: list[pytest.Item] = []
        dropped: list[pytest.Item] = []
        for item in items:
            case = case_of(item)
            mine = case is None or shards[case.id] == shard.index
            (kept if mine else dropped).append(item)
        if dropped:
            config.hook.pytest_deselected(items=dropped)
            items[:] = kept

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Note what was left out on purpose: by `-k`, `-m`, `--deselect`, `--lf`, a shard."""
        with contextlib.suppress(InputError):
            self.session.deselected |= {case.id for item in items if (case := case_of(item))}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the baselines before the first case runs: unreadable ones must not cost a run."""
        if self.session.refusal is not None:
            return
        self.session.selected = {case.id for item in session.items if (case := case_of(item))}
        if self.session.selected and not session.config.getoption("collectonly"):
            try:
                self.session.references()
            except InputError as error:
                self._refuse(session.config, error)

    def _refuse(self, config: pytest.Config, error: InputError) -> None:
        """Stop the run; a worker cannot, so there every case fails with the reason instead."""
        if not hasattr(config, "workerinput"):
            raise pytest.UsageError(str(error)) from None
        self.session.refusal = error
