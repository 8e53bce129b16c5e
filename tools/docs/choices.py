"""Write the tables of docs/choosing.md: what `choose` answers on every network of the study.

`page_tables.py` says how; it takes some minutes.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable
from typing import Final

from page_tables import ROOT, main_of_tables, recorded, table

from peft_regress import registry
from peft_regress.catalogue.evidence import FULL, read_evidence
from peft_regress.choosing import candidates as choosing
from peft_regress.choosing.candidates import Answer, Limits
from peft_regress.choosing.ranking import difference

PAGE: Final = ROOT / "docs" / "choosing.md"
BATCH: Final = 8
BATCHES: Final = (1, BATCH, 32)
RESOLUTION: Final = 224
TASKS: Final = ("unseen", "shift")
NETWORKS: Final = ("mobilenet_v2", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5")
"""For memory, of which no study is needed."""


def subject(network: str, batch: int) -> choosing.Subject:
    """Return a step on some images."""
    return choosing.of_architecture(network, batch=batch, resolution=RESOLUTION)


@functools.cache
def priced(network: str) -> Answer:
    """Return every method of the catalogue on a network, without any limit."""
    return choosing.try_all(subject(network, BATCH), Limits())


def limits(network: str) -> dict[str, Limits]:
    """Return what a user may lack, in shares of what full fine-tuning takes without `lean`."""
    full = next(one for one in priced(network).candidates if one.method == FULL)
    memory, update = full.plain_memory or full.costs.memory, full.costs.update
    return {
        "no limit": Limits(),
        "1/2 memory": Limits(memory=memory // 2),
        "1/5 memory": Limits(memory=memory // 5),
        "3/4 FLOPs": Limits(update=update * 3 // 4),
        "1/10 ship": Limits(ship=full.costs.ship // 10),
    }


def networks(task: str) -> list[str]:
    """Return the networks with a study of a task."""
    return sorted(read_evidence().studies.get(task, {}))


def choices(task: str) -> str:
    """Return the method that `choose` takes, with its points above full fine-tuning."""
    found = networks(task)
    names = list(limits(found[0]))

    def cell(network: str, name: str) -> str:
        answer = choosing.relimited(priced(network), limits(network)[name])
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


def sizes(network: str, batch: int) -> dict[str, float]:
    """Return the bytes of a step: in PyTorch as it is, by `lean`, and as ExecuTorch plans it.

    What it plans is known for one image. Methods that `lean` does not help keep what they take.
    """
    ranks, found = {"full": None, "head": None, "lora": 4, "dora": 4}, dict[str, float]()
    for name, rank in ranks.items():
        method = registry.get("method", name).at(rank)
        one = choosing.price(subject(network, batch), method, Limits())
        found[one.name] = one.plain_memory or one.costs.memory
        found[f"lean {one.name}"] = one.costs.memory
    if batch == 1:
        planned = recorded()[f"edge/lora-r4/{network}"].metrics["edge_train_bytes"]
        found["ExecuTorch lora-r4"] = planned.value
    return found


def memory() -> str:
    """Return the memory of a step over that of full fine-tuning in PyTorch as it is."""
    shown = ["head", "lora-r4", "lean lora-r4", "lean dora-r4", "ExecuTorch lora-r4"]
    rows = []
    for network, batch in itertools.product(NETWORKS, BATCHES):
        found = sizes(network, batch)
        shares = (f"{found[n] / found['full']:.2f}" if n in found else "" for n in shown)
        rows.append([network, str(batch), *shares])
    return table(["network", "batch", *shown], rows)


TABLES: Final[dict[str, Callable[[], str]]] = {
    **{task: functools.partial(choices, task) for task in TASKS},
    "memory": memory,
}

if __name__ == "__main__":
    sys.exit(main_of_tables(PAGE, "choices", TABLES))
