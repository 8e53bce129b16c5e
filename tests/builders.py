"""Build records, runs and run files for tests: small, valid, and without measuring."""

import errno
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from peft_regress.baselines.accept import accept_run
from peft_regress.baselines.current import Contents, read_contents, write_current
from peft_regress.baselines.run_adapters import adapters_of_run, keep_adapter
from peft_regress.baselines.storage import (
    Link,
    check_order,
    entry_name,
    read_entries_of,
    read_while_still,
)
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrix_cases, shard_of
from peft_regress.gate.changes import next_origins
from peft_regress.gate.judge import judge, judge_case
from peft_regress.gate.verdicts import Observation, observations_of
from peft_regress.invariants import EDGE_INVARIANTS, INVARIANTS
from peft_regress.metrics import BATCH_SUFFIX, COST_METRICS, METRICS, OF_ALL_SEEDS, Metric
from peft_regress.project.devices import RESERVE_BYTES, DeviceClass, process_bytes
from peft_regress.runs import schema
from peft_regress.runs.journal import read_journal
from peft_regress.runs.ledger import rows_of
from peft_regress.runs.ledger_files import ledger_content, ledger_file, with_digests
from peft_regress.runs.run_file import read_run_file, write_run_file

LORA = "shift/lora-r4/resnet18"
UNSEEN_LORA = "unseen/lora-r4/resnet18"
FULL = "shift/full/resnet18"
GALORE = "unseen/galore-r4/mobilenet_v2"

MACHINE = schema.Machine(
    digest="sha256:here", cpu="Example CPU", cores=2, threads=1, instruction_set="AVX2"
)
OTHER_MACHINE = schema.Machine(
    digest="sha256:there", cpu="Another CPU", cores=8, threads=1, instruction_set="NEON"
)
ENVIRONMENT = {"peft": "0.18.1", "python": "3.11.7", "torch": "2.13.0"}

_COSTS = COST_METRICS.keys() - {"first_step_peak_bytes"}
_LATER = {
    "training_keeps_no_memory",
    "unmerge_restores_base",
    "refused_merge_keeps_base",
    "adapters_do_not_leak",
    "delete_leaves_nothing",
    *EDGE_INVARIANTS,
}
KNOWN_BEFORE = frozenset(
    {
        *("trainable_params", "total_params", "adapter_bytes", "first_losses", "filled_losses"),
        *("accuracy", "loss", "step_seconds", "relative_step_seconds"),
        *_COSTS,
        *(name + BATCH_SUFFIX for name in _COSTS),
        *(name for name in INVARIANTS if name not in _LATER),
    }
)
"""The metrics and invariants that the writers of test runs could measure, not all of today's."""

VALUES: dict[str, Any] = {
    "trainable_params": 150_000,
    "adapter_bytes": 600_000,
    "forward_flops": 3_638_000_000,
    "backward_flops": 7_270_000_000,
    "peak_bytes": 120_000_000,
    "peak_bytes_b32": 2_900_000_000,
    "aten_ops": 900,
    "first_losses": [[2.3, 2.2, 2.1, 2.0], [2.4, 2.3, 2.2, 2.1], [2.5, 2.4, 2.3, 2.2]],
    "accuracy": [0.90, 0.92, 0.91],
    "loss": [0.30, 0.28, 0.29],
    "step_seconds": [0.050, 0.051, 0.052],
}
"""A value of each metric that matters; a list has one sample for each seed."""


LEDGER = schema.Ledger(
    modules={
        "": schema.ModuleCosts(optimizer_flops=9, high_bytes={"activation": 77}),
        "conv1.base_layer": schema.ModuleCosts(
            forward_flops={"aten.convolution": 3_638_000_000},
            backward_flops={"aten.convolution_backward": 456},
            high_bytes={"param": 400, "activation": 80},
            peak_bytes={"activation": 0},
            b32=schema.BatchCosts(peak_bytes={"activation": 80}),
        ),
    },
    optimizer_flops={"aten.mul": 4, "aten.add": 5},
    peak_phase={"peak_bytes": "backward", "peak_bytes_b32": "forward"},
)
SMALL_LEDGER = schema.Ledger(
    modules={
        "conv1": schema.ModuleCosts(
            forward_flops={"aten.convolution": 123}, high_bytes={"param": 456, "grad": 40}
        )
    }
)


def make_case(identifier=LORA):
    """Read a case id without asking the registry."""
    task, ranked, architecture = identifier.split("/")
    match = re.fullmatch(r"(.+)-r(\d+)", ranked)
    method, rank = (match[1], int(match[2])) if match else (ranked, None)
    return Case(task=task, method=method, architecture=architecture, rank=rank)


def make_metric(name, value):
    """Return a metric as the table declares it; a list is its samples."""
    spec = METRICS[name]
    samples = None
    if isinstance(value, list):
        samples = value
        firsts = [item[0] if isinstance(item, list) else item for item in value]
        value = sum(firsts) / len(firsts)
    return Metric(
        value=value, unit=spec.unit, direction=spec.direction, kind=spec.kind, samples=samples
    )


def make_device(name, tensors, storage=None, **more):
    more = {"title": name, "compute": "", "source": "s", **more}
    memory = RESERVE_BYTES + process_bytes(tensors, "peft")
    return DeviceClass(name=name, memory_bytes=memory, storage_bytes=storage, **more)


def make_record(
    identifier=LORA,
    metrics=None,
    *,
    status="ok",
    error=None,
    definition="sha256:definition",
    invariants=None,
    ledger=None,
    **more,
):
    """Return a record; `metrics` are values, lists of samples, or whole `Metric`s.

    `more` are other keys.
    """
    if metrics is None:
        metrics = VALUES if status == "ok" else {}
    if error is None and status != "ok":
        error = schema.Failure(type="ValueError", message="no eligible module")
    return schema.Record(
        case=make_case(identifier),
        definition=definition,
        status=status,
        error=error,
        metrics={
            name: value if isinstance(value, Metric) else make_metric(name, value)
            for name, value in metrics.items()
        },
        invariants=dict(invariants or {}),
        ledger=ledger or schema.Ledger(),
        **more,
    )


CURVE = schema.Curve(
    losses=[2.3 - 0.1 * step for step in range(12)], scores={"loss": 0.30, "accuracy": 0.90}
)


def curve(departs=None, *, by=0.0001, **scores):
    """Return the usual curve, with another loss at one position, or with other scores."""
    losses = [loss + (step == departs) * by for step, loss in enumerate(CURVE.losses)]
    return schema.Curve(losses=losses, scores={**CURVE.scores, **scores})


def referee(departs=None, what="losses", *, by=1e-6, moved=1e-13, **scores):
    """Return a training in float64, with another number at one position, or with other scores."""
    steps = len(CURVE.losses)
    lists = {name: list(CURVE.losses) for name in ("losses", "gradients", "updates")}
    if departs is not None:
        lists[what][departs] *= 1 + by
    moved = [moved] * (steps + 1) if isinstance(moved, float) else moved
    return schema.Referee(**lists, scores={**CURVE.scores, **scores}, moved=moved)


def trained(identifier=LORA, metrics=None, **more):
    return make_record(identifier, metrics, **{"curve": CURVE, **more})


def repeating(record, *, by="0001_peft-0.18.1"):
    """Return what a case has of which the first seed alone trained in full."""
    of_one = {n: m for n, m in record.metrics.items() if n in METRICS and n not in OF_ALL_SEEDS}
    return msgspec.structs.replace(record, metrics=of_one, repeats=by)


def make_run(*records, environment=None, machine=MACHINE, selection=None, accepted=None):
    """Return a run of these records, or of one default record."""
    return schema.Run(
        schema_version=schema.SCHEMA_VERSION,
        environment=dict(ENVIRONMENT if environment is None else environment),
        machine=machine,
        selection=selection or schema.Selection(complete=True),
        cases={record.case.id: record for record in records or (make_record(),)},
        metrics_known=sorted(KNOWN_BEFORE),
        accepted=accepted,
    )


def make_document(run):
    """Return pytest-benchmark's part of a run file, with a timed entry for each case in order."""
    python = {"python_implementation": "CPython", "python_version": "3.11.7"}
    system = {"node": "", "system": "Linux", "machine": "x86_64"}
    return {
        "machine_info": {**system, **python, "cpu": {"brand_raw": "Example CPU"}},
        "commit_info": {"id": "unversioned", "time": None, "dirty": False},
        "benchmarks": [_timed_entry(record) for record in run if record.status == "ok"],
        "datetime": "2026-01-02T03:04:05+00:00",
        "version": "5.3.1",
    }


def _timed_entry(record):
    case = record.case
    seconds = 0.05
    quantiles = ("q1", "q3", "hd15iqr", "ld15iqr")
    stats = {
        **dict.fromkeys(("min", "max", "mean", "median", *quantiles), seconds),
        **dict.fromkeys(("stddev", "iqr"), 0.0),
        **dict.fromkeys(("iqr_outliers", "stddev_outliers"), 0),
        "rounds": 3,
        "iterations": 1,
        "ops": 1 / seconds,
        "total": 3 * seconds,
        "outliers": "0;0",
        "data": [seconds] * 3,
    }
    return {
        "group": f"{case.task}/{case.architecture}",
        "name": f"test_case[{case.id}]",
        "fullname": f"benchmarks/test_{case.task}.py::test_case[{case.id}]",
        "params": {"case": str(case)},
        "param": case.id,
        "extra_info": {
            "peft_regress": {"schema_version": schema.SCHEMA_VERSION, "case_id": case.id}
        },
        "options": {"disable_gc": False, "timer": "perf_counter", "min_rounds": 5},
        "stats": stats,
    }


def write_run(path, run=None):
    run = make_run() if run is None else run
    write_run_file(path, run, make_document(run))
    return path


def read_runs(root, *, ledgers=True):
    def read(root, paths):
        entries = list(read_entries_of(paths, ledgers=ledgers))
        check_order(root, [Link.of(entry) for entry in entries])
        return entries

    return read_while_still(root, read)


def references_with_drift(stored):
    """Return what judges each case after some entries, oldest first, with its drift."""
    contents = Contents()
    for entry in stored:
        contents.add(entry)
    return contents.judges


def run_document(run, document, *, ledgers=True):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        write_run_file(path, run, document, ledgers=ledgers)
        return json.loads(path.read_bytes())


def keep_weights(run_file, record, content=b"x"):
    """Keep what a case ships beside a run file, as measuring it does."""
    keep_adapter(
        adapters_of_run(run_file),
        record.case,
        definition=record.definition,
        output=[[0.5]],
        save=lambda folder: (folder / "model.safetensors").write_bytes(content) and None,
    )


DATE = "2026-01-01T00:00:00+00:00"


def accept(source, **how):
    """Accept a run, cases in error included, and return the entry."""
    return accept_run(source, **{"allow_errors": ["*"], "reason": "r", "date": DATE, **how}).path


def store(root, *records, **how):
    """Accept a run of these records beside the storage; return the entry."""
    where = {name: how.pop(name) for name in ("environment", "machine") if name in how}
    return accept(
        write_run(root.parent / "run.json", make_run(*records, **where)), root=root, **how
    )


def write_entry(
    root,
    number,
    *records,
    date=DATE,
    role="baseline",
    folder="Linux-CPython-3.11-64bit",
    title="peft-0.18.1",
    environment=None,
    retired=(),
    selection=None,
):
    """Write an accepted entry into a baseline storage, the newest, under a given number."""
    contents = read_contents(root, current=False)
    path = root / folder / f"{number:04d}_{title}.json"
    accepted = schema.Acceptance(
        reason="for a test",
        date=date,
        role=role,
        retired=list(retired),
        entry=entry_name(path),
        predecessor=contents.links[-1].digest if contents.links else "",
    )
    run = with_digests(
        make_run(*records, accepted=accepted, environment=environment, selection=selection)
    )
    for digest, ledger in run.ledgers.items():
        place = ledger_file(root / "ledgers", digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(ledger_content(ledger))
    write_run_file(path, run, make_document(run), ledgers=False)
    contents.add(read_run_file(path, ledgers=False))
    write_current(root, contents)
    return path


def observe(
    record, *, environment=None, machine=MACHINE, run_name="0001_peft-0.18.1", known=KNOWN_BEFORE
):
    return Observation(
        record=record,
        environment=ENVIRONMENT if environment is None else environment,
        machine=machine,
        run_name=run_name,
        known=frozenset(known),
    )


def observe_all(records, **where):
    return {record.case.id: observe(record, **where) for record in records}


def compare(old, new, *, environment=None, **how):
    """Judge a run, or the records of one, by references, or by the records of one entry."""
    references = old if isinstance(old, dict) else observe_all(old)
    run = new if isinstance(new, schema.Run) else make_run(*new, environment=environment)
    observed = observations_of(run, "this run")
    return judge(references, observed, complete=run.selection.complete, **how)


def judged(old, new, **how):
    """Judge one case by its records; None is a side without one."""
    sides = (None if record is None else observe(record) for record in (old, new))
    return judge_case(LORA, *sides, **how)


def forward_ledger(rows):
    return schema.Ledger(
        modules={name: schema.ModuleCosts(forward_flops=costs) for name, costs in rows.items()}
    )


def find_origins(history):
    older, before = {}, None
    for here in history:
        older, before = next_origins(older, before, here), here
    return older


def split_by(ledger, values=VALUES):
    """Return values that are what the rows of a ledger add up to."""
    rows = {name: rows_of(ledger, name) for name in values}
    return {
        name: value if rows[name] is None else sum(rows[name].values())
        for name, value in values.items()
    }


def rich_run():
    """Return a run with a value in every field."""
    return make_run(
        make_record(
            LORA,
            split_by(LEDGER),
            invariants={"identity": True, "frozen": False, "merge": None},
            ledger=LEDGER,
        ),
        make_record(UNSEEN_LORA, split_by(LEDGER), ledger=LEDGER),
        make_record(FULL, split_by(SMALL_LEDGER), ledger=SMALL_LEDGER),
        make_record(
            GALORE, status="error", error=schema.Failure(type="KeyError", message='"é\n\x1b[0m')
        ),
        selection=schema.Selection(
            complete=False, narrowed_by=["-k 'x y'"], not_selected=["a/b/c"]
        ),
    )


BOTH = {LORA, FULL}


def shard(index, record, *, complete=False, **more):
    selection = schema.Selection(
        complete=complete,
        narrowed_by=[f"--regress-shard {index}/2"],
        not_selected=sorted(BOTH - {record.case.id}),
    )
    return make_run(record, selection=selection, **more)


def write_shards(folder, *, cases=None, lost=(), skipped=(), count=4, metrics=VALUES):
    """Write a matrix as the files of its shards, the second of another machine.

    The cases `lost` are in no file, and the shards `skipped` have none.
    """
    cases = matrix_cases() if cases is None else cases
    shards = shard_of(cases, count=count)
    for index in sorted(set(range(1, count + 1)) - set(skipped)):
        selection = schema.Selection(
            complete=False,
            narrowed_by=[f"--regress-shard {index}/{count}"],
            not_selected=sorted(name for name, shard in shards.items() if shard != index),
        )
        mine = sorted(name for name, shard in shards.items() if shard == index)
        records = [make_record(name, metrics) for name in mine if name not in lost]
        machine = OTHER_MACHINE if index == 2 else MACHINE
        write_run(
            folder / f"shard-{index}.json", make_run(*records, selection=selection, machine=machine)
        )
    return folder


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def cases_in(journal):
    return {line.case for line in read_journal(journal)}
