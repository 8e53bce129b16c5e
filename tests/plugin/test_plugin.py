"""The pytest plugin, run on a suite whose architecture is tiny and whose measuring is real."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from builders import accept
from measured_once import FOLDER
from projects import Suite
from stub_measuring import SUITE

# Imported before the first inner run: pytester forgets modules that a run was first to import,
# and torch cannot be imported twice.
from peft_regress.cli.main import main
from peft_regress.runs.run_file import read_run_file, write_run_file
from peft_regress.runs.schema import Ledger

CONFTEST = """
import sys
sys.path.insert(0, {tests!r})  # for the workers of pytest-xdist
import measured_once
from peft_regress import registry
from tiny_architecture import TinyArchitecture as Architecture

measured_once.install({extra!r})
for kind, kept in (("architecture", ()), ("method", {methods!r}), ("task", {tasks!r})):
    for name in registry.names(kind):
        if name not in kept:
            registry.remove(kind, name)
{extra}
for name in {architectures!r}:
    registry.add("architecture", Architecture(name=name, matrices=("default",)))
"""


NETWORK = """
class Architecture(Architecture):
    def build(self, *, num_classes, seed):
        from tiny_network import TinyNetwork, tiny_network

        class Network(TinyNetwork):
            def forward(self, images):
                {statement}
                return super().forward(images)

        model = tiny_network(num_classes=num_classes, seed=seed)
        model.__class__ = Network
        return model
"""

TWICE = NETWORK.format(statement="self.conv(images)")
TRACED = NETWORK.format(
    statement="__import__('torch')._logging.trace_structured('x', payload_fn=str)"
)
POISON = NETWORK.format(statement="images = images * float('nan')")


WORKERS = pytest.param(("-n", "2"), marks=pytest.mark.nightly)
"""Two workers of pytest-xdist take seconds to start."""


class Project(Suite):
    """A folder with a suite, a conftest and sources."""

    def __init__(self, pytester, sources):
        super().__init__(pytester)
        shutil.copytree(sources / "sources", self.folder / "baselines" / "sources")
        self.write({"pytest.ini": "[pytest]\n", "test_suite.py": SUITE})
        self.configure()

    def configure(self, *, methods=("head",), tasks=("shift",), architectures=("tiny",), extra=""):
        tests = str(Path(__file__).parents[1])
        names = {"methods": methods, "tasks": tasks, "architectures": architectures}
        self.write({"conftest.py": CONFTEST.format(tests=tests, extra=extra, **names)})

    def accept(self, *options):
        storage = self.folder / "baselines"
        before = set(storage.glob("*/*.json"))
        run = str(self.folder / "run.json")
        self.cli("accept", run, "--reason", "a test", "--baselines", str(storage), *options)
        (new,) = set(storage.glob("*/*.json")) - before
        return new

    def cli(self, *arguments):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments])
        return exit_.value.code

    def compare(self, name):
        """Return the exit code of `compare` of the accepted run and another one."""
        return self.cli("compare", str(self.folder / "run.json"), str(self.folder / name))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of what inner runs measured (see `measured_once`)."""
    return tmp_path_factory.mktemp("measured")


@pytest.fixture
def project(stubbed, tiny_sources, measured, monkeypatch):
    monkeypatch.setenv(FOLDER, str(measured))
    return Project(stubbed, tiny_sources)


@pytest.fixture(scope="module")
def accepted_files(tmp_path_factory):
    """The folder for what a run left that was accepted; the first test that needs it fills it."""
    return tmp_path_factory.mktemp("accepted")


@pytest.fixture
def accepted(project, accepted_files):
    """A project whose two cases, head and lora, have a baseline."""
    project.configure(methods=("head", "lora"))
    if not any(accepted_files.iterdir()):
        done = project.pytest("--regress-save=run.json", "-k", "head or lora-r4")
        assert done.code == 1, done.out
        project.accept()
        for name in ("run.json", "run.adapters", "baselines"):
            copy = shutil.copytree if (project.folder / name).is_dir() else shutil.copy
            copy(project.folder / name, accepted_files / name)
        return project
    shutil.copytree(accepted_files, project.folder, dirs_exist_ok=True)
    return project


SELECT = ("-k", "head or lora-r4")


def test_a_case_without_a_baseline_fails_with_its_numbers_and_the_command_to_type(project):
    done = project.pytest("--regress-save=run.json")
    assert done.code == 1
    shown = done.out.partition("= peft_regress =")[2]
    assert re.search(r"^shift/head/tiny +130 .*new in 1 case: ", shown, re.MULTILINE | re.DOTALL)
    assert "peft-regress accept run.json --reason" in shown


def test_below_a_failing_case_stands_no_trace_of_torch(project):
    project.configure(extra=TRACED)
    done = project.pytest()
    assert done.code == 1
    assert "torch.__trace" not in done.out


FILES = ("--regress-save=next.json", "--regress-summary=summary.md", "--junitxml=junit.xml")


def test_a_run_against_its_own_baseline_is_clean_in_every_file(accepted):
    done = accepted.pytest(*SELECT, *FILES)
    assert done.code == 0, done.out
    outcome = "no regression in what was selected (2 unchanged)"
    text = done.out.partition("= peft_regress =")[2]
    assert re.search(rf"\n{re.escape(outcome)}\n=+ 2 passed", text), text
    assert "accuracy" not in text
    assert f"\n## peft\\_regress: {outcome}\n" in (accepted.folder / "summary.md").read_text()
    cases = accepted.saved("next.json").cases
    properties = properties_in(accepted.folder / "junit.xml")
    for found, record in zip(properties, cases.values(), strict=True):
        expected = {name: str(metric.value) for name, metric in record.metrics.items()}
        expected.pop("relative_step_seconds", None)
        assert found == expected
    # What head ships was stored, and must load in the next run. Lora ran at rank 4, and the lowest
    # of its ranks is 1.
    assert [path.name for path in (accepted.folder / "run.adapters").iterdir()] == [
        "shift--head--tiny"
    ]
    stored = json.loads((stored_folder(accepted) / "stored.json").read_text())
    assert stored["case"] == "shift/head/tiny"
    assert cases["shift/head/tiny"].invariants["stored_adapter_loads"] is True


def properties_in(junit):
    """Return the properties of each case in a JUnit file."""
    cases = ET.parse(junit).iter("testcase")
    return [{p.get("name"): p.get("value") for p in case.iter("property")} for case in cases]


@pytest.mark.parametrize("arguments", [(), WORKERS])
def test_a_convolution_that_runs_twice_fails_and_names_metric_change_and_module(
    accepted, monkeypatch, arguments
):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(accepted.folder.parent))
    accepted.configure(methods=("head", "lora"), extra=TWICE)
    done = accepted.pytest(*SELECT, *arguments, *FILES)
    assert done.code == 1
    assert "shift/head/tiny: regressed" in done.out
    assert "forward_flops: " in done.out
    assert "conv aten.convolution: +" in done.out
    assert "environment: as in the baseline" in done.out
    assert "::error" not in done.out
    assert all("forward_flops" in one for one in properties_in(accepted.folder / "junit.xml"))
    assert accepted.compare("next.json") == 1
    summary = (accepted.folder / "summary.md").read_text()
    assert "REGRESSED (2 regressed)" in summary
    assert "\npytest . " in summary
    assert "peft-regress compare baselines next.json\n" in summary


def test_the_run_file_holds_every_metric_and_is_a_pytest_benchmark_file(accepted):
    run = accepted.saved()
    record = run.cases["shift/lora-r4/tiny"]
    assert record.status == "ok"
    assert {"forward_flops", "forward_flops_b32", "first_losses", "step_seconds"} <= set(
        record.metrics
    )
    assert [len(s) for s in record.metrics["first_losses"].samples] == [4, 4, 4]
    document = json.loads((accepted.folder / "run.json").read_text())
    (entry,) = [e for e in document["benchmarks"] if "lora-r4" in e["name"]]
    assert entry["extra_info"]["peft_regress"]["case_id"] == "shift/lora-r4/tiny"
    assert entry["stats"]["rounds"] == 3
    assert document["machine_info"]["node"] == ""
    invariants = dict(record.invariants)
    assert invariants.pop("stored_adapter_loads") is None
    assert invariants.pop("projections_renewed") is None
    assert invariants
    assert all(value is True for value in invariants.values()), invariants


def stored_folder(project):
    """Return the folder of the one adapter in the storage of a project."""
    (folder,) = (project.folder / "baselines" / "adapters").iterdir()
    return folder


def test_a_stored_adapter_that_gives_another_output_fails(accepted):
    manifest = accepted.folder / "run.adapters" / "shift--head--tiny" / "stored.json"
    stored = json.loads(manifest.read_text())
    stored["output"][0][0] += 1.0
    manifest.write_text(json.dumps(stored))
    accept(
        accepted.folder / "run.json",
        root=accepted.folder / "baselines",
        reason="as another release stored it",
        date="2026-01-01T00:00:00+00:00",
    )
    done = accepted.pytest(*SELECT)
    assert done.code == 1
    assert re.search("invariant stored_adapter_loads: absent -> false", done.out), done.out


def test_an_altered_stored_adapter_stops_its_case_and_an_absent_one_the_run(accepted):
    """Their removal once turned a failing check into a check that did not apply."""
    path = stored_folder(accepted) / "model.safetensors"
    path.write_bytes(path.read_bytes() + b" ")
    altered = accepted.pytest(*SELECT)
    assert altered.code == 1
    assert f"{path}: expected sha256" in altered.out
    shutil.rmtree(accepted.folder / "baselines" / "adapters")
    absent = accepted.pytest(*SELECT)
    assert absent.code == pytest.ExitCode.USAGE_ERROR
    assert "shift/head/tiny: its adapter" in absent.err
    assert "Traceback" not in altered.out + absent.out + absent.err


def test_a_run_without_a_file_or_to_a_device_keeps_nothing(accepted):
    def found():
        return {path.name for path in accepted.folder.iterdir()} - {".benchmarks", "__pycache__"}

    before = found()
    accepted.pytest(*SELECT)
    accepted.pytest(*SELECT, "--regress-save=/dev/null")
    assert found() == before
    assert not Path("/dev/null.adapters").exists()


def test_a_narrowed_run_is_partial_and_no_failure(accepted):
    done = accepted.pytest("-k", "head", "--regress-save=part.json", "--benchmark-disable")
    assert done.code == 0, done.out
    run = accepted.saved("part.json")
    assert not run.selection.complete
    assert run.selection.narrowed_by == ["-k head"]
    assert "shift/lora-r4/tiny" in run.selection.not_selected
    assert accepted.compare("part.json") == 3
    # With timing off all seeds run, and no time is claimed.
    metrics = run.cases["shift/head/tiny"].metrics
    assert len(metrics["accuracy"].samples) == 3
    assert "step_seconds" not in metrics


def test_a_marker_expression_selects_exactly_one_case_and_an_empty_selection_is_no_pass(accepted):
    done = accepted.pytest("-m", "case(method='lora', rank=4, architecture='tiny')")
    assert done.code == 0, done.out
    assert "1 passed" in done.out
    done = accepted.pytest("-k", "nothing_has_this_name")
    assert done.code == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_renamed_case_is_missing_and_new_until_the_old_id_is_retired(project):
    project.pytest("--regress-save=run.json")
    project.accept()
    project.configure(architectures=("tiny2",))
    done = project.pytest("--regress-save=run.json")
    assert done.code == 1
    assert "missing in 1 case" in done.out
    assert "shift/head/tiny\n" in done.out
    assert "new in 1 case: no accepted baseline has it" in done.out
    assert "shift/head/tiny2" in done.out
    assert "add `--retire ID`" in " ".join(done.out.split())
    project.accept()
    assert project.pytest().code == 1
    project.accept("--retire", "shift/*/tiny")
    assert project.pytest("--regress-save=run.json").code == 0
    assert project.saved().selection.complete
    # What was retired and runs again is new: nothing judges it.
    project.configure(architectures=("tiny", "tiny2"))
    done = project.pytest()
    assert done.code == 1
    assert "1 new, 1 unchanged" in done.out


HOOK = "def pytest_collection_modifyitems(items):\n    del items[0]\n"
FORGETS = SUITE.replace("case_params()", "[p for p in case_params() if 'full' not in p.id]")
# Of three ways to lose a case the last one: its test runs, and skips itself.
SKIPS = SUITE.replace("    peft", "    'full' in case.id and pytest.skip('not today')\n    peft")


@pytest.mark.parametrize(
    ("suite", "hook", "narrowing"),
    [
        *((SUITE, HOOK, words) for words in ((), ("-k", "tiny"), ("test_suite.py",))),
        *((FORGETS, "", words) for words in ((), ("-k", "tiny"), ("--regress-shard=1/1",))),
        (SKIPS, "", ()),
        pytest.param(SUITE, HOOK, ("-n", "2"), marks=pytest.mark.nightly),
    ],
)
def test_a_case_that_is_not_run_is_a_hole_that_fails_the_run(project, suite, hook, narrowing):
    project.configure(methods=("full", "head"), extra=hook)
    project.write({"test_suite.py": suite})
    done = project.pytest("--regress-save=run.json", *narrowing)
    assert done.code == 1
    assert "shift/full/tiny" in done.out.partition("missing in 1 case")[2]
    assert not project.saved().selection.complete


@pytest.mark.slow
def test_xdist_gives_the_same_verdicts_and_the_same_run_file_but_for_times(accepted):
    done = accepted.pytest(*SELECT, "-n", "2", "--regress-save=parallel.json")
    assert done.code == 0, done.out
    assert "no regression in what was selected (2 unchanged)" in done.out
    assert "times: not measured" in done.out
    serial, parallel = accepted.saved(), accepted.saved("parallel.json")
    assert serial.cases.keys() == parallel.cases.keys()
    for name, record in serial.cases.items():
        other = parallel.cases[name]
        assert other.ledger == record.ledger
        # Between the two runs the first was accepted, and with it what head ships.
        invariants = {**record.invariants, "stored_adapter_loads": None}
        assert {**other.invariants, "stored_adapter_loads": None} == invariants
        timed = {"step_seconds", "relative_step_seconds"}
        assert {k: v for k, v in record.metrics.items() if k not in timed} == other.metrics


@pytest.mark.slow
def test_an_unknown_baseline_under_xdist_fails_every_case_with_the_reason(accepted):
    done = accepted.pytest(
        *SELECT, "-n", "2", "--regress-baseline=0099", "--regress-save=run2.json"
    )
    assert done.code == 1
    assert "2 failed" in done.out
    assert "0001_peft-" in done.out
    assert "Traceback" not in done.out
    assert "INTERNALERROR" not in done.out


def test_shards_keep_an_architecture_together_and_their_union_compares_like_one_run(project):
    project.configure(tasks=("shift", "unseen"), architectures=("tiny", "tiny2"))
    project.pytest("--regress-save=run.json")
    (project.folder / "shards").mkdir()
    architectures = []
    for index in (1, 2):
        project.pytest(f"--regress-shard={index}/2", f"--regress-save=shards/{index}.json")
        cases = project.saved(f"shards/{index}.json").cases
        architectures.append({record.case.architecture for record in cases.values()})
    assert sorted(map(sorted, architectures)) == [["tiny"], ["tiny2"]]
    assert project.compare("shards") == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--regress-shard=3/2", "I/N is wanted, for instance 1/4"),
        ("--regress-shard=1/2", "at most 1 shards"),
        ("--regress-baseline=0099", "0001_peft-"),
        ("--regress-matrix=defaultt", "unknown matrix 'defaultt'. Did you mean 'default'?"),
        ("-q", "measured by two tests"),
        ("-v", "0001_peft-"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_measured(accepted, option, message):
    if option == "-q":
        accepted.write({"test_again.py": SUITE})
    if option == "-v":
        (entry,) = (accepted.folder / "baselines").glob("*/0001_*.json")
        entry.write_text("<<<<<<< ours\n" + entry.read_text())
    done = accepted.pytest(option)
    assert done.code == pytest.ExitCode.USAGE_ERROR
    assert message in done.err
    assert "Traceback" not in done.out + done.err


def accept_with_other_bytes(project, *, factor):
    """Store the accepted run once more, its peak moved, and without the ledger that explains it."""
    (first,) = (project.folder / "baselines").glob("*/0001_*.json")
    entry = read_run_file(first)
    cases = {}
    for name, record in entry.run.cases.items():
        peak = record.metrics["peak_bytes"]
        peak = msgspec.structs.replace(peak, value=round(peak.value * factor))
        metrics = {**record.metrics, "peak_bytes": peak}
        cases[name] = msgspec.structs.replace(record, metrics=metrics, ledger=Ledger())
    run = msgspec.structs.replace(entry.run, cases=cases, accepted=None)
    moved = project.folder / "moved.json"
    write_run_file(moved, run, entry.document)
    accept(
        moved, root=project.folder / "baselines", reason="moved", date="2901-01-01T00:00:00+00:00"
    )


def test_small_moves_that_add_up_fail_by_default_and_not_against_a_named_entry(accepted):
    accept_with_other_bytes(accepted, factor=1 - 0.0018)
    accept_with_other_bytes(accepted, factor=1 - 0.0009)
    done = accepted.pytest(*SELECT)
    assert done.code == 1
    assert "peak_bytes (drift since 0001_peft-" not in done.out
    assert "peak_bytes (drift since 0002_peft-" in done.out
    assert "+0.18" in done.out
    assert "baseline: 0003_peft-" in done.out
    assert "--case shift/head/tiny --metric peak_bytes" in done.out
    assert accepted.pytest(*SELECT, "--regress-baseline=0003").code == 0
    assert accepted.pytest(*SELECT, "--regress-baseline=run.json").code == 0
    # Another storage than that of the settings judges as that one would.
    (accepted.folder / "baselines").rename(accepted.folder / "elsewhere")
    done = accepted.pytest(*SELECT, "--regress-baseline=elsewhere")
    assert done.code == 1
    assert "peak_bytes (drift since 0002_peft-" in done.out
    assert "--metric peak_bytes --baselines elsewhere" in done.out


def test_a_missing_or_an_altered_source_fails_with_the_command(project):
    path = project.folder / "baselines" / "sources" / "tiny.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = project.pytest()
    assert done.code == 1
    assert "expected sha256" in done.out
    (path.parent / "manifest").unlink()
    done = project.pytest()
    assert done.code == 1
    assert "peft-regress sources" in done.out
    assert "Traceback" not in done.out


METHOD = """
from peft_regress.catalogue.methods import LORA

class Odd(type(LORA)):
    def hyperparameters(self):
        return {{}}
    def {where}(self, *args, **kwargs):
        raise {error}("{message}")
registry.add("method", Odd(**{{**vars(LORA), "name": "{name}", "ranks": (4,)}}))
"""


@pytest.mark.parametrize(
    ("where", "error", "status"),
    [
        ("adapt", "ValueError", "unsupported"),
        ("adapt", "NotImplementedError", "unsupported"),
        ("adapt", "RuntimeError", "error"),
        ("make_optimizer", "ValueError", "error"),
    ],
)
def test_what_a_library_cannot_do_is_recorded_and_compared(project, where, error, status):
    project.configure(
        methods=("odd",),
        extra=METHOD.format(name="odd", where=where, error=error, message="no such thing"),
    )
    done = project.pytest("--regress-save=run.json")
    assert f"{status}: {error}: no such thing" in done.out
    record = project.saved().cases["shift/odd-r4/tiny"]
    assert record.status == status
    assert record.error.type == error
    assert record.metrics == {}
    project.accept("--allow-errors", "shift/odd-*")
    done = project.pytest("-W", "error")
    assert done.code == 0, done.out
    assert ("1 known defect" if status == "error" else "1 unchanged") in done.out


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize("error", ["RuntimeError", "InputError"])
def test_a_case_whose_definition_fails_is_in_error(accepted, is_known, error):
    if not is_known:
        (accepted.folder / "baselines").rename(accepted.folder / "old")
        shutil.copytree(
            accepted.folder / "old" / "sources", accepted.folder / "baselines" / "sources"
        )
    broken = METHOD.format(name="lora", where="hyperparameters", error=error, message="boom")
    extra = f"from peft_regress.errors import InputError{broken}"
    accepted.configure(methods=("head",), extra=extra)
    done = accepted.pytest(*SELECT, "--regress-save=broken.json")
    assert done.code == 1
    assert "missing" not in done.out
    record = accepted.saved("broken.json").cases["shift/lora-r4/tiny"]
    assert record.status == "error"
    assert record.definition.startswith("sha256:" if is_known else "undefined")


def test_a_loss_that_is_not_finite_is_an_error_never_a_pass(accepted):
    accepted.configure(methods=("head", "lora"), extra=POISON)
    done = accepted.pytest("-k", "head", "--regress-save=nan.json")
    assert done.code == 1
    assert accepted.saved("nan.json").cases["shift/head/tiny"].error.type == "NonFiniteLossError"


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--regress-save=file/run.json", "file/run.json: cannot be written"),
        ("--regress-save=/dev/full", "/dev/full: cannot be written (No space left on device)"),
        ("--regress-summary=/dev/full", "/dev/full: cannot be written (No space left on device)"),
    ],
)
def test_a_file_that_cannot_be_written_fails_the_run_with_one_message(accepted, option, problem):
    (accepted.folder / "file").write_text("")
    done = accepted.pytest("-k", "head", option)
    assert done.code == 1
    assert " ".join(done.out.split()).count(problem) == 1
    assert "Traceback" not in done.out + done.err


def test_the_summary_of_a_step_on_github_is_added_to(accepted, monkeypatch):
    path = accepted.folder / "step.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    path.write_text("what the step wrote before\n")
    accepted.pytest(*SELECT, "--regress-summary=step.md")
    before, _, mine = path.read_text().partition("\n")
    assert before == "what the step wrote before"
    assert mine.startswith("<!-- peft-regress -->\n\n## peft\\_regress: ")
    # Another file is replaced.
    for _ in range(2):
        accepted.pytest(*SELECT, "--regress-summary=other.md")
    assert (accepted.folder / "other.md").read_text() == mine


PLAIN = """
import pytest
from peft_regress import Case
NAMES = dict(task='shift', method='head', architecture='tiny', rank=None)

{marker}
def test_one(peft_regress):
    peft_regress(Case(**NAMES))
"""


def test_a_test_without_parametrize_needs_the_marker_of_its_case(project):
    project.write({"test_suite.py": PLAIN.format(marker="")})
    done = project.pytest()
    assert done.code == 1
    assert "case_params()" in done.out
    marker = "@pytest.mark.case(**NAMES)"
    project.write({"test_suite.py": PLAIN.format(marker=marker)})
    project.pytest("--regress-save=run.json")
    assert project.saved().cases.keys() == {"shift/head/tiny"}


def test_a_suite_without_cases_is_left_alone_unless_an_option_of_the_gate_is_given(
    project, monkeypatch
):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    # Another suite may have a marker of that name.
    text = "import pytest\n@pytest.mark.case('TC-1')\ndef test_plain():\n    pass\n"
    project.write({"test_suite.py": text})
    done = project.pytest()
    assert done.code == 0
    assert "peft_regress" not in done.out.replace(str(project.folder), "").split("collected")[1]
    assert project.pytester.runpytest_subprocess("-p", "no:benchmark").ret == 0
    done = project.pytest("--regress-save=run.json")
    assert done.code == 1
    assert "no test with a case was collected" in done.out
    project.write({"test_suite.py": "def test_plain(): assert False\n"})
    assert "::error" not in project.pytest().out


def test_collecting_imports_no_torch(project):
    (project.folder / "conftest.py").write_text(
        "import sys\n"
        "def pytest_sessionfinish():\n"
        "    assert 'torch' not in sys.modules and 'peft' not in sys.modules\n"
    )
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "102 tests collected" in done.stdout


OTHER_MATRIX = """
import dataclasses
from peft_regress.catalogue.methods.selective import HEAD
registry.add("method", dataclasses.replace(HEAD, name="head", matrices=("default",)))
registry.add("method", dataclasses.replace(HEAD, name="bn_head", matrices=("other",)))
registry.remove("task", "shift")
from peft_regress.catalogue.tasks.digits import SHIFT
registry.add("task", dataclasses.replace(SHIFT, matrices=("default", "other")))
registry.add("architecture", Architecture(name="tiny", matrices=("default", "other")))
"""


@pytest.mark.parametrize("workers", [(), WORKERS], ids=["serial", "xdist"])
def test_cases_of_another_matrix_are_left_out_and_said_to_be(project, workers):
    project.configure(methods=(), architectures=(), extra=OTHER_MATRIX)
    both = SUITE.replace("case_params()", "[*case_params(), *case_params(matrix='other')]")
    project.write({"test_suite.py": both})
    done = project.pytest("--regress-save=run.json", *workers)
    assert "1 case of the other matrix not measured: use --regress-matrix other" in done.out
    saved = project.saved()
    assert list(saved.cases) == ["shift/head/tiny"]
    assert saved.selection.complete


@pytest.mark.parametrize("arguments", [(), WORKERS])
def test_on_github_no_message_of_a_library_is_a_command(accepted, monkeypatch, arguments):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    said = f"raise RuntimeError('{'x ' * 50}::error::boom ##[error]bam {'::warning::x ' * 9}')"
    accepted.configure(methods=("head", "lora"), extra=NETWORK.format(statement=said))
    done = accepted.pytest(*SELECT, *arguments)
    assert done.code == 1
    assert "## [error]bam" in done.out
    assert not [
        line for line in done.out.splitlines() if line.lstrip().startswith("::") or "##[" in line
    ]
