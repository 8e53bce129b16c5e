"""What a page shows, built after page_world.csv: true costs of 48 pairings, a made-up history."""

import csv
import itertools
from pathlib import Path
from typing import Any

from builders import forward_ledger, make_device, make_record, make_run

from peft_regress.baselines.history import Entry
from peft_regress.catalogue.evidence import Evidence, Study, Trained
from peft_regress.gate.comparison import Comparison
from peft_regress.gate.judge import judge
from peft_regress.gate.verdicts import observations_of
from peft_regress.metrics import METRICS
from peft_regress.report.page.content import Content
from peft_regress.report.page.render import render_page
from peft_regress.report.page.views import page_parts
from peft_regress.runs.schema import Acceptance, Failure

CURRENT = {"peft": "0.21.2", "torch": "2.13.0", "galore-torch": "1.0"}
SITE = "https://example.org"
TINY = {"title": "A tiny board", "compute": "one core", "source": f"{SITE}/tiny"}
BOARD = {"title": "A board", "compute": "two cores", "source": f"{SITE}/board"}
DEVICES = (
    make_device("tiny", 60 * 2**20, 6 * 2**20, **TINY),
    make_device("board", 70 * 2**20, **BOARD),
)
FAILING = "unseen/galore-r16/mobilenet_v3_small"
FAILED = "error (RuntimeError: linalg.svd: did not converge)"
REDEFINED = "shift/head/resnet18"
"""Its definition changed at entry 3, so its accuracy cannot be compared."""
DORA = "shift/dora-r4/resnet18"
NO_EVIDENCE = Evidence(packages={}, studies={})
LEARNED = {100: 0.5, 200: 0.9, 400: 0.9}
"""The accuracy of full fine-tuning after so many steps."""


def make_entry(number, *records, role="baseline", **fields):
    """Return an entry; a run has no number in its name."""
    date = f"2026-01-{number + 1:02d}T00:00:00+00:00"
    stated = {"retired": fields.pop("retired", []), "reason": fields.pop("reason", "why")}
    accepted = Acceptance(date=date, role=role, entry="x/0001_x", **stated)
    name = fields.pop("name", f"{number:04d}_peft")
    run = make_run(*records, accepted=None if role == "run" else accepted, **fields)
    return Entry(name=name, date=date, role=role, run=run, path=Path(f"{name}.json"))


def content_of(*entries, newest=True, pairs=True, evidence=NO_EVIDENCE, **judging):
    """Return what the page of some entries shows: the newest is judged by the one before."""
    verdicts: dict[tuple[int, int], Comparison] = {}
    for old, new in itertools.permutations(range(len(entries)), 2):
        if pairs:
            verdicts[old, new] = compared(entries[old], entries[new])
    last = len(entries) - 1
    judges = [entry for entry in entries[:last] if entry.role == "baseline"]
    return Content(
        entries=entries,
        devices=DEVICES,
        newest=(last, compared(judges[-1], entries[-1], **judging)) if newest and judges else None,
        pairs=verdicts,
        evidence=evidence,
    )


def compared(old, new, **judging):
    judging = {"complete": new.run.selection.complete, "devices": DEVICES, **judging}
    sides = (observations_of(entry.run, entry.name) for entry in (old, new))
    return judge(*sides, **judging)


def evidence_of(scores, *, curve=LEARNED, task="shift", architecture="resnet18"):
    study = Study(
        images="digits", batch=32, steps=200, chance=0.1, untrained=0.1, curve=curve,
        methods={name: Trained(rate=1, early=(), final=final) for name, final in scores.items()},
    )  # fmt: skip
    return Evidence(packages={}, studies={task: {architecture: study}})


def written_page(content):
    return render_page(page_parts(content))


def world(*, tasks=("shift", "unseen"), architectures=None, **how):
    """Return a page of 96 cases by default, of four entries and a run, in two orders of them."""
    return content_of(*world_entries(tasks, architectures), **how)


def world_entries(tasks=("shift", "unseen"), architectures=None):
    """Return the entries of the world.

    DoRA costs twice the FLOPs with peft 0.14; the accuracy of GaLore falls at entry 3; a case fails
    in the run, and the definition of one changes.
    """
    environments = [
        CURRENT,
        {**CURRENT, "peft": "0.14.0", "torch": "2.12.0"},
        {**CURRENT, "peft": "0.15.2"},
        CURRENT,
        {"peft": "0.21.2", "torch": "2.13.0"},
    ]
    roles = ["baseline", "history", "history", "baseline", "run"]
    names = [f"{n + 1:04d}_peft-{e['peft']}" for n, e in enumerate(environments[:-1])]
    return [
        make_entry(
            number,
            *(_record(row, task, number) for task in tasks for row in _rows(architectures)),
            role=role,
            name=name,
            environment=environment,
            reason=f"accepted as {name}",
        )
        for number, (role, name, environment) in enumerate(
            zip(roles, [*names, "bench.json"], environments, strict=True)
        )
    ]


def one_case(case="shift/lora-r4/resnet18"):
    entries = []
    for number, entry in enumerate(world_entries(("shift",))):
        only = [entry.run.cases[case]]
        environment = entry.run.environment
        entries.append(make_entry(number, *only, role=entry.role, environment=environment))
    return content_of(*entries)


def _rows(architectures):
    with Path(__file__).with_suffix(".csv").open(newline="") as lines:
        rows = csv.DictReader(lines)
        return [row for row in rows if not architectures or row["architecture"] in architectures]


def _record(row, task, number):
    name = f"{task}/{row['method_rank']}/{row['architecture']}"
    if name == FAILING and number == 4:
        error = Failure(type="RuntimeError", message="linalg.svd: did not converge")
        return make_record(name, {}, status="error", error=error)
    values: dict[str, Any] = {
        metric: float(row[metric]) if METRICS[metric].unit == "fraction" else int(row[metric])
        for metric in METRICS
        if row.get(metric)
    }
    method = row["method_rank"].partition("-r")[0]
    if method == "dora" and number == 1:
        for metric in ("forward_flops", "backward_flops"):
            values[metric] = round(values[metric] * 1.9412)
    for metric in ("optimizer_flops", "projection_flops"):
        if metric in values:
            values[f"{metric}_b32"] = values[metric]
    for category in ("param", "buffer", "grad", "optimizer"):
        values[f"peak_{category}_bytes_b32"] = values[f"peak_{category}_bytes"]
    accuracy = float(row[f"accuracy_{task}"]) + 0.12 * (method == "galore" and number < 3)
    values["accuracy"] = [accuracy - 0.02, accuracy, accuracy + 0.02]
    values["loss"] = [float(row[f"loss_{task}"])] * 3
    work = values["forward_flops"]
    shares = {"conv1.base_layer": work * 3 // 5, "conv1.lora_A.default": work - work * 3 // 5}
    ledger = forward_ledger({name: {"aten.convolution": of} for name, of in shares.items()})
    invariants = {"identity_at_init": True, "channels_last_kept": method != "dora"}
    if method == "galore":
        invariants |= {"projections_renewed": True}
    definition = "sha256:other" if name == REDEFINED and number >= 3 else "sha256:definition"
    return make_record(
        name,
        {metric: values[metric] for metric in METRICS if metric in values},
        invariants=invariants,
        ledger=ledger,
        definition=definition,
    )
