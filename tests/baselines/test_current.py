"""`current.txt` says what judges each case now; it is what the entries say, or an error."""

import difflib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import (
    FULL,
    LORA,
    VALUES,
    accept,
    make_document,
    make_record,
    make_run,
    read_runs,
    repeating,
    trained,
    write_run,
)

from peft_regress.baselines import storage
from peft_regress.baselines.accept import renew_current
from peft_regress.baselines.current import read_contents
from peft_regress.baselines.history import read_entries
from peft_regress.baselines.named_runs import load_references
from peft_regress.baselines.references import read_references
from peft_regress.baselines.run_adapters import adapters_of_run, keep_adapter
from peft_regress.baselines.storage import baseline_files, newest_file
from peft_regress.budgets import Budget
from peft_regress.errors import InputError
from peft_regress.metrics import Metric
from peft_regress.runs.run_file import write_run_file
from peft_regress.runs.schema import Failure

REPOSITORY = Path(__file__).parents[2]
LINUX = "Linux-CPython-3.11-64bit"
HEAD = "shift/head/resnet18"


def store(root, *records, **how):
    path = write_run(root.parent / "run.json", make_run(*records))
    return accept(path, root=root, **{"reason": "r", "date": "2026-01-01T00:00:00+00:00", **how})


def lines_of(root, folder=LINUX):
    """Return the lines about cases."""
    text = (root / folder / "current.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


@pytest.fixture
def root(tmp_path):
    """A storage of two cases."""
    root = tmp_path / "baselines"
    store(root, make_record(LORA), make_record(FULL))
    return root


def test_it_has_what_judges_a_line_each(tmp_path):
    own = {"own": Metric(value=0.1 + 0.2, unit="ratio", direction="lower", kind="score")}
    shown = Metric(value=1, unit="ratio", direction="none", kind="info")
    names = ("trainable_params", "peak_bytes", "first_losses", "accuracy", "step_seconds")
    lora = make_record(
        LORA,
        {**own, "shown": shown, **{name: VALUES[name] for name in reversed(names)}},
        invariants={"merge_equals_unmerged": False, "identity_at_init": True, "unmerge": None},
        budget=Budget(peak=2**27, score=0.5),
    )
    full = make_record(FULL, status="error", error=Failure(type="KeyError", message="a\nb"))
    store(tmp_path / "b", lora, full)
    assert lines_of(tmp_path / "b") == [
        f"{FULL} judged_by 0001_peft-0.18.1",
        rf"{FULL} status error (KeyError: a\nb)",
        f"{LORA} judged_by 0001_peft-0.18.1",
        f"{LORA} trainable_params 150000 count",
        f"{LORA} peak_bytes 120000000 byte",
        f"{LORA} accuracy 0.91 fraction",
        f"{LORA} own 0.30000000000000004 ratio",
        f"{LORA} invariant merge_equals_unmerged false",
        f"{LORA} budget peak 134217728",
        f"{LORA} budget score 0.5",
    ]


def test_an_accepted_change_is_old_and_new_number(root):
    before = lines_of(root)
    store(root, make_record(LORA, {**VALUES, "aten_ops": 950}), make_record(FULL), history=True)
    assert lines_of(root) == before, "history judges nothing"
    store(root, make_record(LORA, {**VALUES, "aten_ops": 950}))
    changed = [line for line in difflib.ndiff(before, lines_of(root)) if line[0] in "+-"]
    drift = "drift_since 0001_peft-0.18.1 peak_bytes peak_bytes_b32 first_losses accuracy loss"
    assert changed == [
        f"- {LORA} judged_by 0001_peft-0.18.1",
        f"+ {LORA} judged_by 0003_peft-0.18.1",
        f"+ {LORA} {drift}",
        f"- {LORA} aten_ops 900 count",
        f"+ {LORA} aten_ops 950 count",
    ]
    store(root, make_record(LORA), retire=[FULL])
    assert not [line for line in lines_of(root) if line.startswith(FULL)]


def test_each_machine_has_the_cases_that_its_entries_judge(root):
    windows = make_document(make_run())
    windows["machine_info"]["system"] = "Windows"
    write_run_file(root.parent / "windows.json", make_run(), windows)
    date = "2026-01-01T00:00:00+00:00"
    accept(root.parent / "windows.json", root=root, reason="r", date=date)
    assert {line.split()[0] for line in lines_of(root)} == {FULL}
    assert {line.split()[0] for line in lines_of(root, LINUX.replace("Linux", "Windows"))} == {LORA}
    load_references(root, None)


def edited(path):
    path.write_text(path.read_text().replace(" aten_ops 900", " aten_ops 899"))


@pytest.mark.parametrize("change", [edited, Path.unlink, lambda path: path.write_bytes(b"\xff")])
@pytest.mark.parametrize("mend", ["renew", "accept"])
def test_one_that_is_not_what_the_entries_say_is_refused_until_it_is_written_anew(
    root, change, mend
):
    path = root / LINUX / "current.txt"
    before = path.read_bytes()
    change(path)
    for use in (
        lambda: load_references(root, None),
        lambda: load_references(root.parent, str(root)),
        lambda: read_entries(root, []),
    ):
        with pytest.raises(InputError, match=r"current.txt: .*accept --renew --baselines ") as told:
            use()
        assert str(told.value).isprintable()
    if mend == "renew":
        assert renew_current(root) == [path]
        assert renew_current(root) == []
    else:
        store(root, make_record(LORA), make_record(FULL))
    assert path.read_bytes() == before
    load_references(root, None)


def test_while_an_accept_has_not_ended_it_may_be_behind(root):
    """The name of the newest entry comes last."""
    kept = {path: path.read_bytes() for path in (root / LINUX / "current.txt", newest_file(root))}
    store(root, make_record(LORA, {"aten_ops": 1}))
    for path, content in kept.items():
        path.write_bytes(content)
    assert load_references(root, None)[LORA].run_name.startswith("0002_")


@pytest.mark.parametrize("storage", ["baselines", "examples/baselines"])
def test_those_of_this_repository_are_current(storage):
    contents = read_contents(REPOSITORY / storage)
    assert len(lines_of(REPOSITORY / storage)) > 10 * len(contents.judges)


def kept_run(path, run, size):
    """Write a run that kept an adapter of HEAD."""
    write_run(path, run)
    keep_adapter(
        adapters_of_run(path),
        run.cases[HEAD].case,
        definition=run.cases[HEAD].definition,
        output=[[0.5]],
        save=lambda folder: (folder / "a.safetensors").write_bytes(b"x" * size) and None,
    )
    return path


_SHELL = rf"""set -e
peft-regress() {{ "{sys.executable}" -m peft_regress "$@"; }}
git() {{ command git -c user.name=n -c user.email=e@x -c init.defaultBranch=main "$@"; }}"""


def commands_of_the_docs():
    page = (REPOSITORY / "docs" / "usage.md").read_text()
    section = page.split("\n## Two branches accepted\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"^\$ (.*)$", section.split("```console")[1], re.MULTILINE))


def test_the_commands_of_the_docs_join_two_branches_that_accepted(tmp_path):
    """One side confirms a case of before, and of the other a cost changed; each brings a case."""
    folder = tmp_path / "repository"
    root = folder / "baselines"
    folder.mkdir()

    def run(script):
        done = subprocess.run(
            ["bash", "-c", f"{_SHELL}\n{script}"],
            cwd=folder,
            capture_output=True,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    store(root, trained(LORA), trained(FULL))
    run("git init -q; echo '**/baselines/.lock' > .gitignore; git add .; git commit -qm first")
    run("git switch -qc theirs")
    theirs = make_run(
        repeating(trained(LORA)),
        trained(FULL, {**VALUES, "peak_bytes": 100}),
        trained(HEAD),
        environment={"peft": "0.22.0", "python": "3.11.7", "torch": "2.13.0"},
    )
    date = "2026-01-02T00:00:00+00:00"
    accept(kept_run(tmp_path / "theirs.json", theirs, 1), root=root, reason="r", date=date)
    run("git add .; git commit -qm theirs; git switch -q main")
    store(root, trained("shift/lora-r8/resnet18"))
    run("git add .; git commit -qm mine")
    run(commands_of_the_docs())
    assert run("git status --porcelain") == ""
    assert run("git log --merges --format=%s").startswith("Merge branch 'theirs'")
    assert [path.stem[:4] for path in baseline_files(root)] == ["0001", "0002", "0003"]
    references = read_references(root)
    by = {name: one.run_name[:4] for name, one in references.items()}
    assert by == {LORA: "0001", "shift/lora-r8/resnet18": "0002", FULL: "0003", HEAD: "0003"}
    assert references[LORA].confirmed.environment["peft"] == "0.22.0"
    (adapter,) = (root / "adapters").glob("*/a.safetensors")
    newest = storage.acceptance_of(read_runs(root)[-1])
    assert newest.adapters == {HEAD: f"sha256:{adapter.parent.name}"}


def test_an_entry_that_confirms_is_accepted_once_and_from_its_storage_alone(root):
    other = root.with_name("other")
    store(other, trained(LORA))
    entry = store(other, repeating(trained(LORA)), reason="again")
    how = {"root": root, "reason": "r", "date": "2026-01-01T00:00:00+00:00"}
    alone = Path(shutil.copy(entry, root.parent / "copied.json"))
    with pytest.raises(InputError, match=r"copied.json: .* the entry 0001_.*is not there"):
        accept(alone, **how)
    with pytest.raises(InputError, match=r"Measure it with --regress-full"):
        accept(entry, **how)
    store(root, trained(LORA))
    assert accept(entry, **how) == accept(entry, **how) == baseline_files(root)[-1]
    assert len(baseline_files(root)) == 3
