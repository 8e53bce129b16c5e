"""`peft-regress accept`: what it says, and what is stored whatever becomes of its message."""

import subprocess
import sys

import msgspec
import pytest
from builders import (
    FULL,
    LEDGER,
    LORA,
    keep_weights,
    make_record,
    make_run,
    read_runs,
    references_with_drift,
    repeating,
    split_by,
    trained,
    write_entry,
    write_run,
)

from peft_regress.baselines.storage import baseline_files
from peft_regress.runs import ledger
from peft_regress.runs.ledger import rows_of
from peft_regress.runs.schema import Failure, ModuleCosts

HEAD = "shift/head/resnet18"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "b"


@pytest.fixture
def accepts(command, tmp_path, root):
    """Call `accept` on a file of the folder; return (exit code, stdout, stderr)."""

    def call(name, *more, reason="why"):
        path = str(tmp_path / name)
        return command("accept", path, "--reason", reason, "--baselines", str(root), *more)

    return call


def write_kept(path, *names, size=1):
    """Write a run that kept what its cases ship."""
    records = [make_record(name, invariants={"saved_adapter_reloads": True}) for name in names]
    write_run(path, make_run(*records))
    for record in records:
        keep_weights(path, record, b"x" * size)
    return path


def test_it_says_what_the_entry_judges_and_what_is_retired(accepts, tmp_path, root):
    entry = write_entry(root, 1, make_record(LORA), make_record(FULL))
    write_run(tmp_path / "run.json")
    for pattern in ("no/such/case", LORA):
        code, _, err = accepts("run.json", "--retire", FULL, "--retire", pattern)
        assert (code, pattern in err) == (2, True)
    assert baseline_files(root) == [entry]
    assert "\nit judges nothing: its role is history\n" in accepts("run.json", "--history")[1]
    code, out, _ = accepts("run.json")
    assert (code, "\nit judges 1 of 2 expected cases from now on\n" in out) == (0, True)
    code, out, _ = accepts("run.json", "--retire", "*/full/*", reason="gone")
    assert (code, "\nit judges 1 of 1 expected case from now on\n" in out) == (0, True)
    assert out.endswith(f"1 retired: {FULL}\n")
    assert references_with_drift(read_runs(root)).keys() == {LORA}


def test_what_the_cases_of_a_baseline_ship_is_stored_and_named(accepts, tmp_path, root):
    write_kept(tmp_path / "run.json", HEAD)
    weights = tmp_path / "run.adapters" / "shift--head--resnet18" / "model.safetensors"
    weights.write_bytes(b"y")
    code, _, err = accepts("run.json")
    assert (code, "model.safetensors: expected sha256" in err) == (2, True)
    assert not baseline_files(root)
    weights.write_bytes(b"x")
    code, out, _ = accepts("run.json", "--history")
    assert (code, "adapters" in out, (root / "adapters").exists()) == (0, False, False)
    code, out, _ = accepts("run.json")
    assert (code, out.endswith(f"\nadapters stored: {HEAD}\n")) == (0, True)
    (stored,) = (root / "adapters").glob("*/model.safetensors")
    assert stored.read_bytes() == b"x"
    other = write_run(tmp_path / "other.json")
    out = accepts("other.json")[1]
    assert out.endswith(f"no adapters stored: there are none beside {other}\n")


def test_what_is_false_is_said_before_it_is_stored(accepts, tmp_path, root):
    notes = {"merge_equals_unmerged": "head: off by 0.3"}
    record = make_record(invariants={"merge_equals_unmerged": False}, invariant_notes=notes)
    write_run(tmp_path / "run.json", make_run(record, make_record(FULL)))
    code, out, err = accepts("run.json")
    assert code == 0
    assert err == f"{LORA}: invariant merge_equals_unmerged is false (head: off by 0.3)\n"
    assert "known defects: 1 invariant false" in out


def test_a_case_in_error_is_accepted_by_name_alone(accepts, tmp_path, root):
    """A first run whose loss is not finite once became what later runs were held to."""
    why = Failure(type="NonFiniteLossError", message="the loss of step 3 is nan")
    failed = [make_record(name, status="error", error=why) for name in (HEAD, FULL)]
    write_run(tmp_path / "run.json", make_run(make_record(LORA), *failed))
    for allowed in ((), ("--allow-errors", HEAD), ("--allow-errors", "unseen/*")):
        code, _, err = accepts("run.json", *allowed)
        assert code == 2
        assert "is in error (NonFiniteLossError: the loss of step 3 is nan)" in err
        assert not root.exists()
    assert FULL in accepts("run.json", "--allow-errors", HEAD)[2]
    assert accepts("run.json", "--allow-errors", "*/full/*", "--allow-errors", HEAD)[0] == 0
    assert accepts("run.json", "--history")[0] == 0, "it judges nothing"


@pytest.mark.parametrize("more", [(), ("--history",), ("--retire", "*/full/*")])
def test_a_command_that_is_typed_twice_stores_once(accepts, tmp_path, root, more):
    write_entry(root, 1, make_record(FULL))
    write_kept(tmp_path / "run.json", HEAD)
    assert accepts("run.json", *more)[0] == 0
    code, out, _ = accepts("run.json", *more)
    assert code == 0
    path = baseline_files(root)[-1]
    assert out == f"already stored as {path}: the same run, accepted for the same reason\n"
    assert len(baseline_files(root)) == 2


def test_another_reason_role_or_run_is_another_entry(accepts, tmp_path, root):
    write_run(tmp_path / "run.json")
    accepts("run.json")
    accepts("run.json", reason="another")
    accepts("run.json", "--history", reason="another")
    write_run(tmp_path / "run.json", make_run(make_record(HEAD, {"aten_ops": 1})))
    accepts("run.json", "--history", reason="another")
    assert len(baseline_files(root)) == 4


@pytest.mark.parametrize("stream", [">&-", "> /dev/full"])
def test_without_readable_output_the_entry_is_stored_whole_and_once(tmp_path, root, stream):
    """It was once stored without adapters, and once more at each try."""
    write_kept(tmp_path / "run.json", HEAD)
    typed = f'"{sys.executable}" -m peft_regress accept run.json --reason why --baselines b'
    for _ in range(2):
        done = subprocess.run(
            ["sh", "-c", f"{typed} {stream}"], cwd=tmp_path, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    (entry,) = read_runs(root)
    assert entry.run.accepted.adapters.keys() == {HEAD}
    done = subprocess.run(["sh", "-c", typed], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout.startswith(b"already stored as b/Linux")
    assert len(baseline_files(root)) == 1


@pytest.mark.parametrize("metric", ["forward_flops", "peak_bytes"])
def test_a_run_whose_ledger_does_not_add_up_is_refused_by_name(accepts, tmp_path, root, metric):
    metrics = split_by(LEDGER)
    metrics[metric] += 1
    write_run(tmp_path / "run.json", make_run(make_record(LORA, metrics, ledger=LEDGER)))
    code, _, err = accepts("run.json")
    assert code == 2
    assert f"run.json: {LORA}: metric '{metric}' is " in err
    assert "but its ledger adds up to" in err
    assert not root.exists()


@pytest.mark.parametrize("wrong", ["metric", "ledger"])
def test_each_ledger_is_added_up_once_and_each_record_is_checked(
    accepts, tmp_path, root, wrong, monkeypatch
):
    """A run of 10,000 cases has fifty ledgers; adding up each again took minutes."""
    asked = []
    monkeypatch.setattr(
        ledger, "rows_of", lambda found, name: asked.append(name) or rows_of(found, name)
    )
    metrics = split_by(LEDGER)
    good = [make_record(f"shift/lora-r4/net{k}", metrics, ledger=LEDGER) for k in range(9)]
    write_run(tmp_path / "run.json", make_run(*good))
    assert accepts("run.json")[0] == 0
    assert len(asked) == len(set(asked)) == len(metrics)
    off = {**metrics, "peak_bytes": metrics["peak_bytes"] + 1} if wrong == "metric" else metrics
    more = {"": ModuleCosts(high_bytes={"temp": 1})} if wrong == "ledger" else {}
    changed = msgspec.structs.replace(LEDGER, modules={**LEDGER.modules, **more})
    bad = make_record("shift/lora-r4/wrong", off, ledger=changed)
    write_run(tmp_path / "run.json", make_run(*good, bad))
    code, _, err = accepts("run.json")
    assert (code, "run.json: shift/lora-r4/wrong: metric" in err) == (2, True)
    assert len(baseline_files(root)) == 1


def test_a_run_that_repeats_what_is_stored_is_accepted_and_compared(accepts, command, root):
    write_run(root.parent / "full.json", make_run(trained(LORA), trained(FULL)))
    write_run(root.parent / "again.json", make_run(*map(repeating, (trained(LORA), trained(FULL)))))
    assert accepts("full.json")[0] == 0
    code, out, _ = accepts("again.json")
    assert (code, "judges" in out) == (0, False)
    assert "it confirms 0001_peft-0.18.1 in 2 cases" in out
    for sides in (("full.json", "again.json"), ("again.json", "full.json")):
        paths = [root.parent / name for name in sides]
        code, out, _ = command("compare", *paths, "--baselines", root, "--stored-only")
        assert code == 0
        assert "no regression (2 unchanged" in out
