"""Run a script in a process of its own, and read what was seen of its first optimizer steps."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import msgspec

from peft_regress.errors import InputError
from peft_regress.measure.scripts.observation import Observation, WatchRequest
from peft_regress.text import clean

OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "offline",
    "TORCHDYNAMO_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONHASHSEED": "0",
}
"""What a watched script gets unless the caller says otherwise: no network, no tracking, eager."""
_LAUNCHERS: Final = (
    "accelerate.commands.launch",
    "torch.distributed.run",
    "torch.distributed.launch",
)
_LINES_KEPT: Final = 20
_LONGEST_LINE: Final = 2000
_MOST_FILES: Final = 20_000
"""Of the folder of a script: to look at so many takes a tenth of a second."""
_LEFT_OUT: Final = (".", "__pycache__", "node_modules")
"""How the names of folders begin that are not looked at, as virtual environments are not."""


class ScriptError(InputError):
    """A script that takes no step."""


def watch_script(  # noqa: PLR0913  (all but the script have defaults)
    script: str,
    *,
    args: Sequence[str] = (),
    is_module: bool = False,
    steps: int = 4,
    nudge: float = 0.0,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    time_limit: float = 600,
    python: str = sys.executable,
    shows: IO[str] | None = None,
) -> Observation:
    """Run a script until it has taken some optimizer steps, and return what was seen.

    script: a file, or with `is_module` a module's name. folder: where it runs; default: here.
    time_limit: seconds. shows: where its output goes as it comes; default: nowhere.

    Raises `InputError` if there is no such script, and `ScriptError` if it ends or is still running
    after `time_limit` without having taken a step; the message has the end of its output.
    """
    folder = Path.cwd() if folder is None else folder
    if is_module and script in _LAUNCHERS:
        raise InputError(
            f"{script} starts the training in a process of its own, which is not watched: watch "
            "the script that it starts; with one process it does the same"
        )
    if not is_module and not (folder / script).is_file():
        raise InputError(f"no such script: {clean(script)} (in {clean(str(folder))})")
    with tempfile.TemporaryDirectory(prefix="peft-regress-watch-") as scratch:
        answer = Path(scratch, "observation.json")
        request = Path(scratch, "request.json")
        asked = WatchRequest(
            script=script if is_module else str(folder / script),
            is_module=is_module,
            args=tuple(args),
            steps=steps,
            nudge=nudge,
            answer=str(answer),
        )
        request.write_bytes(msgspec.json.encode(asked))
        words = [python, "-m", "peft_regress.measure.scripts.child", str(request)]
        variables = {**os.environ, **OFFLINE, **(env or {})}
        before = _stamps_below(folder)
        ended, last = _run(words, env=variables, folder=folder, time_limit=time_limit, shows=shows)
        seen = None
        if answer.is_file():
            seen = msgspec.json.decode(answer.read_bytes(), type=Observation)
    if seen is not None and seen.steps:
        return msgspec.structs.replace(seen, written=_written(folder, before))
    if seen is not None and seen.failed:
        raise ScriptError(f"{clean(script)}: {clean(seen.failed)}")
    if seen is not None and seen.ended:
        raise ScriptError(f"{clean(script)} took no optimizer step: it ended by {seen.ended}")
    said = next((clean(line) for line in reversed(last) if line.strip()), "")
    printed = f"; the last line that it printed: {said}" if said else ""
    raise ScriptError(f"{clean(script)} took no optimizer step: it {ended}{printed}")


def _run(
    words: list[str], *, env: dict[str, str], folder: Path, time_limit: float, shows: IO[str] | None
) -> tuple[str, Sequence[str]]:
    """Run a command, and return how it ended and the end of its output."""
    last: deque[str] = deque(maxlen=_LINES_KEPT)
    with subprocess.Popen(  # noqa: S603  (the user's own script)
        words,
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None  # noqa: S101 - asked for above
        reader = threading.Thread(target=_read, args=(process.stdout, last, shows), daemon=True)
        reader.start()
        try:
            code = process.wait(timeout=time_limit)
            said = f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            said = f"was still running after {time_limit:g} seconds"
        finally:
            # What it started in turn, such as workers of a DataLoader, ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        reader.join(timeout=5)
    return said, last


def _read(stream: IO[str], last: deque[str], shows: IO[str] | None) -> None:
    """Pass the output on, and keep its last lines; a line without an end is cut into pieces."""
    while line := stream.readline(_LONGEST_LINE):
        last.append(line.rstrip("\n"))
        if shows is not None:
            shows.write(line)


def _stamps_below(root: Path) -> dict[str, dict[str, int]]:
    """Return what each folder below another has, the upper ones first, up to `_MOST_FILES`."""
    found: dict[str, dict[str, int]] = {}
    folders, left = [""], _MOST_FILES
    for at in folders:  # which grow
        stamps = _stamps_in(root / at)
        left -= len(stamps)
        if left < 0:
            break
        found[at] = stamps
        folders += [f"{at}{name}" for name in stamps if name.endswith("/")]
    return found


def _stamps_in(folder: Path) -> dict[str, int]:
    """Return when each file of a folder was changed, and 0 for each folder: `out/`."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if len(found) > _MOST_FILES:
                break
            if not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):  # it may be gone
                    found[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
            elif not (entry.name.startswith(_LEFT_OUT) or Path(entry, "pyvenv.cfg").is_file()):
                found[f"{entry.name}/"] = 0
    return found


def _written(root: Path, before: dict[str, dict[str, int]]) -> tuple[str, ...]:
    """Return what is new or changed in some folders; of a new folder, its name alone."""
    found = (
        clean(f"{at}{name}")
        for at, stamps in before.items()
        for name, stamp in _stamps_in(root / at).items()
        # Journals of runs are this package's own: other workers go on meanwhile.
        if stamps.get(name) != stamp and ".journal" not in name
    )
    return tuple(sorted(found))
