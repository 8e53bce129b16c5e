"""Run scripts with nothing of this project; the libraries are imported once for all of them."""

import os
import subprocess
import sys

_ALL_AT_ONCE = """
import os, pathlib, runpy, signal, sys, warnings
warnings.simplefilter("ignore")
import peft, torch, transformers.pytorch_utils
torch.set_num_threads(1)
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.py")):
    child = os.fork()
    if not child:
        signal.alarm(60)
        os.dup2(os.open(path.with_suffix(".out"), os.O_WRONLY | os.O_CREAT), 1)
        code = 99
        try:
            runpy.run_path(str(path), run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(path.stem, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def ended(folder, scripts):
    """Write scripts into a folder, run them, and return how each ended and what it printed.

    A script that takes more than 60 seconds ends by SIGALRM: its code is -14.
    """
    folder.mkdir(exist_ok=True)
    for name, text in scripts.items():
        (folder / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _ALL_AT_ONCE, str(folder)], cwd=folder.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    codes = dict(line.split() for line in done.stdout.splitlines())
    return {name: (int(code), (folder / f"{name}.out").read_text()) for name, code in codes.items()}
