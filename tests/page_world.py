"""The data of a page, built after page_world.csv: true costs of 48 pairings, a made-up history."""

from __future__ import annotations

import copy
import csv
import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

from peft_regress.budgets import UNITS
from peft_regress.metrics import INVARIANTS, METRICS
from peft_regress.report.page.comparisons import Texts

ENVIRONMENTS = [
    {"peft": "0.14.0", "torch": "2.12.0", "galore-torch": "1.0"},
    {"peft": "0.15.2"},
    {"peft": "0.21.2", "torch": "2.13.0"},
    {"peft": "0.21.2", "torch": "2.13.0", "galore-torch": None},
]
ENTRIES = [
    # name, date, role, environment
    ("0001_peft-0.21.2", "2026-07-01T10:00:00+00:00", "baseline", 2),
    ("0002_peft-0.14.0", "2026-07-02T10:00:00+00:00", "history", 0),
    ("0003_peft-0.15.2", "2026-07-03T10:00:00+00:00", "history", 1),
    ("0004_peft-0.21.2", "2026-09-10T10:00:00+00:00", "baseline", 2),
    ("bench.json", "2026-11-20T10:00:00+00:00", "run", 3),
]
ORDERS = [
    {"by": "peft", "entries": [1, 2, 0, 3, 4]},
    {"by": "date", "entries": [0, 1, 2, 3, 4]},
]
DEVICES = [
    {
        "name": "tiny",
        "title": "A tiny board",
        "memory": 60 * 2**20,
        "storage": 6 * 2**20,
        "compute": "one core",
        "source": "https://example.org/tiny",
    },
    {
        "name": "board",
        "title": "A board",
        "memory": 70 * 2**20,
        "storage": None,
        "compute": "two cores",
        "source": "https://example.org/board",
    },
]
FAILING = "unseen/galore-r16/mobilenet_v3_small"
FAILED = "error (RuntimeError: linalg.svd: did not converge)"
REDEFINED = "shift/head/resnet18"
"""Its definition changed at entry 3, so its accuracy cannot be compared."""


def page_data(*, tasks: tuple[str, ...] = ("shift", "unseen")) -> dict[str, Any]:
    """Return the values of a page: 96 cases by default, five entries, two orders of them."""
    return _page(
        [_case(row, task) for task in tasks for row in _rows()],
        entries=[_entry(*entry) for entry in ENTRIES],
        environments=ENVIRONMENTS,
        orders=ORDERS,
    )


def one_case(case_id: str = "shift/lora-r4/resnet18") -> dict[str, Any]:
    """Return a page of one case."""
    data = page_data()
    return {**data, "cases": [case for case in data["cases"] if case["id"] == case_id]}


def scored_page(*, batch: int) -> dict[str, Any]:
    """Return a page of own cases: their costs are of one batch, and they have scores."""
    data = page_data(tasks=("shift",))
    names = {"accuracy": "score", "score": "own_score"}
    metrics = [
        {**metric, "name": names.get(name := metric["name"], name.replace("_b32", "_more"))}
        for metric in data["metrics"]
    ]
    cases = [{**case, "batch": batch, "has_score": True} for case in data["cases"]]
    return {**data, "metrics": metrics, "cases": cases}


def one_entry() -> dict[str, Any]:
    """Return a page of one stored entry: every line is a point."""
    data = page_data()
    for case in data["cases"]:
        case |= {"current": 0, "marks": {"date": []}, "transitions": []}
        case["status"] = {"at": [0], "values": ["ok"]}
        case["lines"] = [
            {"metric": line["metric"], "now": now, "at": [0], "values": [now]}
            for line in case["lines"]
            for now in line["values"][-1:]
        ]
    return {
        **data,
        "entries": data["entries"][:1],
        "environments": [{**ENVIRONMENTS[0], **ENVIRONMENTS[2]}],
        "orders": [{"by": "date", "entries": [0]}],
    } | {
        "entries": [{**data["entries"][0], "environment": 0}],
        "comparisons": {**data["comparisons"], "verdict": None},
    }


def failing_page() -> dict[str, Any]:
    """Return a page of cases that never came through: no entry has a metric."""
    data = page_data(tasks=("shift",))
    for case in data["cases"]:
        case |= {"lines": [], "marks": {}, "attribution": [], "transitions": []}
        case["status"] = {"at": [0], "values": [FAILED]}
        case["invariants"] = [None] * len(INVARIANTS)
    return {**data, "metrics": []}


def empty_page() -> dict[str, Any]:
    """Return a page of a storage that holds nothing."""
    return _page([], entries=[], environments=[], orders=[{"by": "date", "entries": []}])


def long_history(*, entries: int = 500, cases: int = 100) -> dict[str, Any]:
    """Return a page as large as they get: every metric of every case moves now and then."""
    data = page_data()
    names = [
        (f"{n:04}_peft-0.{n}.0", f"2026-01-01T00:{n // 60:02}:{n % 60:02}+00:00", "baseline", 0)
        for n in range(entries)
    ]
    at = list(range(0, entries, max(1, entries // 60)))
    for case in data["cases"]:
        case |= {"current": entries - 1, "status": {"at": [0], "values": ["ok"]}}
        for line in case["lines"]:
            value = line["values"][0]
            line["at"] = at
            line["values"] = [value * (1 + 0.001 * (k % 7)) for k in range(len(at))]
            line["now"] = line["values"][-1]
        case["marks"] = {
            "date": [[line, e, "worse", 0.001] for line in range(4) for e in at[1:]],
        }
    data["cases"] = [
        {**case, "id": f"{case['id']}{'' if n < len(data['cases']) else '_more'}"}
        for n, case in enumerate((data["cases"] * 2)[:cases])
    ]
    return {
        **data,
        "entries": [_entry(*name) for name in names],
        "environments": ENVIRONMENTS[:1],
        "orders": [{"by": "date", "entries": list(range(entries))}],
        "thinned": {"entries": entries, "points": len(at), "marks": None},
    }


def line_value(line: dict[str, Any], entry: int) -> float | None:
    """Return what a line has at an entry."""
    held = [value for at, value in zip(line["at"], line["values"], strict=True) if at <= entry]
    return held[-1] if held else None


def current_value(data: dict[str, Any], case: dict[str, Any], metric: str) -> float | None:
    """Return a case's present value of a metric."""
    for line in case["lines"]:
        if data["metrics"][line["metric"]]["name"] == metric:
            return line_value(line, case["current"])
    return None


def _rows() -> list[dict[str, str]]:
    with Path(__file__).with_suffix(".csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def _page(cases: list[dict[str, Any]], **parts: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "peft_regress": "0.1.0",
        **copy.deepcopy(parts),
        "metrics": [{"name": name, **dataclasses.asdict(m)} for name, m in METRICS.items()],
        "invariants": list(INVARIANTS),
        "devices": DEVICES,
        "units": UNITS,
        "thinned": None,
        "comparisons": _comparisons(parts["entries"], cases),
        "cases": sorted(cases, key=lambda case: case["id"]),
    }


def _comparisons(entries: list[dict[str, Any]], cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdict on the newest entry, which has something of everything."""
    texts = Texts()
    names = [entry["name"] for entry in entries]
    verdict = _verdict(len(entries) - 1, texts) if cases else None
    return {"verdict": verdict, "pairs": [], "names": names, "options": "", "texts": texts.all}


def _verdict(newest: int, texts: Texts) -> dict[str, Any]:
    cases = [f"shift/dora-r{rank}/resnet18" for rank in (1, 4, 16)]
    cells = ("3.854 GFLOP", "7.481 GFLOP", "+94.12 %", "0 %")
    failing = {
        "group": "failing",
        "verdict": "regressed",
        "headline": texts.number("regressed in 3 cases: forward_flops +94.12 %"),
        "about": texts.numbers(["where: lora_magnitude_vector.default, convolution"]),
        "rows": [texts.numbers((case, "forward_flops", *cells)) for case in cases],
        "example": [texts.number(cases[0]), texts.numbers(["forward_flops: 3.854 -> 7.481 GFLOP"])],
    }
    missing = {
        "group": "incomplete",
        "verdict": "missing",
        "headline": texts.number("missing in 1 case: expected, but the run has no record of it"),
        "about": texts.numbers(["they did not run, or were renamed"]),
        "cases": texts.numbers(["shift/gone/resnet18"]),
    }
    better = {
        "group": "better",
        "verdict": "improved",
        "headline": texts.number("improved in 1 case: peak_bytes -3 %"),
        "about": [],
        "cases": texts.numbers(["shift/full/resnet18"]),
    }
    return {
        "old": None,
        "new": newest,
        "exit_code": 1,
        "outcome": texts.number("REGRESSED (3 regressed, 1 missing, 1 improved, 92 unchanged)"),
        "counts": {"regressed": 3, "missing": 1, "improved": 1, "unchanged": 92},
        "findings": [failing, missing, better],
        "setting": texts.numbers(["baseline: 0004_peft-0.21.2", "environment: as in the baseline"]),
        "defects": [[texts.number("merge_equals_unmerged is false"), texts.numbers(cases[:1])]],
        "budgets": [texts.numbers([cases[0], "peak", "2.0 MiB", "1.0 MiB", "200 %", "over"])],
        "steps": [[texts.number("which release did it"), texts.number("peft-regress bisect peft")]],
        "command": texts.number("peft-regress compare baselines bench.json"),
    }


def _entry(name: str, date: str, role: str, environment: int) -> dict[str, Any]:
    return {
        "name": name,
        "date": date,
        "role": role,
        "reason": "" if role == "run" else f"accepted as {name}",
        "machine": "Intel Xeon, 2 cores, 2 threads, AVX512",
        "machine_digest": "sha256:machine",
        "environment": environment,
        "complete": role != "run",
        "narrowed_by": ["-k not slow"] if role == "run" else [],
    }


def _case(row: dict[str, str], task: str) -> dict[str, Any]:
    method, _, rank = row["method_rank"].partition("-r")
    case_id = f"{task}/{row['method_rank']}/{row['architecture']}"
    failing = case_id == FAILING
    lines = [
        {"metric": list(METRICS).index(name), **_history(name, value, method, failing=failing)}
        for name, value in _values(row, task).items()
    ]
    lines = [{"now": line["values"][-1], **line, **_facts(line)} for line in lines]
    return {
        "id": case_id,
        "task": task,
        "method": method,
        "rank": int(rank) if rank else None,
        "architecture": row["architecture"],
        "current": 4,
        "status": {"at": [0, 4], "values": ["ok", FAILED]}
        if failing
        else {"at": [0], "values": ["ok"]},
        "invariants": [_invariant(name, method) for name in INVARIANTS],
        "lines": lines,
        "marks": {
            order["by"]: _marks(lines, order["entries"], redefined=case_id == REDEFINED)
            for order in ORDERS
        },
        **({"verdict": "regressed"} if case_id.startswith("shift/dora") else {}),
        "budgets": [],
        "attribution": [] if failing else _attribution(lines),
        "transitions": _transitions(lines) if method == "dora" else [],
    }


def _facts(line: dict[str, Any]) -> dict[str, Any]:
    """Accuracy may change by 5 points, and its seeds differ by 3."""
    value = line["values"][-1]
    if list(METRICS)[line["metric"]] != "accuracy" or value is None:
        return {}
    return {"bound": 0.05, "seeds": [value - 0.02, value + 0.01]}


def _values(row: dict[str, str], task: str) -> dict[str, float]:
    known = {name: float(row[name]) for name in METRICS if row.get(name)}
    for name in ("optimizer_flops", "projection_flops"):
        if name in known:
            known[f"{name}_b32"] = known[name]
    for category in ("param", "buffer", "grad", "optimizer"):
        known[f"peak_{category}_bytes_b32"] = known[f"peak_{category}_bytes"]
    for suffix in ("", "_b32"):
        known["category_sum_bytes" + suffix] = sum(
            known[f"peak_{category}_bytes{suffix}"]
            for category in ("param", "buffer", "grad", "activation", "temp", "optimizer")
        )
    known["accuracy"] = float(row[f"accuracy_{task}"])
    known["loss"] = float(row[f"loss_{task}"])
    known["first_losses"] = 7.481372992197673
    known["filled_losses"] = 8.19504073105827
    known["step_seconds"] = known["forward_flops"] / 3e10
    return {name: known[name] for name in METRICS if name in known}


def _history(name: str, value: float, method: str, *, failing: bool) -> dict[str, Any]:
    """DoRA costs twice the FLOPs with peft 0.14; filled losses and times came later."""
    exact = METRICS[name].unit in {"count", "flop", "byte"}
    value = int(value) if exact else value
    at: list[int] = [0]
    values: list[float | None] = [value]
    if method == "dora" and name in {"forward_flops", "backward_flops"}:
        at, values = [0, 1, 2], [value, round(value * 1.9412), value]
    elif name == "accuracy" and method == "galore":
        at, values = [0, 3], [value + 0.12, value]
    elif name == "filled_losses":
        at = [3]
    elif name == "step_seconds":
        at = [4]
    return {"at": [*at, 4], "values": [*values, None]} if failing else {"at": at, "values": values}


def _marks(lines: list[dict[str, Any]], order: list[int], *, redefined: bool) -> list[list[Any]]:
    marks: list[list[Any]] = []
    for index, line in enumerate(lines):
        metric = list(METRICS)[line["metric"]]
        for before, after in pairwise(order):
            old, new = line_value(line, before), line_value(line, after)
            if redefined and metric == "accuracy" and after == 3:
                marks.append([index, after, "break", None])
            elif old is not None and new is not None and old != new:
                fraction = METRICS[metric].unit == "fraction"
                better = (new < old) == (METRICS[metric].direction == "lower")
                change = new - old if fraction else (new - old) / old
                marks.append([index, after, "better" if better else "worse", change])
    return marks


def _invariant(name: str, method: str) -> bool | None:
    if name == "channels_last_kept":
        return method != "dora"
    if name == "projections_renewed":
        return True if method == "galore" else None
    return None if name == "stored_adapter_loads" else True


def _attribution(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "metric": line["metric"],
            "rows": [
                ["layer1.0.conv1.base_layer", "aten.convolution", int(line["values"][-1] * 0.6)],
                ["layer1.0.conv1.lora_A.default", "aten.convolution", int(line["values"][-1] / 8)],
            ],
            "rest": int(line["values"][-1])
            - int(line["values"][-1] * 0.6)
            - int(line["values"][-1] / 8),
            "rest_rows": 17,
        }
        for line in lines
        if list(METRICS)[line["metric"]] in {"forward_flops", "peak_bytes"}
    ]


def _transitions(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "metric": line["metric"],
            "from": 0,
            "to": 1,
            "old": line["values"][0],
            "new": line["values"][1],
            "rows": [["conv1.lora_magnitude_vector.default", "aten.convolution", 0, 236027904]],
            "rest_rows": 17,
        }
        for line in lines
        if len(line["values"]) > 2
    ]
