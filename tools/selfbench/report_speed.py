"""Measure how fast a report of many run files is made, its size, and when it can be used.

    python tools/selfbench/report_speed.py                 500 run files of the default matrix
    python tools/selfbench/report_speed.py --files 50

The files are made from the newest entry of the default matrix, with its ledgers. Accuracy, loss,
first losses and times differ a little in each. Every twenty files peft has a new release, and every
second release doubles DoRA's FLOPs. A file takes 2.3 MB, in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peft_regress.baselines.entries import baseline_files
from peft_regress.runs.run_file import read_run_file, run_document
from peft_regress.runs.schema import canonical_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NOISE", "drawn"]

ROOT: Final = Path(__file__).resolve().parents[2]
NOISE: Final = {"accuracy": 1e-2, "loss": 1e-2, "first_losses": 1e-7, "step_seconds": 5e-2}
_RUNS_A_RELEASE: Final = 20


def main() -> None:
    """Make the files, write the page, open it, and print each promise with its measurement."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=500, help="how many run files")
    count = parser.parse_args().files
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder) / "runs", count=count)
        page = Path(folder) / "page.html"
        begun = time.monotonic()
        command = [sys.executable, "-m", "peft_regress", "report", "--html", str(page)]
        nothing = ["--baselines", str(Path(folder) / "none")]
        subprocess.run([*command, *nothing, *map(str, runs)], cwd=ROOT, check=True)
        print(f"report of {count} run files: {time.monotonic() - begun:.1f} s (promised: under 10)")
        print(f"the page: {page.stat().st_size / 1e6:.1f} MB (promised: under 6)")
        seconds = usable_seconds(page)
        shown = "no browser to measure it" if seconds is None else f"{seconds:.2f} s"
        print(f"usable, its first plot and table row drawn: {shown} (promised: under 2)")


def make_runs(folder: Path, *, count: int) -> list[Path]:
    """Write run files that differ like those of a long history."""
    folder.mkdir(parents=True)
    template = _template()
    rng = random.Random(0)  # noqa: S311  (noise, no secret)
    paths = []
    for number in range(count):
        ours = template["peft_regress"]
        release = number // _RUNS_A_RELEASE
        cases = {
            name: {**record, "metrics": drawn(name, record["metrics"], rng, release=release)}
            for name, record in ours["cases"].items()
        }
        environment = {**ours["environment"], "peft": f"1.{release}.0"}
        content = {**ours, "environment": environment, "cases": cases}
        without = {key: value for key, value in content.items() if key != "ledgers"}
        content["content_digest"] = canonical_digest(without)
        moment = f"2026-01-{1 + number // 24 % 28:02d}T{number % 24:02d}:00:00+00:00"
        document = {**template, "datetime": moment, "peft_regress": content}
        paths.append(folder / f"run{number:04d}.json")
        paths[-1].write_bytes(msgspec.json.encode(document))
    return paths


def _template() -> dict[str, Any]:
    """Return the newest complete entry, with a step time for every case."""
    entries = [read_run_file(path) for path in baseline_files(ROOT / "baselines")]
    whole = [file for file in entries if "unseen/full/resnet18" in file.run.cases]
    file = whole[-1]
    run = msgspec.structs.replace(file.run, accepted=None)
    document = json.loads(json.dumps(run_document(run, file.document)))
    document["peft_regress"].pop("content_digest")
    for record in document["peft_regress"]["cases"].values():
        samples = [0.05, 0.05, 0.05]
        timed = {"value": 0.05, "unit": "second", "direction": "lower", "kind": "seconds"}
        record["metrics"]["step_seconds"] = {**timed, "samples": samples}
    return dict(document)


def drawn(
    name: str,
    metrics: Mapping[str, Any],
    rng: random.Random,
    *,
    release: int,
    noise_of: Mapping[str, float] = NOISE,
) -> dict[str, Any]:
    """Return metrics of a case that differ as if it was measured again, with another peft.

    noise_of: the relative noise of a metric; those that a case lacks are left out.
    """
    found = dict(metrics)
    for metric, noise in noise_of.items():
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


def usable_seconds(page: Path) -> float | None:
    """Return how long a page takes to show its first plot and table row; None without a browser."""
    sys.path.append(str(ROOT / "tools" / "docs"))
    from chromium import find_chromium, running_chromium

    path = find_chromium()
    if path is None:
        return None
    with running_chromium(path) as browser:
        tab = browser.new_page()
        begun = time.monotonic()
        tab.goto(page.resolve().as_uri(), wait_until="commit")
        tab.wait_for_selector("figure svg[role=img]")
        tab.wait_for_selector("tbody tr")
        return time.monotonic() - begun


if __name__ == "__main__":
    main()
