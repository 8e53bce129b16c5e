"""Write the tables of docs/choosing.md: what `choose` answers on every network of the study.

`page_tables.py` says how; it takes some minutes.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Final

from page_tables import ROOT, main_of_tables, table

from peft_regress.catalogue.evidence import read_evidence
from peft_regress.choosing.candidates import Answer, Limits, of_architecture, relimited, try_all
from peft_regress.choosing.ranking import difference

PAGE: Final = ROOT / "docs" / "choosing.md"
BATCH: Final = 8
RESOLUTION: Final = 224
TASKS: Final = ("unseen", "shift")
NETWORKS: Final = ("mobilenet_v2", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5")
"""For memory, of which no study is needed."""


@functools.cache
def priced(network: str, batch: int, only: str = "*") -> Answer:
    """Return every method of the catalogue on a network, without any limit."""
    subject = of_architecture(network, batch=batch, resolution=RESOLUTION)
    return try_all(subject, Limits(), only=only)


def limits(network: str) -> dict[str, Limits]:
    """Return what a user may lack, in shares of what full fine-tuning takes."""
    full = priced(network, BATCH).full
    assert full is not None  # noqa: S101  (it is tried in any case)
    memory, update, ship = full.costs.memory, full.costs.update, full.costs.ship
    return {
        "no limit": Limits(),
        "1/2 memory": Limits(memory=memory // 2),
        "1/5 memory": Limits(memory=memory // 5),
        "3/4 FLOPs": Limits(update=update * 3 // 4),
        "1/10 ship": Limits(ship=ship // 10),
    }


def networks(task: str) -> list[str]:
    """Return the networks with a study of a task."""
    return sorted(read_evidence().studies.get(task, {}))


def choices(task: str) -> str:
    """Return the method that `choose` takes, with its points above full fine-tuning."""
    found = networks(task)
    names = list(limits(found[0]))

    def cell(network: str, name: str) -> str:
        answer = relimited(priced(network, BATCH), limits(network)[name])
        of = dataclasses.replace(answer, study=read_evidence().studies[task][network])
        if of.problem or not of.order:
            return "no advice" if of.problem else "nothing fits"
        first, full = of.order[0], of.full
        if full is None or first.method == "full":
            return "full"
        if not first.scores:
            return f"{first.name} (no score)"
        points = 100 * difference(first.scores, full.scores).mean
        return f"{first.name} ({points:+.1f})"

    rows = [[network, *(cell(network, name) for name in names)] for network in found]
    return table(["network", *names], rows)


def memory() -> str:
    """Return the memory of a step over that of full fine-tuning, at two batches."""
    methods = ("head", "lora-r4", "lora-r16", "dora-r4", "galore-r4")
    rows = []
    for network in NETWORKS:
        for batch in (1, BATCH):
            tried = (priced(network, batch, name.partition("-")[0]).candidates for name in methods)
            found = {one.name: one.costs.memory for candidates in tried for one in candidates}
            shares = (f"{found[name] / found['full']:.2f}" for name in methods)
            rows.append([network, str(batch), *shares])
    return table(["network", "batch", *(f"`{name}`" for name in methods)], rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    **{task: functools.partial(choices, task) for task in TASKS},
    "memory": memory,
}

if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "choices", TABLES))
