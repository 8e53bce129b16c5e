"""What the entries of a storage say all together: what judges each case, and what they rely on.

It is put together entry by entry, oldest first, so that it can go on from what `index` kept.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from peft_regress.baselines.chain import Link, Names, acceptance_of, check_whole, has_addresses
from peft_regress.gate.changes import next_origins
from peft_regress.gate.policy import DEFAULT_POLICY, Policy
from peft_regress.gate.verdicts import Confirmation, Observation, observations_of
from peft_regress.runs.run_file import RunFile
from peft_regress.runs.schema import Acceptance


class Judge(NamedTuple):
    """What judges a case: its newest entry of role `baseline`."""

    entry: int
    """Its position among the entries."""
    observation: Observation
    """Without ledger; with the older entries that its drift counts from."""


@dataclass(kw_only=True)
class Contents:
    """The entries of a storage in order, as far as they were added, and what follows from them."""

    policy: Policy = DEFAULT_POLICY
    links: list[Link] = field(default_factory=list)
    ledgers: Names = field(default_factory=dict)
    adapters: Names = field(default_factory=dict)
    adapter_of: dict[str, tuple[int, str]] = field(default_factory=dict)
    """For each case whose adapter an entry names: the newest such entry, and the digest. What was
    named last is last."""
    own: set[str] = field(default_factory=set)
    """The cases that are a user's own."""
    has_addresses: bool = False
    """Whether adapters lie under addresses, not under names as in storages from before."""
    judges: dict[str, Judge] = field(default_factory=dict)
    """For each expected case what judges it."""

    def add(self, entry: RunFile, file_digest: str = "") -> None:
        """Add the next entry."""
        accepted, index = acceptance_of(entry), len(self.links)
        self.links.append(Link.of(entry, file_digest))
        for name, record in entry.run.cases.items():
            if record.is_own:
                self.own.add(name)
            if isinstance(record.ledger, str):
                self._name(self.ledgers, record.ledger, index, name)
        for case, digest in accepted.adapters.items():
            self._name(self.adapters, digest, index, case)
            self.adapter_of.pop(case, None)
            self.adapter_of[case] = index, digest
        self.has_addresses = self.has_addresses or has_addresses(accepted)
        if accepted.role == "baseline":
            self._judge(entry, accepted, index)

    def _name(self, names: Names, digest: str, index: int, case: str) -> None:
        """Note which entry relies on a part first; those from before the chain rely on none."""
        known = names.get(digest)
        if known is None or (self.links[index].entry and not self.links[known[0]].entry):
            names[digest] = index, case

    def _judge(self, entry: RunFile, accepted: Acceptance, index: int) -> None:
        """Let an entry judge its cases from now on."""
        for name in accepted.retired:
            self.judges.pop(name, None)
        for name, new in observations_of(entry.run, entry.path.stem).items():
            known = self.judges.get(name)
            old = None if known is None else known.observation
            origins = next_origins(
                {} if old is None else old.drift_origins,
                None if old is None else (old.run_name, old.record),
                (new.run_name, new.record),
                policy=self.policy,
            )
            curves = {**({} if old is None else old.curves), **new.curves}
            judging = dataclasses.replace(new, drift_origins=origins, curves=curves)
            self.judges[name] = Judge(index, judging)
        for name in accepted.repeats:
            position, observation = self.judges[name]
            by = Confirmation(entry=entry.path.stem, environment=entry.run.environment)
            confirmed = dataclasses.replace(observation, confirmed=by)
            self.judges[name] = Judge(position, confirmed)

    @property
    def references(self) -> dict[str, Observation]:
        """What judges each expected case, by id, without ledgers."""
        return {name: judge.observation for name, judge in self.judges.items()}

    @property
    def judged_by(self) -> dict[int, list[str]]:
        """The cases that each entry judges, by its position."""
        found: dict[int, list[str]] = {}
        for name, judge in self.judges.items():
            found.setdefault(judge.entry, []).append(name)
        return found

    def check_whole(self, root: Path) -> None:
        """Raise `RunFileError` if entries, or parts that they name, are missing or do not fit."""
        check_whole(root, self.links, ledgers=self.ledgers, adapters=self.adapters)
