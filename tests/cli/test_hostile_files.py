"""Each file that a command reads, with what nobody wrote in its place: one line, and no hang."""

import os
import signal
import stat
from pathlib import Path

import pytest
from builders import (
    ENVIRONMENT,
    LORA,
    MACHINE,
    keep_weights,
    make_record,
    make_run,
    write_entry,
    write_run,
)

from peft_regress import files
from peft_regress.invariants import KNOWN
from peft_regress.project import project
from peft_regress.runs.journal import Header, JournalWriter, KeptRecord, journal_of

SECONDS = 60
"""So long a test that hangs may take."""

HOSTILE = {
    "cut": b'{"peft_regress": {"cases": {\n',
    "deep": b"a = " + b"[" * 100_000 + b"\n",
    "deep key": b'{"peft_regress": ' + b"[" * 100_000 + b"\n",
    "no text": b'{"\xff": "\0"}\n',
    "digits": b"a = " + b"9" * 10_000 + b"\n",
    "folder": Path.mkdir,
    "FIFO": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o644),
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
}

KEPT = f"run.adapters/{LORA.replace('/', '--')}"
FOLDER = "baselines/Linux-CPython-3.11-64bit"
ACCEPT = ("accept", "run.json", "--reason", "r")
MEASURE = ("measure", "--cases", LORA, "--save", "new.json")
UPGRADE = ("upgrade", "peft==0.18.1", "--cases", LORA)
JUDGE = ("compare", "baselines", "good.json")
READS = {
    "run.json": [
        ("compare", "run.json", "good.json"),
        ("compare", "good.json", "run.json", "--save", "new.json"),
        ACCEPT,
        ("explain", "run.json", "good.json", LORA),
        ("history", "run.json"),
        ("report", "run.json"),
        (*UPGRADE, "--base", "run.json"),
        (*UPGRADE, "--resume", "run.json"),
        (*MEASURE, "--resume", "run.json"),
    ],
    "kept.json.journal": [
        ("compare", "good.json", "kept.json.journal"),
        (*UPGRADE, "--resume", "kept.json.journal"),
        (*MEASURE, "--resume", "kept.json"),
    ],
    f"{FOLDER}/0001_peft-0.18.1.json": [
        JUDGE,
        ("accept", "good.json", "--reason", "r"),
        ("explain", "0001", "good.json", LORA),
        ("history",),
        ("report",),
        UPGRADE,
    ],
    "baselines/newest": [JUDGE, ("accept", "good.json", "--reason", "r"), UPGRADE],
    f"{FOLDER}/current.txt": [JUDGE],
    f"{KEPT}/stored.json": [ACCEPT],
    f"{KEPT}/model.safetensors": [ACCEPT],
    "baselines/sources/manifest": [MEASURE, ("sources", "--check", "--architecture", "resnet18")],
    "budgets.toml": [MEASURE],
    "devices.toml": [
        ("compare", "good.json", "good.json"),
        ("choose", "--architecture", "resnet18", "--device", "none"),
    ],
    "pyproject.toml": [("list",), JUDGE],
    "adapter/adapter_config.json": [("compat", "adapter")],
    "adapter/adapter_model.safetensors": [("compat", "adapter")],
}
TRIES = [(name, words) for name, every in READS.items() for words in every]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with all of these files as they should be."""
    monkeypatch.chdir(tmp_path)
    for name in ("run.json", "good.json"):
        write_run(tmp_path / name, make_run(make_record(LORA)))
    keep_weights(tmp_path / "run.json", make_record(LORA))
    writer = JournalWriter(journal_of(tmp_path / "kept.json"))
    header = Header(environment=ENVIRONMENT, machine=MACHINE, metrics_known=sorted(KNOWN))
    writer.add(header, KeptRecord(record=make_record(LORA)))
    writer.close()
    write_entry(tmp_path / "baselines", 1, make_record(LORA))
    (tmp_path / "baselines" / "sources").mkdir()
    (tmp_path / "baselines" / "sources" / "manifest").write_text("{}")
    (tmp_path / "pyproject.toml").write_text(
        '[tool.peft_regress]\nbudgets = "budgets.toml"\ndevices = "devices.toml"\n'
    )
    (tmp_path / "budgets.toml").touch()
    (tmp_path / "devices.toml").touch()
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return tmp_path


@pytest.fixture
def limited():
    """Fail a test that hangs."""

    def late(*_):
        pytest.fail(f"no end within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    ("name", "words"), TRIES, ids=[f"{Path(name).name}-{' '.join(words)}" for name, words in TRIES]
)
def test_what_is_no_such_file_is_one_line(command, here, monkeypatch, name, words):
    monkeypatch.setattr(files, "_LARGEST_BYTES", 2**22)  # of /dev/zero
    path = here / name
    for kind, content in HOSTILE.items():
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)
        monkeypatch.setattr(project, "_CURRENT", project.Project())
        code, out, err = command(*words)
        # A source that is not there is exit code 3.
        assert (code, out) == (3 if path.name == "manifest" else 2, ""), (kind, err)
        assert err.count("\n") == 1, (kind, err)
        assert path.name in err, (kind, err)


LONG = "x" * 10_000


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("accept", LONG, "--reason", "r"), 3),
        ((*ACCEPT, "--baselines", LONG), 2),
        ((*ACCEPT, "--baselines", "loop"), 2),
        (("compare", LONG, "run.json"), 2),
        (("compare", "run.json", "run.json", "--save", LONG), 2),
        (("explain", "loop", "run.json", LORA), 3),
        (("history", LONG), 2),
        (("history", "loop"), 2),
        (("report", "loop"), 2),
        (("report", "run.json", "--html", LONG), 2),
        (("report", "run.json", "--html", "loop/page.html"), 2),
    ],
    ids=lambda one: f"{one[0]}-{one[-1][:9]}" if isinstance(one, tuple) else None,
)
def test_so_is_a_path_that_the_system_refuses(command, here, words, expected):
    (here / "loop").symlink_to("loop")
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (expected, "", 1)
    assert err.startswith("error: ")


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loop", (*MEASURE, "--resume", "loop")),
        (f"{FOLDER}/current.txt", ("accept", "--renew")),
        (f"{FOLDER}/current.txt", ("accept", "good.json", "--reason", "r")),
    ],
)
def test_so_is_what_is_written_too(command, here, name, words):
    (here / "loop").symlink_to("loop")
    if name != "loop":
        (here / name).unlink()
        os.mkfifo(here / name)
    code, out, err = command(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert name in err
