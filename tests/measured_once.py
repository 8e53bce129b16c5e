"""Measure each case of the plugin's inner runs once for real, and replay its record afterwards.

A record is kept in a folder by all that it depends on, so that workers of pytest-xdist replay it
too, and import no torch.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import msgspec

from peft_regress.cases import Case
from peft_regress.metrics import make_metric
from peft_regress.plugin import session
from peft_regress.plugin.session import RegressSession
from peft_regress.runs.environment import describe_machine
from peft_regress.runs.journal import KeptRecord
from peft_regress.runs.schema import Machine, Record

FOLDER = "PEFT_REGRESS_MEASURED_ONCE"
"""The environment variable that names the folder of records."""


def install(conftest):
    """Replay the records that were measured under a conftest.py with this text."""
    define = RegressSession.define

    def replayed(self, case, run_rounds, *, timed):
        files = _files(self.options.baselines, case.method)
        kept = Path(os.environ[FOLDER]) / _digest(conftest, case.id, *files)
        if not (kept / "record.json").exists():
            self._measurer.define(case, self.options.baselines, self.options.project)
            kept.mkdir(exist_ok=True)
            record = self._measurer.measured(run_rounds=run_rounds, keep_adapters=kept).record
            if record.status == "ok":
                (kept / "ran").touch()
            (kept / "record.json").write_bytes(msgspec.json.encode(record))
        elif (kept / "ran").exists():
            run_rounds(lambda: None, setup=lambda: ((), {}), teardown=lambda: None, rounds=3)
        for folder in (path for path in kept.iterdir() if path.is_dir() and self._adapters):
            with contextlib.suppress(OSError):  # `keep_adapter` does without, too
                shutil.copytree(folder, self._adapters / folder.name, dirs_exist_ok=True)
        record = msgspec.json.decode((kept / "record.json").read_bytes(), type=Record)
        metrics = dict(record.metrics)
        # As if each step had taken 2 ms: a busy machine must not fail a test.
        if metrics.pop("step_seconds", None) and timed:
            metrics["step_seconds"] = make_metric("step_seconds", 0.002, [0.002] * 3)
        return KeptRecord(record=msgspec.structs.replace(record, metrics=metrics))

    def defined(self, case):
        files = _files(self.options.baselines, case.method)
        kept = Path(os.environ[FOLDER]) / _digest(conftest, case.id, *files) / "record.json"
        if not kept.exists():
            return define(self, case)
        return msgspec.json.decode(kept.read_bytes(), type=Record).definition

    RegressSession._measured = replayed
    RegressSession.define = defined
    session.describe_machine = _machine


def _machine():
    kept = Path(os.environ[FOLDER]) / "machine.json"
    if not kept.exists():
        kept.write_bytes(msgspec.json.encode(describe_machine()))
    return msgspec.json.decode(kept.read_bytes(), type=Machine)


def _files(baselines, method):
    folders = [baselines / "sources"]
    for manifest in sorted(baselines.glob("adapters/*/stored.json")):
        stored = Case.parse(json.loads(manifest.read_text())["case"])
        if stored.method == method:
            folders.append(manifest.parent)
    paths = [path for one in folders if one.is_dir() for path in sorted(one.iterdir())]
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def _digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
