"""Measure how fast a large storage and a large run file are read: seconds and peak memory.

    python tools/selfbench/storage_speed.py                   500 entries, a run of 10,000 cases
    python tools/selfbench/storage_speed.py --entries 5000    5,000 entries, 3.5 GB, `compare` alone
    python tools/selfbench/storage_speed.py --keep FOLDER     keep what is made, and use it again

The entries are made from the newest entry of the default matrix. Chain, digests and ledgers are as
`accept` makes them; a file has a number a line, so it is larger by a third. In each entry accuracy,
losses and times differ a little, and bytes within their bound, so that drift counts. Every twenty
entries peft has a new release, and every second release doubles DoRA's FLOPs. `cold` is a command
without an index, which makes it; the others have one. Memory is the peak of a command's largest
process.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
from report_speed import NOISE, drawn

from peft_regress.baselines.accept import renew_current
from peft_regress.baselines.chain import Newest, newest_file
from peft_regress.baselines.entries import baseline_files
from peft_regress.runs.run_file import RunFile, read_run_file, run_document, write_run_file
from peft_regress.runs.schema import Run, canonical_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
_NOISE: Final = {**NOISE, "filled_losses": 1e-7}
_again: Final = functools.partial(drawn, noise_of=_NOISE)
_BYTES: Final = ("peak_activation_bytes", "peak_temp_bytes")
_BYTES_NOISE: Final = 1e-4
_ENTRIES_A_RELEASE: Final = 20
_MACHINE_ID: Final = "Linux-CPython-3.11-64bit"
_CASE: Final = "shift/lora-r4/resnet18"
_MANY: Final = 5000
"""From so many entries on, only `compare` is promised."""


_LAUNCHER: Final = """
import resource, subprocess, sys, time
begun = time.monotonic()
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = time.monotonic() - begun
print(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3, done.returncode)
"""


class Promise(NamedTuple):
    """What a command may take."""

    what: str
    words: tuple[str, ...]
    seconds: float
    megabytes: int | None = None


def main() -> None:
    """Make what is read, run each command, and print each promise with its measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, default=500, help="how many; 0 for none")
    parser.add_argument("--cases", type=int, help="of the large run file; 0 for none")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep what is made there")
    chosen = parser.parse_args()
    cases = (0 if chosen.entries >= _MANY else 10_000) if chosen.cases is None else chosen.cases
    with contextlib.ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["PEFT_REGRESS_CACHE"] = stack.enter_context(tempfile.TemporaryDirectory())
        folder.mkdir(parents=True, exist_ok=True)
        template = _template()
        if chosen.entries:
            _measure_storage(folder, template, chosen.entries)
        if cases:
            _measure_large(folder, template, cases)


def _measure_storage(folder: Path, template: RunFile, count: int) -> None:
    root, run = folder / f"storage-{count}", folder / "run.json"
    # An earlier measurement accepted into it.
    if not newest_file(root).exists() or len(baseline_files(root)) != count:
        shutil.rmtree(root, ignore_errors=True)
        make_storage(root, template, count)
    write_run_file(run, template.run, template.document)
    files = baseline_files(root)
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"a storage of {len(files)} entries, {size:,.0f} MB", flush=True)
    compare = ("compare", str(root), str(run), "--stored-only")
    if count >= _MANY:
        promises = [Promise("compare", compare, 20, 500)]
    else:
        where = ("--baselines", str(root))
        metric = ("history", "--metric", "peak_bytes", *where)
        page = ("report", "--html", str(folder / "page.html"), *where)
        accept = ("accept", str(run), "--reason", "as new", *where)
        promises = [
            Promise("compare", compare, 3, 300),
            Promise("history of one metric", metric, 5),
            Promise("history of one metric of one case", (*metric, "--cases", _CASE), 5),
            Promise("page", page, 10),
            Promise("accept", accept, 3),
            Promise("compare after it", compare, 3, 300),
        ]
    _measure(promises[0], "cold")
    for promise in promises:
        _measure(promise)


def _measure_large(folder: Path, template: RunFile, count: int) -> None:
    run, other, root = (folder / name for name in ("large.json", "other.json", "storage-of-large"))
    for seed, path in enumerate((run, other)):
        if not path.exists():
            make_large_run(path, template, count, seed=seed)
    shutil.rmtree(root, ignore_errors=True)
    print(f"a run file of {count} cases, {run.stat().st_size / 1e6:.0f} MB", flush=True)
    compare = ("compare", str(run), str(other))
    accept = ("accept", str(run), "--reason", "first", "--baselines", str(root))
    for promise in (
        Promise("compare", compare, 10, 600),
        Promise("Markdown", (*compare, "--format", "markdown"), 10, 600),
        Promise("accept", accept, 10, 600),
        Promise(
            "compare with its storage",
            ("compare", str(root), str(other), "--stored-only"),
            10,
            600,
        ),
    ):
        _measure(promise)


def _measure(promise: Promise, state: str = "") -> None:
    """Run a command; print its seconds, those of all processors, its memory and its exit code."""
    command = [sys.executable, "-m", "peft_regress", *promise.words]
    # Python's fork gives a child the peak of its parent, so the parent must be small.
    launcher = [sys.executable, "-S", "-c", _LAUNCHER, *command]
    done = subprocess.run(launcher, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds, busy, megabytes, code = map(float, done.stdout.split())
    limits = f"{promise.seconds:g} s" + (f", {promise.megabytes} MB" if promise.megabytes else "")
    promised = "nothing promised" if state else f"promised: under {limits}"
    print(
        f"  {promise.what}{state and f', {state}'}: {seconds:.1f} s ({busy:.1f} s of processors), "
        f"{megabytes:.0f} MB ({promised}), exit code {code:.0f}",
        flush=True,
    )


def make_storage(root: Path, template: RunFile, count: int) -> None:
    """Write a storage whose entries differ like those of a long history."""
    shutil.copytree(ROOT / "baselines" / "ledgers", root / "ledgers")
    (root / _MACHINE_ID).mkdir()
    newest = Newest(entry="", digest="")
    for number, ours in enumerate(_drawn_runs(template, count), start=1):
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
        newest = Newest(entry=name, digest=ours["content_digest"])
    newest_file(root).write_bytes(msgspec.json.encode(newest))
    renew_current(root)


def _drawn_runs(template: RunFile, count: int) -> Iterator[dict[str, Any]]:
    """Yield the runs of the entries as JSON values, without a digest."""
    rng = random.Random(0)  # noqa: S311  (noise, no secret)
    ours = run_document(template.run, {}, ledgers=False)["peft_regress"]
    del ours["content_digest"]
    for number in range(count):
        release = number // _ENTRIES_A_RELEASE
        cases = {
            name: {**record, "metrics": _again(name, record["metrics"], rng, release=release)}
            for name, record in ours["cases"].items()
        }
        for record in cases.values():
            for metric in _BYTES:
                known = record["metrics"][metric]
                value = round(known["value"] * (1 + _BYTES_NOISE * rng.random()))
                record["metrics"][metric] = {**known, "value": value}
        environment = {**ours["environment"], "peft": f"1.{release}.0"}
        yield {**ours, "environment": environment, "cases": cases}


def make_large_run(path: Path, template: RunFile, count: int, *, seed: int) -> None:
    """Write a run of many cases: those of the template under other architectures' names."""
    rng = random.Random(seed)  # noqa: S311  (noise, no secret)
    ours = run_document(template.run, {})["peft_regress"]
    records = list(ours["cases"].values())
    cases = {}
    for number in range(count):
        record = records[number % len(records)]
        case = {**record["case"]}
        case["architecture"] += f"-{number // len(records)}"
        rank = f"-r{case['rank']}" if case["rank"] else ""
        name = f"{case['task']}/{case['method']}{rank}/{case['architecture']}"
        metrics = _again(name, record["metrics"], rng, release=0)
        cases[name] = {**record, "case": case, "metrics": metrics}
    write_run_file(path, msgspec.convert({**ours, "cases": cases}, Run), template.document)


def _template() -> RunFile:
    """Return the newest whole entry of the default matrix as a run, with a time of each case."""
    entries = [read_run_file(path) for path in baseline_files(ROOT / "baselines")]
    file = [one for one in entries if "unseen/full/resnet18" in one.run.cases][-1]
    ours = run_document(msgspec.structs.replace(file.run, accepted=None), {})["peft_regress"]
    timed = {"value": 0.05, "unit": "second", "direction": "lower", "kind": "seconds"}
    for record in ours["cases"].values():
        record["metrics"]["step_seconds"] = {**timed, "samples": [0.05, 0.05, 0.05]}
    run = msgspec.convert({**ours, "content_digest": ""}, Run)
    return RunFile(path=file.path, run=run, document=file.document)


if __name__ == "__main__":
    main()
