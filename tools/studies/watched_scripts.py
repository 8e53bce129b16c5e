"""Show that the scripts in examples/ repeat anywhere, and what watching adds to them.

    python tools/studies/watched_scripts.py quiet    measure each ten times, under other conditions
    python tools/studies/watched_scripts.py added    step times and memory, watched and by itself

`quiet` judges each run by examples/baselines: nothing may be told. Both print Markdown.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
COMMAND = (sys.executable, "-c", "from peft_regress.cli import main; main()")
TABLE = '[tool.peft_regress]\ncases = ["training_scripts.cases:CASES"]\n'
# Times steps as the watcher does: from the end of one to the end of the next.
ALONE = """
import json, os, runpy, sys, time
from torch.optim.optimizer import register_optimizer_step_post_hook
_, answer, script, ends = *sys.argv, []
def note(*_):
    ends.append(time.perf_counter())
    if len(ends) == 8:
        steps = [{"seconds": end - start} for start, end in zip([0, *ends], ends)]
        open(answer, "w").write(json.dumps({"steps": steps}))
        os._exit(0)
register_optimizer_step_post_hook(note)
sys.path[0] = os.path.dirname(script)
runpy.run_path(script, run_name="__main__")
"""


def quiet() -> None:
    """Measure the scripts ten times, and print what the gate tells."""
    print("| conditions | cases | told |\n| --- | ---: | --- |")
    for repeat in range(10):
        conditions = {"PYTHONHASHSEED": str(repeat), "OMP_NUM_THREADS": str(1 + repeat % 3)}
        if repeat % 2:
            conditions["ATEN_CPU_CAPABILITY"] = "avx2"
        with tempfile.TemporaryDirectory(prefix=f"folder-{repeat}-") as folder:
            shutil.copytree(EXAMPLES / "training_scripts", Path(folder, "training_scripts"))
            Path(folder, "pyproject.toml").write_text(TABLE, encoding="utf-8")
            run = partial(subprocess.run, cwd=folder, env={**os.environ, **conditions})
            run([*COMMAND, "measure", "--save", "new.json"], check=True, capture_output=True)
            judge = [*COMMAND, "compare", str(EXAMPLES / "baselines"), "new.json"]
            done = run([*judge, "--format", "json"], check=False, capture_output=True)
            new = json.loads(Path(folder, "new.json").read_text(encoding="utf-8"))["peft_regress"]
        cases = [case for case in json.loads(done.stdout)["cases"] if case["id"] in new["cases"]]
        told = ", ".join(f"{case['id']} {case['verdict']}" for case in cases if case["reasons"])
        print(f"| {conditions} | {len(cases)} | {told or 'nothing'} |", flush=True)


def added() -> None:
    """Run each script watched and by itself, and print what differs."""
    print("| script | a step alone | watched | recorded | memory |\n| --- |" + " ---: |" * 4)
    for name in ("trainer", "sft", "accelerate_loop", "lightning_module", "plain_loop"):
        script = str(EXAMPLES / "training_scripts" / f"{name}.py")
        with tempfile.TemporaryDirectory() as folder:
            answer, request = f"{folder}/answer.json", f"{folder}/request.json"
            asked = {"script": script, "steps": 8, "answer": answer}
            Path(request).write_text(json.dumps(asked), encoding="utf-8")
            watcher = ["-m", "peft_regress.measure.scripts.watcher", request]
            alone, alone_bytes = _run(["-c", ALONE, answer, script], answer)
            watched, watched_bytes = _run(watcher, answer)
        own = statistics.median(alone[1:])
        times = f"{own * 1e3:.0f} ms | x {statistics.median(watched[2:]) / own:.2f}"
        more = f"{watched_bytes / alone_bytes - 1:+.1%} of {alone_bytes / 2**20:,.0f} MiB"
        print(f"| {name} | {times} | x {watched[1] / own:.2f} | {more} |", flush=True)


def _run(arguments: list[str], answer: str) -> tuple[list[float], int]:
    """Run Python; return the seconds of each step, and the most bytes that the process had."""
    run = partial(subprocess.Popen, cwd=Path(answer).parent, stdout=subprocess.DEVNULL)
    with run([sys.executable, *arguments], stderr=subprocess.DEVNULL) as process:
        usage = os.wait4(process.pid, 0)[2]
    steps = json.loads(Path(answer).read_text(encoding="utf-8"))["steps"]
    return [step["seconds"] for step in steps], usage.ru_maxrss * 1024


if __name__ == "__main__":
    {"quiet": quiet, "added": added}[sys.argv[1]]()
