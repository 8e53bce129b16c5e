"""A scenario in one expression: files of a folder in, a command, exit code and text out."""

import sys
from typing import NamedTuple

import pytest
from builders import make_run, write_entry, write_run
from restored import registry_restored

from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Run


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def flat(self):
        return " ".join(self.out.split())


class Folder:
    """A folder of files and runs."""

    def __init__(self, folder):
        self.folder = folder

    def write(self, files):
        """Write files: text or bytes by name, a run, or the records of one; return the project."""
        for name, content in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                write_run(path, content if isinstance(content, Run) else make_run(*content))
        return self

    def store(self, number, *records, **how):
        """Accept records as an entry of the storage `baselines`; return the path of the entry."""
        return write_entry(self.folder / "baselines", number, *records, **how)

    def saved(self, name="run.json"):
        return read_run_file(self.folder / name).run


class Project(Folder):
    """A folder, in which commands are typed in this process."""

    def __init__(self, folder, command):
        super().__init__(folder)
        self._command = command

    def run(self, *words):
        return Ended(*self._command(*words))


@pytest.fixture
def project(tmp_path, monkeypatch, command, clean_registry):
    """A project in the working folder; its modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    yield Project(tmp_path, command)
    for name, module in [*sys.modules.items()]:
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


class Suite(Folder):
    """A folder with a suite, which pytest runs in this process and with its imports."""

    def __init__(self, pytester):
        super().__init__(pytester.path)
        self.pytester = pytester

    def pytest(self, *arguments, **how):
        with registry_restored():
            done = self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments, **how)
        return Ended(int(done.ret), done.stdout.str(), done.stderr.str())
