"""Run a script in a process of its own, and read what was seen of its first optimizer steps."""

import codecs
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from peft_regress.errors import InputError
from peft_regress.files import encoded
from peft_regress.measure.scripts.observation import WatchedScript, WatchRequest
from peft_regress.processes import Process, variables
from peft_regress.project.script import Event
from peft_regress.runs.schema import Failure
from peft_regress.text import clean, count_of, redacted

OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "offline",
    "TORCHDYNAMO_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What a watched script gets unless the caller says otherwise: no network, no tracking, eager."""
_LAUNCHERS: Final = (
    "accelerate.commands.launch",
    "torch.distributed.run",
    "torch.distributed.launch",
)
_LONGEST_END: Final = 2000
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
    until: Event | None = None,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
    time_limit: float = 600,
    python: str = sys.executable,
    shows: IO[str] | None = None,
    **how: Any,
) -> WatchedScript:
    """Run a script until it has taken some optimizer steps, and return what was seen.

    script: a file, or with `is_module` a module's name. folder: where it runs; default: here.
    until: watch on to that event. time_limit: seconds. shows: where its output goes as it comes;
    default: nowhere. how: what else a `WatchRequest` has.

    Raises `InputError` if there is no such script, and `ScriptError` if it ends or is still running
    after `time_limit` without having taken a step; the message has the end of its output. Where it
    ends later, but too early, the observation says why.
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
        answer = Path(scratch, "observation")
        request = Path(scratch, "request.json")
        asked = WatchRequest(
            script=script if is_module else str(folder / script),
            is_module=is_module,
            args=tuple(args),
            steps=steps,
            until=until,
            answer=str(answer),
            **how,
        )
        request.write_bytes(encoded(asked))
        words = [python, "-m", "peft_regress.measure.scripts.child", str(request)]
        inherited = variables()
        # torch sets it where it is loaded, as in a worker; a script compiles nothing.
        inherited.pop("TORCHINDUCTOR_CACHE_DIR", None)
        its = {**inherited, **OFFLINE, **(env or {})}
        before = _stamps_below(folder)
        ended, last = _run(words, env=its, folder=folder, time_limit=time_limit, shows=shows)
        seen = None
        if answer.is_file():
            seen = msgspec.msgpack.decode(answer.read_bytes(), type=WatchedScript)
    failure = None if seen is None else seen.ended
    if seen is not None and seen.steps:
        if not seen.is_over and failure is None:
            taken = f"after {len(seen.steps)} of {count_of(steps, 'step')}"
            if len(seen.steps) >= steps:
                taken = f"before the {until} that until= asks for"
            failure = Failure(type="ScriptEnded", message=f"it {ended}, {taken}")
        return msgspec.structs.replace(seen, ended=failure, written=_written(folder, before))
    if seen is not None and seen.failed:
        raise ScriptError(f"{clean(script)}: {clean(seen.failed)}")
    if failure is not None:
        ending = f"{failure.type}: {failure.message}"
        raise ScriptError(f"{clean(script)} took no optimizer step: it ended by {ending}")
    lines = (line for line in reversed(last.splitlines()) if line.strip())
    said = next((clean(redacted(line, env)) for line in lines), "")
    printed = f"; the last line that it printed: {said}" if said else ""
    raise ScriptError(f"{clean(script)} took no optimizer step: it {ended}{printed}")


def _run(
    words: list[str], *, env: dict[str, str], folder: Path, time_limit: float, shows: IO[str] | None
) -> tuple[str, str]:
    """Run a command, and return how it ended and the end of its output."""
    deadline = time.monotonic() + time_limit
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    last = ""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with Process(words, env=env, cwd=folder, **streams) as process:
        for read in process.printed(deadline):
            text = decoder.decode(read)
            last = (last + text)[-_LONGEST_END:]
            if shows is not None:
                shows.write(text)
        code = process.ended(deadline)
    if code is None:
        return f"was still running after {time_limit:g} seconds", last
    return f"ended with exit code {code}", last


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
