"""The history: what moved between which entries, and the command that shows it."""

import functools
import json

import pytest
from builders import ENVIRONMENT, FULL, LORA, make_record, make_run, write_entry, write_run
from page_world import make_entry

from peft_regress.baselines.history import select_moves

NEWER = {**ENVIRONMENT, "peft": "0.19.0"}
COSTS = {"forward_flops": 100, "backward_flops": 100}
MERGES = "invariant merge_equals_unmerged"


def entries_of(*runs, environments=()):
    """Return an entry for each record, or the values of its metrics."""
    packages = dict(enumerate(environments))
    return [
        make_entry(
            number,
            make_record(metrics=item) if isinstance(item, dict) else item,
            environment=packages.get(number),
        )
        for number, item in enumerate(runs)
    ]


def flops(*values):
    return [{"forward_flops": value} for value in values]


WORSE, BETTER = "worse", "better"
NEWER_TORCH = {**ENVIRONMENT, "torch": "2.99.0"}
OPERATORS = [{"aten_ops": 900}, {"aten_ops": 901}]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (
            entries_of(*flops(100, 100, 150, 150, 100)),
            [("forward_flops", 1, 2, WORSE), ("forward_flops", 3, 4, BETTER)],
        ),
        (
            entries_of(flops(100)[0], make_record(FULL, {}), flops(150)[0]),
            [("forward_flops", 0, 2, WORSE)],
        ),
        (entries_of({"peak_bytes": 10**8}, {"peak_bytes": 10**8 + 4}), []),
        (
            entries_of(*OPERATORS, environments=[ENVIRONMENT, NEWER]),
            [("aten_ops", 0, 1, WORSE)],
        ),
        (entries_of(*OPERATORS, environments=[ENVIRONMENT, NEWER_TORCH]), []),
        (entries_of({"step_seconds": [0.1] * 3}, {"step_seconds": [9.0] * 3}), []),
        (
            entries_of(*(
                make_record(invariants={"merge_equals_unmerged": holds})
                for holds in (True, None, True, False)
            )),
            [(MERGES, 0, 1, WORSE), (MERGES, 2, 3, WORSE)],
        ),
        (
            entries_of(COSTS, {**COSTS, "projection_flops": 5, "accuracy": [0.5] * 3}, COSTS),
            [
                ("projection_flops", 0, 1, WORSE),
                ("accuracy", 1, 2, WORSE),
                ("projection_flops", 1, 2, WORSE),
            ],
        ),
        (
            entries_of(make_record(), make_record(status="error"), make_record()),
            [("status", 0, 1, WORSE), ("status", 1, 2, BETTER)],
        ),
    ],
    ids=[
        "a cost there and back", "a gap", "bytes within the bound", "operators", "another torch",
        "times", "an invariant", "a metric that comes and goes", "a status",
    ],
)  # fmt: skip
def test_what_moved_is_what_the_gate_reports_between_neighbours(entries, expected):
    found = select_moves(entries).found
    assert [(one.reason.name, one.before, one.entry, one.way) for one in found] == expected


def test_a_case_that_is_defined_anew_moves_in_nothing_and_is_named():
    records = (
        make_record(metrics={"forward_flops": value}, definition=f"sha256:{value}")
        for value in (100, 150)
    )
    found = select_moves(entries_of(*records))
    assert (found.found, found.redefined) == ((), ((LORA, 1),))


@pytest.fixture
def run(command, tmp_path, monkeypatch):
    """Call `history` in a folder of its own; return (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return functools.partial(command, "history")


@pytest.fixture
def storage(tmp_path):
    """Three entries: LoRA's costs double, an invariant breaks, and a case is defined anew."""
    root = tmp_path / "baselines"
    doubled = {"forward_flops": 200, "backward_flops": 150}
    for number, (costs, holds, packages) in enumerate(
        [(COSTS, True, ENVIRONMENT), (doubled, False, NEWER), (doubled, False, NEWER)], start=1
    ):
        records = [
            make_record(LORA, costs, invariants={"merge_equals_unmerged": holds}),
            make_record(FULL, COSTS, definition=f"sha256:{number // 3}"),
        ]
        title = f"peft-{packages['peft']}"
        write_entry(root, number, *records, environment=packages, title=title)
    return root


def test_the_command_prints_what_moved_and_with_a_metric_all_its_values(run, storage, snapshot):
    code, out, err = run()
    assert (code, out, err) == (0, snapshot(name="text"), "")
    assert run("--metric", "forward*", "--case", LORA)[1] == snapshot(name="values")
    assert run("--format", "markdown")[1] == snapshot(name="markdown")
    assert json.loads(run("--format", "json", "--metric", "f*")[1]) == snapshot(name="json")
    still = run("--cases", FULL, "--metric", "forward_flops")[1]
    assert "0 of 1 case moved beyond a bound" in still


def test_runs_and_shards_come_after_the_entries(run, storage, tmp_path):
    path = write_run(tmp_path / "my run.json", make_run(make_record(metrics=flops(40)[0])))
    write_run(tmp_path / "shards" / "1.json", make_run(make_record(metrics=flops(50)[0])))
    write_run(tmp_path / "shards" / "2.json", make_run(make_record(FULL, COSTS)))
    _, out, _ = run(path, "shards", "--cases", LORA, "--metric", "forward*", "--format", "json")
    found = [(move["entry"], move["new"]) for move in json.loads(out)["moves"]]
    assert found == [("0002_peft-0.19.0", 200), (str(path), 40), ("shards", 50)]
    code, out, _ = run(path, "--baselines", "nowhere", "--metric", "forward_flops")
    assert (code, "40 FLOP" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cases", "shfit/*"), "matches none of the 2 cases in the history, e.g. shift/full"),
        (("--cases", LORA.replace("shift", "shfit")), f"e.g. {LORA}"),
        (("--metric", "peak"), "matches none of the metrics of these cases: forward_flops, "),
        (("--baselines", "nowhere"), "nowhere: no entry there"),
    ],
)
def test_a_name_of_nothing_is_exit_3_with_what_there_is(run, storage, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (3, "")
    assert message in err


@pytest.mark.parametrize("content", ["", "{}", '{"peft_regress": {"schema_version": 9}}'])
def test_an_unreadable_run_or_entry_is_exit_2(run, storage, tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content)
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert str(path) in err
    (entry,) = storage.glob("*/0002_*.json")
    entry.write_text(content)
    assert run()[0] == 2
