"""A project whose measuring is a stub: it sleeps, and can kill the process that measures.

It imports no torch, so a pytest process of its own takes a second.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

from builders import MACHINE, make_record, repeating, trained
from projects import Folder, Suite

from peft_regress.plugin import session
from peft_regress.plugin.session import RegressSession
from peft_regress.runs.journal import KeptRecord, read_lines

SECONDS, DEADLY, LOG = "STUB_SECONDS", "STUB_DEADLY", "STUB_LOG"
TESTS = Path(__file__).parent
CONFTEST = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import stub_measuring
from peft_regress import registry
from tiny_architecture import TinyArchitecture

stub_measuring.install()
for kind, kept in (("architecture", ()), ("method", ("head", "lora")), ("task", ("shift",))):
    for name in registry.names(kind):
        if name not in kept:
            registry.remove(kind, name)
for name in ("tiny", "tiny2"):
    registry.add("architecture", TinyArchitecture(name=name, matrices=("default",)))
"""
SUITE = """
import pytest
from peft_regress import case_params

@pytest.mark.parametrize("case", case_params())
def test_case(case, peft_regress):
    peft_regress(case)
"""
IDS = sorted(
    f"shift/{method}/{architecture}"
    for method in ("head", "lora-r1", "lora-r4", "lora-r16")
    for architecture in ("tiny", "tiny2")
)


def install():
    """Measure nothing: sleep, note the case, die if it is a deadly one; repeat what is known."""

    def measured(self, case, run_rounds, *, timed):
        with Path(os.environ[LOG]).open("a", encoding="utf-8") as log:
            log.write(f"{case.id}\n")
        time.sleep(float(os.environ.get(SECONDS, "0")))
        if re.search(os.environ.get(DEADLY, "no case"), case.id):
            os._exit(0)
        if timed:
            run_rounds(lambda: None, setup=lambda: ((), {}), teardown=lambda: None, rounds=3)
        record = trained(case.id)
        same = [one for one in self._known(case.id) if one.curve == record.curve]
        record = repeating(record, by=same[0].run_name) if same else record
        return KeptRecord(record=record)

    def defined(self, case):
        return make_record(case.id).definition

    RegressSession._measured = measured  # type: ignore[assignment, method-assign]
    RegressSession.define = defined  # type: ignore[method-assign]
    session.describe_machine = lambda: MACHINE


class StubProject(Folder):
    """A folder with eight cases, whose pytest runs in processes of its own."""

    def __init__(self, folder):
        Folder.__init__(self, folder)
        self.save = folder / "runs" / "run.json"
        self.journal = folder / "runs" / "run.json.journal"
        self.write({"pytest.ini": "[pytest]\n", "conftest.py": CONFTEST, "test_suite.py": SUITE})

    def start(self, *arguments, seconds=0, deadly="no case", **streams):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        environment |= {LOG: str(self.folder / "log"), SECONDS: str(seconds), DEADLY: deadly}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        command += ["-p", "no:hypothesispytest"]  # a third of the time that pytest takes to start
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            text=True,
            start_new_session=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **streams},
        )

    def run(self, *arguments, seconds=0, deadly="no case"):
        process = self.start(*arguments, seconds=seconds, deadly=deadly)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out

    @property
    def log(self):
        path = self.folder / "log"
        return path.read_text().split() if path.exists() else []

    @property
    def kept(self):
        """The cases in the run file and in the journal beside it."""
        lines = read_lines(self.save) if self.save.exists() or self.journal.exists() else []
        return {line.case for line in lines}


class InnerProject(StubProject, Suite):
    """The same, with runs in this process, which the fixture `stubbed` takes back."""

    def __init__(self, pytester):
        StubProject.__init__(self, pytester.path)
        self.pytester = pytester

    def inner(self, *arguments, **how):
        code, out, err = self.pytest(*arguments, **how)
        return code, out + err

    def saved(self, name="runs/run.json"):
        return super().saved(name)
