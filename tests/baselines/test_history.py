"""The history: what is shown, what is marked, what can be compared, and the command."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    FULL,
    LORA,
    MACHINE,
    OTHER_MACHINE,
    VALUES,
    make_metric,
    make_record,
    make_run,
    write_entry,
    write_run,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.baselines import lines
from peft_regress.baselines.history import CaseHistory
from peft_regress.baselines.lines import Entry, Line, jumps_of, make_line
from peft_regress.cli.main import main
from peft_regress.metrics import Metric
from peft_regress.report import as_markdown, as_text, encode_history, history_document
from peft_regress.runs.schema import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syrupy.assertion import SnapshotAssertion

    from peft_regress.runs.run_file import RunFile
    from peft_regress.runs.schema import Machine

PEFT = {"peft": "0.18.1", "python": "3.11.7", "torch": "2.13.0"}
NEWER = {**PEFT, "peft": "0.19.0"}


def history_of(
    records: Iterable[Any],
    name: str,
    *,
    environments: dict[int, dict[str, str]] | None = None,
    machines: dict[int, Machine] | None = None,
) -> Line:
    """Return the line of a metric from records, or from values of that metric, in order."""
    made = [
        item if hasattr(item, "metrics") else make_record(metrics={name: item}) for item in records
    ]
    pairs = [
        (
            Entry(
                name=f"{number:04d}_peft",
                date=f"2026-01-{1 + number % 28:02d}T00:00:00+00:00",
                role="baseline",
                run=make_run(
                    record,
                    environment=(environments or {}).get(number, PEFT),
                    machine=(machines or {}).get(number, MACHINE),
                ),
            ),
            record,
        )
        for number, record in enumerate(made)
    ]
    return make_line(pairs, name)


def marked(line: Line) -> list[int]:
    return [index for index, point in enumerate(line.points) if point.is_change_point]


def shown(line: Line) -> list[int]:
    return [line.points.index(point) for point in line.notable()]


def text_of(line: Line, **how: Any) -> list[str]:
    return as_text(history_document([CaseHistory(id=LORA, lines=(line,))], **how)).splitlines()


def accuracies(*levels: tuple[int, float], noise: float = 0.002) -> list[list[float]]:
    chance = random.Random(0)
    return [
        [level + chance.gauss(0, noise) for _ in range(3)]
        for count, level in levels
        for _ in range(count)
    ]


# --- points -----------------------------------------------------------------------------------

SAME, ROUNDED, OTHER = ([[first, 1.9, 1.8, last]] * 3 for first, last in
                        ((2.0, 1.7), (2.0000001, 1.7), (2.0, 1.2)))  # fmt: skip
ABSENT = make_record(metrics={"peak_bytes": 10})
POINTS: dict[str, tuple[str, list[Any], list[int], list[int]]] = {
    "every step of an exact metric": ("forward_flops", [5, 5, 6, 6, 6, 5, 5], [2, 5], [0, 2, 5, 6]),
    "bytes within the bound": ("peak_bytes", [100_000_000, 100_000_004], [1], [0, 1]),
    "losses beyond the bound": (
        "first_losses", [SAME, ROUNDED, SAME, OTHER, OTHER, SAME], [3, 5], [0, 3, 5],
    ),
    "one point": ("forward_flops", [5], [], [0]),
    "absent for a while": ("projection_flops", [7, ABSENT, ABSENT, 7], [], [0, 1, 3]),
    "levels of accuracy": ("accuracy", accuracies((8, 0.75), (8, 0.65)), [8], [0, 8, 15]),
    "noise with a gap": (
        "accuracy", [*accuracies((5, 0.75)), ABSENT, *accuracies((6, 0.75))], [], [0, 5, 6, 11],
    ),
    "too few to tell noise": (
        "accuracy", accuracies((1, 0.9), (4, 0.1)), [], [0, 1, 2, 3, 4],
    ),
    **{
        f"levels of {name}": (
            name, [[value * small] * 3 for value, *_ in accuracies((8, 1.0), (8, 2.0))], [8],
            [0, 8, 15],
        )
        for name, small in (("loss", 0.01), ("step_seconds", 0.00001))
    },
}  # fmt: skip
"""A metric's values, which of them are change points, and which are shown."""


@pytest.mark.parametrize(
    ("name", "values", "changes", "notable"), POINTS.values(), ids=list(POINTS)
)
def test_change_points_are_marked_and_what_is_notable_is_shown(
    name: str, values: list[Any], changes: list[int], notable: list[int]
) -> None:
    line = history_of(values, name)
    assert (marked(line), shown(line)) == (changes, notable)


def redefined(*values: Any, name: str = "forward_flops", every: int = 1) -> list[Any]:
    """Return records whose definition changes."""
    return [
        make_record(metrics={name: value}, definition=f"sha256:{number // every}")
        for number, value in enumerate(values)
    ]


def test_a_history_in_text(snapshot: SnapshotAssertion) -> None:
    failed = make_record(status="error", error=Failure(type="KeyError", message="no layer"))
    lines = {
        "changes": history_of([5, 5, 6, 6], "forward_flops", environments={2: NEWER, 3: NEWER}),
        "the same": history_of([5], "forward_flops"),
        "losses": history_of([SAME, OTHER], "first_losses"),
        "redefined": history_of(redefined(5, 5, 9, 9, every=2), "forward_flops"),
        "two machines": history_of(
            [[0.05] * 3, [0.5] * 3, [0.1, 0.2, 0.3], [0.5] * 3],
            "step_seconds",
            machines={1: OTHER_MACHINE, 3: OTHER_MACHINE},
        ),
        "absent": history_of([7, ABSENT, ABSENT, 7], "projection_flops"),
        "status": history_of([make_record(), failed, failed, make_record()], "status"),
        "too few": history_of(accuracies((1, 0.9), (1, 0.1)), "accuracy"),
    }
    assert {name: text_of(line) for name, line in lines.items()} == snapshot


def test_metrics_that_came_with_one_entry_and_stayed_the_same_share_a_line() -> None:
    before, after = {"forward_flops": 5}, {"forward_flops": 5, "merged_bytes": 7, "aten_ops": 3}
    made = [make_record(metrics=metrics) for metrics in (before, after, after)]
    lines = tuple(history_of(made, name) for name in ("merged_bytes", "aten_ops"))
    text = as_text(history_document([CaseHistory(id=LORA, lines=lines)]))
    assert " ".join(text.split()) == (
        f"{LORA} new, and the same at 2 points, 0001_peft (2026-01-02) to 0002_peft (2026-01-03): "
        "merged_bytes 7 B, aten_ops 3"
    )
    # One that changed afterwards, or vanished, has its points.
    again = [*made, make_record(metrics={**after, "merged_bytes": 8}), made[0]]
    assert "merged_bytes: 5 points" in text_of(history_of(again, "merged_bytes"))[1]
    assert "aten_ops: 5 points" in text_of(history_of(again, "aten_ops"))[1]


# --- what can be compared -----------------------------------------------------------------------


def test_what_was_defined_anew_is_not_compared() -> None:
    line = history_of(redefined(5, 5, 9, 9, every=2), "forward_flops")
    assert [point.is_comparable for point in line.points] == [True, True, False, True]
    assert (marked(line), line.points[2].change) == ([], None)
    assert not history_of(redefined(5, 5), "forward_flops").is_still
    other = Metric(value=5, unit="count", direction="lower", kind="exact")
    assert not history_of([5, other], "forward_flops").points[1].is_comparable
    assert not history_of([[0.5] * 3, [0.5] * 2], "accuracy").points[1].is_comparable
    levels = redefined(*([0.5 + n / 100] * 3 for n in range(8)), name="accuracy", every=4)
    remark = history_of(levels, "accuracy").remark
    assert remark == "change points need 6 comparable points, and there are 4"


def test_jumps_are_the_change_points_also_between_entries_that_share_a_metric() -> None:
    """A level is three points long, so that the second one begins between two equal points."""
    low, high = (make_metric("accuracy", [value] * 3) for value in (0.1, 0.9))
    records = [make_record(metrics={"accuracy": metric}) for metric in (low, low, *[high] * 4)]
    line = history_of(records, "accuracy")
    assert marked(line) == [3]
    # One step left the gate's bound, and a level begins.
    assert jumps(line, "accuracy") == [2, 3]
    assert jumps(history_of([1.0, 1.5], "relative_step_seconds"), "relative_step_seconds") == []


def jumps(line: Line, name: str) -> list[int]:
    pairs = [(point.entry, next(iter(point.entry.run))) for point in line.points]
    metrics = [record.metrics[name] for _, record in pairs]
    return [jump.position for jump in jumps_of(pairs, metrics, name)]


def test_without_the_library_the_remark_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "can_find_change_points", lambda: False)
    line = history_of(accuracies((8, 0.75), (8, 0.65)), "accuracy")
    assert marked(line) == []
    assert line.remark is not None
    assert "pip install 'peft-regress[history]'" in line.remark


samples = st.lists(st.floats(min_value=0, max_value=1e30), min_size=3, max_size=3)
anything = {
    "forward_flops": st.integers(0, 2**63),
    "peak_bytes": st.integers(0, 2**63),
    "first_losses": st.lists(samples, min_size=1, max_size=3),
    "accuracy": samples,
    "loss": samples,
    "step_seconds": samples,
    "relative_step_seconds": st.floats(0, 1e30),
}


@pytest.mark.parametrize("name", anything)
@settings(deadline=None, derandomize=True, max_examples=40)
@given(data=st.data())
def test_whatever_the_numbers_a_history_can_be_shown(name: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(anything[name], min_size=1, max_size=9))
    case = CaseHistory(id=LORA, lines=(history_of(values, name),))
    for every_point in (False, True):
        assert as_text(history_document([case], every_point=every_point)).startswith(LORA)
        assert as_markdown(history_document([case], every_point=every_point))
        json.dumps(encode_history([case], every_point=every_point), allow_nan=False)


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["history", *map(str, arguments)])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Three entries whose dates are not in the order of their numbers, in which FLOPs rise."""
    root = tmp_path / "baselines"
    first, second, third = (
        {**VALUES, "forward_flops": make_metric("forward_flops", value)} for value in (10, 20, 30)
    )
    write_entry(
        root, 1, make_record(metrics=first), make_record(FULL), date="2026-02-01T00:00:00+00:00"
    )
    write_entry(root, 2, make_record(metrics=second), date="2026-01-01T00:00:00+00:00")
    write_entry(
        root, 3, make_record(metrics=third), date="2026-03-01T00:00:00+00:00",
        role="history", environment=NEWER,
    )  # fmt: skip
    return root


def test_entries_of_both_roles_stand_by_number_and_run_files_after_them(
    run: Any, storage: Path, tmp_path: Path
) -> None:
    path = write_run(tmp_path / "my run.json", make_run(make_record(metrics={"forward_flops": 40})))
    code, out, err = run(
        path, "--baselines", storage, "--cases", LORA, "--metric", "forward*", "--format", "json"
    )
    assert (code, err) == (0, "")
    (case,) = json.loads(out)["cases"]
    (line,) = case["lines"]
    assert (case["id"], line["metric"], line["unit"]) == (LORA, "forward_flops", "flop")
    assert [(point["value"], point["role"]) for point in line["points"]] == [
        (10, "baseline"), (20, "baseline"), (30, "history"), (40, "run"),
    ]  # fmt: skip
    assert line["points"][2] == {
        "entry": "0003_peft-0.18.1",
        "date": "2026-03-01T00:00:00+00:00",
        "role": "history",
        "status": "ok",
        "value": 30,
        "relative_change": 0.5,
        "comparable": True,
        "change_point": True,
        "packages": [{"package": "peft", "old": "0.18.1", "new": "0.19.0"}],
    }
    assert line["points"][3]["date"] == "2026-01-02T03:04:05+00:00"


def test_a_folder_of_shards_is_one_run(run: Any, storage: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "shards" / "1.json", make_run(make_record(metrics={"forward_flops": 50})))
    write_run(tmp_path / "shards" / "2.json", make_run(make_record(FULL)))
    _, out, _ = run(tmp_path / "shards", "--baselines", storage, "--format", "json")
    assert [case["id"] for case in json.loads(out)["cases"]] == [FULL, LORA]


def test_the_command_prints_text_markdown_and_every_point(
    run: Any, storage: Path, snapshot: SnapshotAssertion
) -> None:
    code, out, _ = run("--baselines", storage, "--cases", LORA)
    assert (code, out) == (0, snapshot(name="text"))
    assert run("--baselines", storage, "--case", LORA)[1] == out
    _, out, _ = run("--baselines", storage, "--metric", "forward_flops", "--format", "markdown")
    assert out == snapshot(name="markdown")
    _, out, _ = run("--baselines", storage, "--cases", LORA, "--all")
    assert out.count("0002_peft-0.18.1") == len(VALUES)
    _, out, _ = run("--baselines", storage, "--all", "--format", "json")
    for case in json.loads(out)["cases"]:
        for line in case["lines"]:
            assert len(line["points"]) == line["points_in_all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cases", "shfit/*"), "matches none of the 2 cases in the history, e.g. shift/full"),
        (("--cases", "["), "matches none"),
        (("--cases", LORA.replace("shift", "shfit")), f"e.g. {LORA}"),
        (("--metric", "peak"), "matches none of the metrics of these cases: trainable_params, "),
        (("--metric", ""), "matches none"),
        (("--cases", "x" * 5000), "matches none"),
    ],
)
def test_a_glob_that_fits_nothing_is_exit_3_with_what_there_is(
    run: Any, storage: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run("--baselines", storage, *arguments)
    assert (code, out) == (3, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [("--cases", "nothing"), ("--metric", "nothing"), ("--by", "torch\nx")]
)
def test_a_refusal_lists_names_that_are_fit_for_a_terminal(
    run: Any, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    bad = "\x1b[31m\u202e\a\n" + "x" * 10_000
    metrics = {**VALUES, bad: make_metric("peak_bytes", 1)}
    write_entry(tmp_path, 1, make_record(LORA, metrics))
    code, _, err = run("--baselines", tmp_path, *arguments)
    assert code == 3
    assert err.rstrip("\n").isprintable()
    assert len(err) < 3000


def test_an_empty_history_is_exit_3_with_the_way_to_name_another(run: Any, tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        code, out, err = run("--baselines", root)
        assert (code, out) == (3, "")
        assert f"{root}: no entry there" in err
        assert "--baselines" in err


def test_run_files_without_a_storage_are_a_history(run: Any, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.json")
    code, out, _ = run(path, "--baselines", tmp_path / "nowhere", "--metric", "peak_bytes")
    assert code == 0
    assert " ".join(out.split()).startswith(f"{LORA} the same at 1 point, {path}")
    assert " ".join(out.split()).endswith("(2026-01-02): peak_bytes 114.4 MiB")


def test_a_run_that_is_an_entry_already_is_refused(run: Any, storage: Path) -> None:
    (path,) = storage.glob("*/0001_*.json")
    code, _, err = run(path, "--baselines", storage)
    assert code == 2
    assert "name it once" in err


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"peft_regress": {"schema_version": 9}}'])
def test_an_unreadable_run_or_entry_is_exit_2(
    run: Any, storage: Path, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    code, out, err = run(path, "--baselines", storage)
    assert (code, out) == (2, "")
    assert str(path) in err
    (entry,) = storage.glob("*/0002_*.json")
    entry.write_text(content)
    assert run("--baselines", storage)[0] == 2
    assert run(tmp_path / "absent.json", "--baselines", tmp_path / "nowhere")[0] == 2


def test_the_stored_baselines_have_a_history(run: Any, own_storage: list[RunFile]) -> None:
    root = Path(__file__).parents[2] / "baselines"
    code, out, _ = run("--baselines", root, "--cases", "shift/head/*", "--metric", "*flops*")
    assert code == 0
    entries = [file for file in own_storage if "shift/head/resnet18" in file.run.cases]
    assert out.count(f"the same at {len(entries)} points") == 4


def test_entries_can_stand_in_the_order_of_a_packages_releases(run: Any, tmp_path: Path) -> None:
    root = tmp_path / "baselines"
    for number, (release, value) in enumerate(
        {"0.21.2": 30, "0.9.0": 10, "0.15.2": 20, "no-release": 5}.items(), start=1
    ):
        record = make_record(metrics={"forward_flops": value})
        environment = {**PEFT, "peft": release}
        date = f"2026-01-0{number}T00:00:00+00:00"
        write_entry(root, number, record, date=date, role="history", environment=environment)
    for package in ("peft", "PEFT"):
        code, out, err = run("--baselines", root, "--by", package, "--format", "json")
        assert (code, err) == (0, "")
        (line,) = json.loads(out)["cases"][0]["lines"]
        assert [point["value"] for point in line["points"]] == [5, 10, 20, 30]
        assert line["points"][2]["relative_change"] == 1.0
    assert "peft 0.9.0 -> 0.15.2" in run("--baselines", root, "--by", "peft")[1]


def test_an_entry_without_that_package_has_no_place_in_the_order(run: Any, storage: Path) -> None:
    code, out, err = run("--baselines", storage, "--by", "torchh")
    assert (code, out) == (3, "")
    assert "--by torchh: 0001_peft-0.18.1 was made without that package; it has torch" in err
