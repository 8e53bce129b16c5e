"""`peft-regress init`: a first suite that runs at once, and is judged after one accept."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

# An inner run forgets what it imports, and some libraries cannot be imported twice.
import peft  # noqa: F401
import pytest
import torch.export  # noqa: F401
import yaml
from command_words import check_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CASE = "digits/lora-r4/small"
WRITTEN = (
    "pyproject.toml",
    "gates/__init__.py",
    "gates/cases.py",
    "gates/test_gates.py",
    ".github/workflows/gate.yml",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_suite_is_red_then_accepted_then_green(
    pytester: pytest.Pytester, command: Callable[..., tuple[int, str, str]]
) -> None:
    root = pytester.path
    code, out, _ = command("init")
    assert code == 0
    assert [name for name in WRITTEN if f"wrote {name}" in out] == [*WRITTEN]
    assert "1. pytest gates --regress-save runs/first.json" in out

    def run(*arguments: str) -> pytest.RunResult:
        # Untimed, since a busy machine would be slower than the baseline.
        return pytester.runpytest_inprocess(
            "-p", "no:cacheprovider", "--benchmark-disable", "gates", *arguments
        )

    first = run("--regress-save", "runs/first.json")
    assert first.ret == 1
    first.stdout.fnmatch_lines(
        [
            "what to type:",
            "  if they are right, let them judge later runs:",
            "*peft-regress accept runs/first.json --reason *",
            "  from then on, a case that gets worse fails:",
            "*pytest gates",
        ]
    )
    assert command("list")[1].endswith(f"\n{CASE}\n")
    assert command("accept", "runs/first.json", "--reason", "first numbers")[0] == 0
    second = run("--regress-save", "runs/second.json")
    assert second.ret == 0
    assert "no regression (1 unchanged; 1 repeats the baseline)" in second.stdout.str()
    # Every command takes the case like a built-in one, also from a folder below.
    pytester.mkdir("below")
    pytester.mkdir(".git")
    for words in (
        ("compare", "../baselines", "../runs/second.json"),
        ("compare", "0001", "../runs/second.json"),
        ("explain", "0001", "../runs/second.json", CASE),
        ("history", "../runs/second.json", "--cases", "digits/*"),
        ("report",),
        ("report", "--html", "page.html"),
        ("export", "../runs/second.json", "--to", "csv"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root / "below")
            code, out, err = command(*words)
        assert code == 0, (words, err)
        assert (
            not out
            or CASE.split("/", maxsplit=1)[0] in out
            or "1 case" in out
            or "unchanged" in out
        ), words
    assert CASE in (root / "below" / "page.html").read_text()


def test_a_first_run_without_a_file_says_how_to_write_one(
    pytester: pytest.Pytester, command: Callable[..., tuple[int, str, str]]
) -> None:
    command("init")
    # With benchmarks on, pytest-benchmark warns about xdist at the very end; in this suite that is
    # an error, which leaves the inner run's log file open.
    done = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning", "--benchmark-disable", "gates"
    )
    done.stdout.fnmatch_lines(
        ["  first run: write these numbers to a file:", "*pytest gates --regress-save run.json"]
    )


def test_settings_go_after_what_pyproject_holds(
    folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    before = "[project]\nname = 'mine'"
    (folder / "pyproject.toml").write_text(before)
    code, out, _ = command("init")
    assert (code, "added [tool.peft_regress] to pyproject.toml" in out) == (0, True)
    text = (folder / "pyproject.toml").read_text()
    assert text.startswith(f"{before}\n\n[tool.peft_regress]\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "/runs/\n/baselines/.lock\n"),
        ("*.pyc", "*.pyc\n/runs/\n/baselines/.lock\n"),
        ("/runs/\n", "/runs/\n/baselines/.lock\n"),
        ("/baselines/.lock\n/runs/\n", "/baselines/.lock\n/runs/\n"),
    ],
)
def test_git_ignores_run_files_and_the_lock_of_the_storage(
    folder: Path, command: Callable[..., tuple[int, str, str]], before: str | None, after: str
) -> None:
    if before is not None:
        (folder / ".gitignore").write_text(before)
    code, out, _ = command("init")
    assert code == 0
    assert (folder / ".gitignore").read_text() == after
    assert (".gitignore" in out) == (before != after)


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_is_overwritten_and_then_nothing_is_written(
    folder: Path, command: Callable[..., tuple[int, str, str]], name: str
) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[tool.peft_regress]\n")
    code, out, err = command("init")
    assert (code, out) == (2, "")
    assert name in err
    assert [file for file in folder.rglob("*") if file.is_file()] == [path]
    assert path.read_text() == "[tool.peft_regress]\n"


def test_the_workflow_runs_the_suite(
    folder: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    command("init")
    job = yaml.safe_load((folder / ".github/workflows/gate.yml").read_text())["jobs"]["gate"]
    scripts = [step["run"] for step in job["steps"] if "run" in step]
    assert any(script.startswith("python -m pytest gates ") for script in scripts)
    commands = [shlex.split(script)[1:] for script in scripts if script.startswith("peft-regress")]
    assert [words[0] for words in commands] == ["compare", "report"]
    page = check_command(commands[1])["page"]
    kept = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert str(page).startswith(f"{kept['with']['path']}/")
