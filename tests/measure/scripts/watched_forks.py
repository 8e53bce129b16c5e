"""Watch scripts in forks of one process that has loaded torch: a tenth of the time of new ones.

python watched_forks.py    reads the path of a request a line, answers with an exit code
"""

from __future__ import annotations

import os
import sys

import torch._dynamo  # noqa: F401  (each optimizer does, in each fork: over a second)

from peft_regress.measure.scripts import child

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.stdout = sys.stderr
        code = 1
        try:
            child.main(line.strip())
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    sys.stdout.write(f"{code}\n")
    sys.stdout.flush()
