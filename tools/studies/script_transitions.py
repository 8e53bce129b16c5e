"""Find releases that silently changed training, and the function that did it, by `bisect`.

    python tools/studies/script_transitions.py      # or some: accelerate dora dpo ...

Each script of `transitions/` trains as users did when the release appeared, and knows nothing of
it. It is bisected in a project of its own; `--with` adds the packages of that time over the running
environment. The others are cases of this project. The tables are in docs/upgrading.md.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

_ROOT: Final = Path(__file__).parents[2]
_SCRIPTS: Final = Path(__file__).with_name("transitions")
_LONGEST: Final = 200


class Transition(NamedTuple):
    """A change that users or maintainers reported, and the search for it."""

    report: str
    script: str
    """A script, or a case of this project."""
    package: str
    good: str
    bad: str
    beside: tuple[str, ...] = ()
    metric: str | None = None


def _of_case(case: str, metric: str, good: str, bad: str) -> Transition:
    return Transition(case, case, "peft", good, bad, metric=metric)


_OF_2024: Final = ("peft==0.14.0", "trl==0.13.0", "datasets==3.2.0")
_OF_2025: Final = ("transformers==4.55.4", "peft==0.17.1")
_PEFT: Final = ("peft==0.14.0",)
_TOOLS: Final = ("setuptools<81",)
_TRANSITIONS: Final = {
    "sft": Transition("unsloth#8261", "sft.py", "trl", "1.5.1", "1.8.0"),
    "dpo": Transition("transformers#35856", "dpo.py", "transformers", "4.48.0", "4.48.2", _OF_2024),
    "accelerate": Transition("accelerate#2208", "loop.py", "accelerate", "0.24.1", "0.25.0", _PEFT),
    "qlora": Transition("trl#3926", "qlora.py", "trl", "0.19.1", "0.21.0", _OF_2025),
    "chat": Transition("trl#5138", "chat.py", "trl", "0.15.2", "0.17.0", _OF_2025),
    "lightning": Transition(
        "Lightning 2.2", "lightning_bert.py", "lightning", "2.1.4", "2.2.1", _TOOLS
    ),
    "sft-2023": Transition("trl#1168", "sft.py", "trl", "0.7.1", "0.7.2", _PEFT),
    "lightning-2022": Transition(
        "lightning#14445", "pl_resnet.py", "pytorch-lightning", "1.5.4", "1.6.5", _TOOLS
    ),
    "dora": _of_case("shift/dora-r4/resnet18", "forward_flops", "0.14.0", "0.15.0"),
    "lokr": _of_case("shift/lokr-r4/resnet18", "filled_losses", "0.13.2", "0.14.0"),
    "bfloat16": _of_case(
        "shift/lora-bf16-r4/shufflenet_v2_x0_5", "adapter_bytes", "0.11.1", "0.12.0"
    ),
    "channels": _of_case("shift/dora-r4/resnet18", "channels_last_kept", "0.15.2", "0.16.0"),
    "groups": _of_case("shift/loha-r4/mobilenet_v2", "status", "0.19.1", "0.20.0"),
    "boft": _of_case("folio/boft/llama", "forward_flops", "0.19.1", "0.20.0"),
    "osf": _of_case("folio/osf/llama", "forward_flops", "0.20.0", "0.21.0"),
    "xlora": _of_case("folio/xlora-r4/llama", "peak_bytes", "0.20.0", "0.21.0"),
    "experts": _of_case("folio/lora-experts-r4/mixtral", "filled_losses", "0.19.0", "0.19.1"),
    "tinylora": _of_case("folio/tinylora-r4/llama", "filled_losses", "0.19.1", "0.20.0"),
    "adamss": _of_case("folio/adamss-r4/llama", "filled_losses", "0.19.1", "0.20.0"),
    "delete": _of_case("folio/lora-r4/llama", "delete_leaves_nothing", "0.19.1", "0.20.0"),
    "tied": _of_case("folio/lora-tied-r4/llama", "status", "0.18.1", "0.19.0"),
    "hira": _of_case("folio/hira-r4/llama", "refused_merge_keeps_base", "0.20.0", "0.21.0"),
    "tokens": _of_case("folio/trainable_tokens/llama", "status", "0.20.0", "0.21.0"),
    "prompt": _of_case("lower_case/prompt/bert", "trainable_params", "0.14.0", "0.15.2"),
}


def main() -> None:
    """Search for each transition and print a row of the table when it is done."""
    print("| report | releases | first | what changed | which function | seconds | of processor |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in sys.argv[1:] or _TRANSITIONS:
        wanted = _TRANSITIONS[name]
        began, used = time.monotonic(), _processor_seconds()
        answer = _searched(name, wanted)
        seconds = f"{time.monotonic() - began:.0f} | {_processor_seconds() - used:.0f}"
        ends = f"{wanted.package} {wanted.good} to {wanted.bad}"
        for row in _rows(answer):
            print(f"| {' | '.join((wanted.report, ends, *row, seconds))} |", flush=True)


def _searched(name: str, wanted: Transition) -> dict[str, Any] | str:
    """Return what `bisect` prints as JSON, or why it could not search."""
    words = ["bisect", wanted.package, "--good", wanted.good, "--bad", wanted.bad]
    words += [word for one in wanted.beside for word in ("--with", one)]
    if wanted.metric is not None:
        matrix = "default" if wanted.script.startswith("shift/") else "language"
        case = ["--case", wanted.script, "--metric", wanted.metric, "--matrix", matrix]
        return _answer([*words, *case], folder=_ROOT)
    with tempfile.TemporaryDirectory() as folder:
        for script in ("tiny.py", wanted.script):
            shutil.copy(_SCRIPTS / script, folder)
        Path(folder, "pyproject.toml").write_text('[tool.peft_regress]\ncases = ["gates:GATES"]\n')
        Path(folder, "gates.py").write_text(
            "from peft_regress import Script\n"
            f"GATES = [Script('study/lora-r4/{name}', '{wanted.script}', time_limit=3000)]\n"
        )
        return _answer([*words, "--time-limit", "600"], folder=Path(folder))


def _answer(words: list[str], *, folder: Path) -> dict[str, Any] | str:
    done = subprocess.run(
        [sys.executable, "-m", "peft_regress", *words, "--format=json"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode in {0, 3} and done.stdout:
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    return done.stderr.strip().splitlines()[-1]


def _rows(answer: dict[str, Any] | str) -> list[tuple[str, str, str]]:
    """Return the first release of each transition, what changed there, and the functions."""
    if isinstance(answer, str):
        return [("not measured", answer, "")]
    rows = []
    for transition in answer["transitions"]:
        titles = "; ".join(one["title"] for one in transition["findings"])
        functions = [one["which_function"]["sentence"] for one in transition["findings"]]
        shown = "; ".join(dict.fromkeys(functions))
        rows.append((transition["first_bad"], textwrap.shorten(titles, _LONGEST), shown))
    return rows or [("none", "", "")]


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
