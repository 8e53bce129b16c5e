"""Run scripts in forks of one process that has loaded torch: a tenth of the time of new ones.

python watched_forks.py    reads a path a line, answers with an exit code; of a .json the script of
                           this request is watched, and a .py runs by itself
"""

import gc
import os
import runpy
import sys
from pathlib import Path

import torch._dynamo  # noqa: F401  (each optimizer does, in each fork: over a second)

from peft_regress.measure.scripts import child
from peft_regress.runs.environment import imported_packages

imported_packages()  # kept for all forks: which package has which module takes half a second
gc.freeze()
for line in sys.stdin:
    path = Path(line.strip())
    pid = os.fork()
    if pid == 0:
        sys.stdout = path.with_suffix(".out").open("w", encoding="utf-8")
        code = 1
        try:
            if path.suffix == ".py":
                runpy.run_path(str(path), run_name="__main__")
            else:
                child.main(str(path))
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.stdout.write(f"{code}\n")
    sys.stdout.flush()
