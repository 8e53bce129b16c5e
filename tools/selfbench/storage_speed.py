"""Measure how fast a large storage and a large run file are read: seconds and peak memory.

    python tools/selfbench/storage_speed.py                    500 entries, then one large run file
    python tools/selfbench/storage_speed.py --entries 5000     only `compare`, as promised for 5,000
    python tools/selfbench/storage_speed.py --keep FOLDER      keep the storage, and use it again

The entries are made from the newest entry of the default matrix: ledgers, chain and digests are as
`accept` makes them, each file has a metric a line. Accuracy, losses and times differ a little in
each entry, bytes within their bound, so that drift is counted. Every twenty entries peft has a new
release, and every second release doubles DoRA's FLOPs. `cold` is the first command, without an
index; `warm` any later one. Memory is the peak of the largest process of a command.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from peft_regress.baselines.chain import Newest, newest_file
from peft_regress.baselines.entries import baseline_files
from peft_regress.runs.run_file import read_run_file, run_document, write_run_file
from peft_regress.runs.schema import canonical_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from peft_regress.runs.run_file import RunFile

ROOT: Final = Path(__file__).resolve().parents[2]
_NOISE: Final = {
    "accuracy": 1e-2,
    "loss": 1e-2,
    "first_losses": 1e-7,
    "filled_losses": 1e-7,
    "step_seconds": 5e-2,
}
_BYTES: Final = ("peak_activation_bytes", "peak_temp_bytes")
_BYTES_NOISE: Final = 1e-4
_ENTRIES_A_RELEASE: Final = 20
_FOLDER: Final = "Linux-CPython-3.11-64bit"
_LARGE: Final = 10_000
_CASE: Final = "shift/lora-r4/resnet18"


class Promise(NamedTuple):
    """What a command may take."""

    what: str
    arguments: tuple[str, ...]
    seconds: float
    megabytes: int | None = None
    is_new: bool = False
    """Whether the command adds to the storage, so that it gets a copy."""


def main() -> None:
    """Make what is read, run each command, and print each promise with its measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=500, help="how many entries (0: none)")
    parser.add_argument("--cases", type=int, default=_LARGE, help="of the large run (0: none)")
    parser.add_argument("--keep", type=Path, help="where to keep what is made")
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["PEFT_REGRESS_CACHE"] = str(cache)
        if chosen.entries:
            _measure_storage(folder, chosen.entries)
        if chosen.cases:
            _measure_large(folder, chosen.cases)


def _measure_storage(folder: Path, count: int) -> None:
    root, run = folder / f"storage-{count}", folder / "run.json"
    page = folder / "page.html"
    if not newest_file(root).exists():
        make_storage(root, count)
    write_run_file(run, _template().run, _template().document)
    where = ("--baselines", str(root))
    many = count > 1000  # noqa: PLR2004  (promised are 500 and 5,000)
    promises = [
        Promise(
            "compare", ("compare", str(root), str(run)), 20 if many else 3, 500 if many else 300
        )
    ]
    if not many:
        promises += [
            Promise("accept", ("accept", str(run), "--reason", "a new one", *where), 3),
            Promise(
                "history of a metric of a case",
                ("history", "--cases", _CASE, "--metric", "peak_bytes", *where),
                5,
            ),
            Promise("history of a metric of all", ("history", "--metric", "peak_bytes", *where), 5),
            Promise("page", ("report", "--html", str(page), *where), 10),
        ]
    size = sum(path.stat().st_size for path in baseline_files(root)) / 1e6
    print(f"storage of {count} entries, {size:.0f} MB")
    _show(promises[0], "cold", _measured(promises[0]))
    for promise in promises:
        _show(promise, "warm", _measured(promise))


def _measure_large(folder: Path, count: int) -> None:
    run, other, root = folder / "large.json", folder / "other.json", folder / "of-large"
    if not run.exists():
        make_large_run(run, count, seed=0)
        make_large_run(other, count, seed=1)
    shutil.rmtree(root, ignore_errors=True)
    print(f"a run file of {count} cases, {run.stat().st_size / 1e6:.0f} MB")
    where = ("--baselines", str(root))
    for promise in (
        Promise("compare", ("compare", str(run), str(other)), 10, 600),
        Promise("Markdown", ("compare", str(run), str(other), "--format", "markdown"), 10, 600),
        Promise("accept", ("accept", str(run), "--reason", "first", *where), 10, 600),
        Promise(
            "compare with its storage", ("compare", str(root), str(other), "--stored-only"), 10, 600
        ),
    ):
        _show(promise, "", _measured(promise))


def _show(promise: Promise, state: str, measured: tuple[float, float, int]) -> None:
    seconds, megabytes, code = measured
    promised = f"{promise.seconds:.0f} s"
    if promise.megabytes is not None:
        promised += f", {promise.megabytes} MB"
    print(
        f"  {promise.what} {state}: {seconds:.1f} s, {megabytes:.0f} MB, exit code {code} "
        f"(promised: under {promised})",
        flush=True,
    )


def _measured(promise: Promise) -> tuple[float, float, int]:
    """Return how long a command took, the peak memory of its largest process, and its exit code."""
    command = [sys.executable, "-m", "peft_regress", *promise.arguments]
    begun = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return time.monotonic() - begun, usage.ru_maxrss / 1000, process.returncode


def make_storage(root: Path, count: int) -> None:
    """Write a storage whose entries differ like those of a long history."""
    template = _template()
    shutil.copytree(ROOT / "baselines" / "ledgers", root / "ledgers")
    digest = ""
    for number, ours in enumerate(_drawn_runs(template, count), start=1):
        name = f"{number:04d}_peft-{ours['environment']['peft']}"
        moment = f"2026-{1 + number // 600:02d}-{1 + number // 24 % 25:02d}T{number % 24:02d}:00"
        accepted = {
            "reason": "made to measure",
            "date": f"{moment}:00+00:00",
            "role": "baseline",
            "entry": f"{_FOLDER}/{name}",
            **({"predecessor": digest} if digest else {}),
        }
        ours["accepted"] = accepted
        digest = ours["content_digest"] = canonical_digest(ours)
        document = {**template.document, "datetime": f"{moment}:00+00:00", "peft_regress": ours}
        path = root / _FOLDER / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    newest = Newest(entry=f"{_FOLDER}/{name}", digest=digest)
    newest_file(root).write_bytes(msgspec.json.encode(newest))


def _drawn_runs(template: RunFile, count: int) -> Iterator[dict[str, Any]]:
    """Yield the runs of the entries as JSON values, without a digest."""
    rng = random.Random(0)  # noqa: S311  (noise, no secret)
    ours = run_document(template.run, {}, ledgers=False)["peft_regress"]
    del ours["content_digest"]
    for number in range(count):
        release = number // _ENTRIES_A_RELEASE
        cases = {
            name: {**record, "metrics": drawn_metrics(name, record["metrics"], rng, release)}
            for name, record in ours["cases"].items()
        }
        environment = {**ours["environment"], "peft": f"1.{release}.0"}
        yield {**ours, "environment": environment, "cases": cases}


def drawn_metrics(
    name: str, metrics: dict[str, Any], rng: random.Random, release: int
) -> dict[str, Any]:
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
    for metric in _BYTES:
        value = metrics[metric]["value"] * (1 + _BYTES_NOISE * rng.random())
        found[metric] = {**metrics[metric], "value": round(value)}
    if "/dora" in name and release % 2:
        for metric in ("forward_flops", "backward_flops"):
            found[metric] = {**metrics[metric], "value": 2 * metrics[metric]["value"]}
    return found


def make_large_run(path: Path, count: int, *, seed: int) -> None:
    """Write a run of many cases, those of the template under other names."""
    template = _template()
    rng = random.Random(seed)  # noqa: S311  (noise, no secret)
    records = list(template.run.cases.values())
    cases = {}
    for number in range(count):
        record = records[number % len(records)]
        architecture = f"{record.case.architecture}-{number // len(records)}"
        case = msgspec.structs.replace(record.case, architecture=architecture)
        metrics = msgspec.to_builtins(record.metrics)
        drawn = drawn_metrics(case.id, metrics, rng, 0) | {
            metric: metrics[metric] for metric in _BYTES
        }
        changed = msgspec.convert(drawn, type(record).__annotations__ and dict[str, Any])
        cases[case.id] = msgspec.structs.replace(record, case=case, metrics=changed)
    run = msgspec.structs.replace(template.run, cases=cases)
    run = msgspec.convert(msgspec.to_builtins(run), type(run))
    write_run_file(path, run, template.document)


def _template() -> RunFile:
    """Return the newest entry of the default matrix, with its ledgers and a time of each case."""
    entries = [read_run_file(path) for path in baseline_files(ROOT / "baselines")]
    file = [one for one in entries if "unseen/full/resnet18" in one.run.cases][-1]
    ours = msgspec.to_builtins(msgspec.structs.replace(file.run, accepted=None, content_digest=""))
    timed = {"value": 0.05, "unit": "second", "direction": "lower", "kind": "seconds"}
    for record in ours["cases"].values():
        record["metrics"]["step_seconds"] = {**timed, "samples": [0.05, 0.05, 0.05]}
    run = msgspec.convert(ours, type(file.run))
    return type(file)(path=file.path, run=run, document=file.document)


if __name__ == "__main__":
    main()
