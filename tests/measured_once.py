"""Measure each case of the plugin's inner runs once for real, and replay its record afterwards.

A record is kept in a folder by all that it depends on, so that workers of pytest-xdist replay it
too, and import no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from peft_regress.metrics import make_metric
from peft_regress.plugin import session
from peft_regress.plugin.session import RegressSession
from peft_regress.runs.environment import describe_machine
from peft_regress.runs.schema import Machine, Record

FOLDER = "PEFT_REGRESS_MEASURED_ONCE"
"""The environment variable that names the folder of records."""


def install(conftest: str) -> None:
    """Replay what was measured under a conftest.py with this text."""
    measure = getattr(RegressSession._measured, "real", RegressSession._measured)

    def replayed(self: RegressSession, case: Any, run_rounds: Any, *, timed: bool) -> Any:
        adapters = self._adapters
        files = _files(self.options.baselines, case.method)
        kept = Path(os.environ[FOLDER]) / _digest(
            conftest, case.id, f"timed: {timed}, keeps: {adapters is not None}", *files
        )
        if not kept.exists():
            result = _at_one_speed(measure(self, case, run_rounds, timed=timed))
            kept.mkdir(exist_ok=True)
            if adapters and (mine := adapters / case.id.replace("/", "--")).is_dir():
                shutil.copytree(mine, kept / mine.name, dirs_exist_ok=True)
            (kept / "record.json").write_bytes(msgspec.json.encode(result.record))
            return result
        record = msgspec.json.decode((kept / "record.json").read_bytes(), type=Record)
        if record.status == "ok":
            run_rounds(lambda: None, setup=lambda: ((), {}), teardown=lambda: None, rounds=3)
        for folder in (path for path in kept.iterdir() if path.is_dir()):
            with contextlib.suppress(OSError):  # `keep_adapter` does without, too
                shutil.copytree(folder, adapters / folder.name, dirs_exist_ok=True)
        return SimpleNamespace(record=record, status=record.status)

    replayed.real = measure
    RegressSession._measured = replayed
    session.describe_machine = _machine


def _at_one_speed(result: Any) -> Any:
    """Return the result as if each step had taken 2 ms: a busy machine must not fail a test."""
    metrics = dict(result.record.metrics)
    if "step_seconds" in metrics:
        metrics["step_seconds"] = make_metric("step_seconds", 0.002, [0.002] * 3)
    record = msgspec.structs.replace(result.record, metrics=metrics)
    return SimpleNamespace(record=record, status=record.status)


def _machine() -> Machine:
    """Describe the machine, which imports torch, once."""
    kept = Path(os.environ[FOLDER]) / "machine.json"
    if not kept.exists():
        kept.write_bytes(msgspec.json.encode(describe_machine()))
    return msgspec.json.decode(kept.read_bytes(), type=Machine)


def _files(baselines: Path, method: str) -> list[str]:
    """Return the digests of the stored files that a measurement reads."""
    folders = (baselines / "sources", baselines / "adapters" / method)
    paths = sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
