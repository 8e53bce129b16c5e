"""Where the command prints: pipes that nobody reads, full disks, closed streams, encodings.

Most of it is in this process, with a stream of the test's own in place of `sys.stdout`.
"""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from builders import LORA, make_record, make_run, write_run
from screen import Terminal

from peft_regress.baselines.references import read_references
from peft_regress.cli.main import main
from peft_regress.runs.schema import Failure

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_file(tmp_path):
    return str(write_run(tmp_path / "run.json"))


def exit_code(*arguments, **streams):
    """Run the command in this process, with `stdout` and `stderr` as given."""
    with mock.patch.multiple(sys, **streams), pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    return int(stopped.value.code or 0)


def process(*arguments, **how):
    """Run the command in a process of its own."""
    words = [sys.executable, "-m", "peft_regress", *arguments]
    return subprocess.run(words, cwd=ROOT, check=False, **how)


@contextlib.contextmanager
def unread_pipe():
    """Open a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        yield stream


COMMANDS = [
    pytest.param(("list",), id="many-writes"),
    pytest.param(("list", "--format", "json"), id="more-than-a-pipe-holds"),
    pytest.param(("list", "--cases", "shift/head/resnet18"), id="one-line"),
    pytest.param(("--help",), id="help"),
    pytest.param(("--version",), id="version"),
    pytest.param(("compare", "RUN", "RUN"), id="compare"),
    pytest.param(("compare", "RUN", "RUN", "--format", "json"), id="compare-json"),
    pytest.param(("compare", "RUN", "RUN", "--format", "markdown"), id="compare-markdown"),
    pytest.param(("explain", "RUN", "RUN", LORA, "--format", "json"), id="explain"),
    pytest.param(("history", "RUN"), id="history"),
    pytest.param(("report", "RUN"), id="report"),
    pytest.param(("upgrade", "--clean"), id="upgrade"),
]


@pytest.fixture
def words(request, run_file, tmp_path, monkeypatch):
    """The words of a command, in a folder without a storage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return [run_file if word == "RUN" else word for word in request.param]


@pytest.fixture
def errors(tmp_path):
    """A file that takes the place of standard error."""
    with (tmp_path / "errors").open("w+") as stream:
        yield stream


def read(stream):
    return Path(stream.name).read_text()


@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_a_closed_pipe_is_no_error_and_no_verdict(words, errors):
    with unread_pipe() as pipe:
        assert exit_code(*words, stdout=pipe, stderr=errors) == 141
    assert read(errors) == ""


@pytest.mark.parametrize("words", COMMANDS, indirect=True)
def test_a_full_disk_is_one_message_and_no_verdict(words, errors):
    with Path("/dev/full").open("w") as full:
        assert exit_code(*words, stdout=full, stderr=errors) == 2
    assert read(errors) == "error: output: No space left on device\n"


@pytest.mark.parametrize("words", [COMMANDS[0], *COMMANDS[5:]], indirect=True)
def test_without_an_output_there_is_one_message_and_no_verdict(words, errors):
    assert exit_code(*words, stdout=None, stderr=errors) == 2
    assert read(errors) == "error: output: closed\n"


@pytest.mark.slow
def test_python_does_not_complain_at_exit_if_the_reader_has_gone_or_the_disk_is_full(run_file):
    words = f"{sys.executable} -m peft_regress report {run_file} --baselines no | head -1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 case, from ")
    with unread_pipe() as pipe:
        assert process("list", "--cases", "shfit/*", stdout=pipe, stderr=pipe).returncode == 141
    with Path("/dev/full").open("w") as full:
        done = process("list", stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")
        assert process("list", stdout=full, stderr=full).returncode == 2


def test_a_message_without_a_stream_does_not_get_into_the_data(tmp_path):
    """The next file that a process opens gets the number of a closed stream."""
    record = make_record(LORA, invariants={"identity_at_init": False})
    write_run(tmp_path / "run.json", make_run(record))
    words = f"exec {sys.executable} -m peft_regress accept run.json --reason why"
    said = subprocess.run(
        ["sh", "-c", f"{words} --baselines said"], cwd=tmp_path, capture_output=True, check=True
    )
    assert b"identity_at_init" in said.stderr
    done = subprocess.run(
        ["sh", "-c", f"{words} --baselines b 2>&-"], cwd=tmp_path, capture_output=True, check=True
    )
    assert b"identity_at_init" not in done.stdout
    assert read_references(tmp_path / "b").keys() == {LORA}


@pytest.mark.parametrize(("columns", "no_color"), [(40, ""), (100, "1")])
def test_a_terminal_gets_its_width_and_colour_unless_it_wants_none(tmp_path, columns, no_color):
    for name, flops in (("old.json", 4 * 10**9), ("new.json", 6 * 10**9)):
        write_run(tmp_path / name, make_run(make_record(LORA, {"forward_flops": flops})))
    terminal = Terminal(columns=columns)
    words = (sys.executable, "-m", "peft_regress", "compare", "old.json", "new.json")
    assert terminal.run(*words, cwd=tmp_path, environment={"NO_COLOR": no_color}) == 1
    assert ("\x1b[1;31mREGRESSED (1 regressed)\x1b[0m" in terminal.output) == (not no_color)
    assert ("\x1b" in terminal.output) == (not no_color)
    shown = next(line for line in terminal.screen() if LORA in line)
    assert shown.split()[1:4] == ([] if columns == 40 else ["4.000", "GFLOP", "6.000"])


@pytest.fixture
def letters(tmp_path):
    """Two run files whose names and contents are not ASCII; the second fails."""
    error = Failure(type="Fehler", message="gr\u00f6\u00dfer wie \u6f22")
    old = write_run(tmp_path / "\u00e9 old.json", make_run(make_record()))
    new = write_run(tmp_path / "\u6f22.json", make_run(make_record(status="error", error=error)))
    return str(old), str(new)


class Encoded(io.TextIOWrapper):
    """A stream in memory with an encoding of its own."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    @property
    def text(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", "gr\u00f6\u00dfer wie \u6f22"),
        ("latin-1", "gr\u00f6\u00dfer wie \\u6f22"),
        ("ascii", "gr\\xf6\\xdfer wie \\u6f22"),
    ],
)
def test_letters_outside_the_encoding_are_escaped(letters, encoding, shown, monkeypatch):
    def run(*arguments):
        out, err = Encoded(encoding), Encoded(encoding)
        # As Python opens it.
        err.reconfigure(errors="backslashreplace")
        code = exit_code("compare", *arguments, stdout=out, stderr=err)
        return code, out.text, err.text

    monkeypatch.setenv("COLUMNS", "100")
    for form in ("markdown", "json"):
        assert run("--format", form, *letters)[::2] == (1, "")
    code, out, err = run(*letters)
    assert (code, err) == (1, "")
    assert f"Fehler: {shown}" in out
    code, out, err = run(letters[0], "\u6f22.json")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
