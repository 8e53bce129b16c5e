"""A storage of many entries or many cases, as a long history or a large project makes it.

The entries are made from the newest entry of the default matrix; more cases are copies of its cases
under other tasks. Chain, digests and ledgers are as `accept` makes them; a file has a number a
line, so it is larger by a third. In each entry accuracy, losses and times differ a little, and
bytes within their bound, so that drift counts. After some entries peft has a new release, and every
second release doubles DoRA's FLOPs.
"""

import random
from pathlib import Path

import msgspec
from builders import run_document

from peft_regress.baselines.accept import renew_current
from peft_regress.baselines.storage import Newest, baseline_files, newest_file
from peft_regress.files import write_atomic
from peft_regress.metrics import make_metric
from peft_regress.runs.ledger_files import ledger_content, ledger_file, with_digests
from peft_regress.runs.run_file import RunFile, read_run_file
from peft_regress.runs.schema import canonical_digest

ROOT = Path(__file__).resolve().parents[2]
_NOISE = {
    "accuracy": 1e-2, "loss": 1e-2, "first_losses": 1e-7, "step_seconds": 5e-2,
    "filled_losses": 1e-7,
}  # fmt: skip
_BYTES = ("peak_activation_bytes", "peak_temp_bytes")
_BYTES_NOISE = 1e-4
_ENTRIES_A_RELEASE = 20
_MACHINE_ID = "Linux-CPython-3.11-64bit"


def make_storage(root, *, entries, copies=1, entries_a_release=_ENTRIES_A_RELEASE, later_part=1):
    """Write a storage whose entries differ like those of a long history; return a run like them.

    later_part: of so many cases, the entries after the first hold one.
    """
    template = stored_run(copies)
    (root / _MACHINE_ID).mkdir(parents=True)
    for digest, ledger in with_digests(template.run).ledgers.items():
        write_atomic(ledger_file(root / "ledgers", digest), ledger_content(ledger))
    newest = Newest(entry="", digest="", names="", current={})
    for number, ours in enumerate(_drawn_runs(template, entries, entries_a_release), start=1):
        if number > 1 and later_part > 1:
            held = dict(list(ours["cases"].items())[::later_part])
            narrowed = {"complete": False, "narrowed_by": ["-k part"], "not_selected": []}
            ours |= {"cases": held, "selection": narrowed}
        name = f"{_MACHINE_ID}/{number:04d}_peft-{ours['environment']['peft']}"
        hours = number - 1
        moment = f"2026-{1 + hours // 600:02d}-{1 + hours // 24 % 25:02d}T{hours % 24:02d}:00:00Z"
        ours["accepted"] = {
            "reason": "made to measure",
            "date": moment,
            "role": "baseline",
            "entry": name,
            **({"predecessor": newest.digest} if newest.digest else {}),
        }
        ours["content_digest"] = canonical_digest(ours)
        document = {**template.document, "datetime": moment, "peft_regress": ours}
        content = msgspec.json.format(msgspec.json.encode(document), indent=1)
        (root / f"{name}.json").write_bytes(content)
        newest = Newest(entry=name, digest=ours["content_digest"], names="", current={})
    newest_file(root).write_bytes(msgspec.json.encode(newest))
    renew_current(root)
    return template


def _drawn_runs(template, count, entries_a_release):
    """Yield the runs of the entries as JSON values, without a digest."""
    rng = random.Random(0)
    ours = run_document(template.run, {}, ledgers=False)["peft_regress"]
    del ours["content_digest"]
    for number in range(count):
        release = number // entries_a_release
        cases = {
            name: {**record, "metrics": _drawn(name, record["metrics"], rng, release=release)}
            for name, record in ours["cases"].items()
        }
        for record in cases.values():
            for metric in _BYTES:
                known = record["metrics"][metric]
                value = round(known["value"] * (1 + _BYTES_NOISE * rng.random()))
                record["metrics"][metric] = {**known, "value": value}
        environment = {**ours["environment"], "peft": f"1.{release}.0"}
        yield {**ours, "environment": environment, "cases": cases}


def stored_run(copies=1):
    """Return the newest whole entry of the default matrix as a run, with a time of each case.

    copies: how often it holds each case.
    """
    entries = [read_run_file(path) for path in baseline_files(ROOT / "baselines")]
    file = [one for one in entries if "unseen/full/resnet18" in one.run.cases][-1]
    cases = {one.case.id: one for copy in range(copies) for one in _copied(file.run, copy)}
    run = msgspec.structs.replace(file.run, accepted=None, cases=cases)
    return RunFile(path=file.path, run=run, document=file.document)


def _copied(run, copy):
    """Yield the records of a run with a time, as another copy under tasks of its own."""
    timed = make_metric("step_seconds", 0.05, [0.05] * 3)
    for record in run:
        case = msgspec.structs.replace(record.case, task=f"{record.case.task}{copy or ''}")
        metrics = {**record.metrics, "step_seconds": timed}
        yield msgspec.structs.replace(record, case=case, metrics=metrics)


def _drawn(name, metrics, rng, *, release):
    """Return metrics of a case that differ as if it was measured again, with another peft."""
    found = dict(metrics)
    for metric, noise in _NOISE.items():
        if metric not in metrics:
            continue
        samples = [
            [one * (1 + rng.gauss(0, noise)) for one in sample]
            if isinstance(sample, list)
            else sample * (1 + rng.gauss(0, noise))
            for sample in metrics[metric]["samples"]
        ]
        heads = [sample[0] if isinstance(sample, list) else sample for sample in samples]
        found[metric] = {**metrics[metric], "samples": samples, "value": sum(heads) / len(heads)}
    if "/dora" in name and release % 2:
        for metric in ("forward_flops", "backward_flops"):
            found[metric] = {**metrics[metric], "value": 2 * metrics[metric]["value"]}
    return found
