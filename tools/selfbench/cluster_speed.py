"""How well work is spread over a Dask cluster.

    python tools/selfbench/cluster_speed.py               simulate 10,000 cases on 64 nodes
    python tools/selfbench/cluster_speed.py --measure     also measure 24 cases here, in two ways

The simulation hands out tasks by the rule of `peft_regress.environments.cluster.slots`, with the
training times that a stored baseline has recorded, and compares the time that it takes with a lower
bound: the sum of all times over the number of nodes. `--measure` compares two workers of a Dask
cluster of this machine with `measure --jobs 2`; let it run alone.
"""

from __future__ import annotations

import argparse
import heapq
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peft_regress.cases import Case
from peft_regress.environments.cluster.slots import Slots, heaviest_first
from peft_regress.environments.upgrade.orders import groups_of
from peft_regress.environments.upgrade.releases import MOST_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ROOT: Final = Path(__file__).resolve().parents[2]
_RECORDED: Final = _ROOT / "baselines" / "Linux-CPython-3.11-64bit" / "0002_peft-0.21.2.json"
_NODES: Final = 64
_CASES: Final = 10_000
_START_SECONDS: Final = 15.0
"""A process that imports the libraries, and before it an environment that is built."""
_PROMISED: Final = 1.15
_PROMISED_HERE: Final = 1.10
_GLOB: Final = "*/mobilenet_v3_small"


def main() -> None:
    """Simulate, measure if asked, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--measure", action="store_true", help="also measure 24 cases here")
    chosen = parser.parse_args()
    seconds = recorded_seconds()
    holds = True
    for what, orders in (
        ("one environment", one_environment(seconds)),
        ("the matrix in many environments", many_environments(seconds)),
    ):
        count = sum(len(group) for order in orders for group in order.groups)
        ratio = simulated(orders) / lower_bound(orders)
        print(f"{count:,} cases on {_NODES} nodes, {what}: {ratio:.3f} of the lower bound "
              f"(promised: {_PROMISED})")  # fmt: skip
        holds = holds and ratio <= _PROMISED
    if chosen.measure:
        ratio = measured_ratio()
        print(f"two workers of a cluster, against `measure --jobs 2`: {ratio:.2f} "
              f"(promised: {_PROMISED_HERE})")  # fmt: skip
        holds = holds and ratio <= _PROMISED_HERE
    sys.exit(0 if holds else 1)


@dataclass
class SimulatedOrder:
    """Groups of cases in one environment, each case with its seconds."""

    environment: str
    groups: list[list[float]]
    waiting: list[list[float]] = field(default_factory=list)
    running: int = 0
    number: int = 0


def recorded_seconds(file: Path = _RECORDED) -> dict[str, float]:
    """Return the seconds of each case's trainings, as a baseline has recorded them."""
    document = json.loads(file.read_text())
    return {
        entry["extra_info"]["peft_regress"]["case_id"]: entry["stats"]["total"]
        for entry in document["benchmarks"]
    }


def many_environments(seconds: Mapping[str, float]) -> list[SimulatedOrder]:
    """Return the matrix in so many environments that it makes 10,000 cases."""
    groups = _groups(seconds)
    count = round(_CASES / len(seconds))
    return [SimulatedOrder(f"release {number}", groups) for number in range(count)]


def one_environment(seconds: Mapping[str, float]) -> list[SimulatedOrder]:
    """Return 10,000 cases of one environment."""
    groups = _groups(seconds)
    count = round(_CASES / len(seconds))
    return [SimulatedOrder("here", [group for _ in range(count) for group in groups])]


def _groups(seconds: Mapping[str, float]) -> list[list[float]]:
    cases = [Case.parse(name) for name in seconds]
    names = heaviest_first([[case.id for case in group] for group in groups_of(cases)])
    return [[seconds[name] for name in group] for group in names]


def lower_bound(orders: Sequence[SimulatedOrder], nodes: int = _NODES) -> float:
    """Return the seconds that no schedule can beat, without the time to start anything."""
    times = [sum(group) for order in orders for group in order.groups]
    return max(sum(times) / nodes, *times)


def simulated(
    orders: Sequence[SimulatedOrder], nodes: int = _NODES, start_seconds: float = _START_SECONDS
) -> float:
    """Return the seconds until all groups have ended, if nodes take them as a cluster's do.

    A node that takes a group of another environment than its last one needs `start_seconds` more.
    """
    slots = Slots(lambda: [f"node {number}" for number in range(nodes)])
    later = deque(orders)
    open_orders: list[SimulatedOrder] = []
    last: dict[str, str] = {}
    ends: list[tuple[float, int, str, SimulatedOrder]] = []
    now, count = 0.0, 0
    while later or open_orders:
        while later and len(open_orders) < MOST_AT_ONCE:
            order = later.popleft()
            order.waiting = order.groups[::-1]
            order.number = slots.enter(order.environment, lambda: None)
            open_orders.append(order)
        is_moving = True
        while is_moving:
            is_moving = False
            for order in open_orders:
                node = slots.take(order.number) if order.waiting else None
                if node is None:
                    continue
                group = order.waiting.pop()
                slots.want(order.number, more=bool(order.waiting))
                spent = sum(group) + (start_seconds if last.get(node) != order.environment else 0)
                last[node] = order.environment
                count += 1
                order.running += 1
                heapq.heappush(ends, (now + spent, count, node, order))
                is_moving = True
        now, _, node, order = heapq.heappop(ends)
        slots.give_back(order.number, node)
        order.running -= 1
        if not order.waiting and not order.running:
            slots.leave(order.number)
            open_orders.remove(order)
    return now


def measured_ratio() -> float:
    """Return the time of two workers of a cluster over that of two local workers.

    Each is the shorter one of two: another program can only lengthen it.
    """
    import dask
    from distributed import LocalCluster

    # As docs/cluster.md says; the workers inherit it.
    dask.config.set({"distributed.worker.profile.enabled": False})
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        local, remote = [], []
        for _ in range(2):
            local.append(_measure(folder, "--jobs", "2"))
            with LocalCluster(
                n_workers=2, threads_per_worker=1, resources={"slot": 1}, dashboard_address=":0",
                local_directory=folder, memory_limit=0,
            ) as cluster:  # fmt: skip
                remote.append(_measure(folder, "--on", cluster.scheduler_address))
    return min(remote) / min(local)


def _measure(folder: str, *options: str) -> float:
    command = ["-m", "peft_regress", "measure", "--cases", _GLOB, "--save", f"{folder}/run.json"]
    begun = time.monotonic()
    subprocess.run([sys.executable, *command, *options], cwd=_ROOT, check=True)
    return time.monotonic() - begun


if __name__ == "__main__":
    main()
