"""Every text report keeps to the terminal's width, and uses it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from builders import ENVIRONMENT, LORA, make_record, observe, write_entry

from peft_regress.baselines.history import read_entries, select_histories
from peft_regress.cli.main import main
from peft_regress.gate.attribution import changed_costs
from peft_regress.gate.paired_times import CaseTimes, Estimate, Interval, TimingRun
from peft_regress.report import (
    as_text,
    explanation,
    history_document,
    results_table,
    times_document,
)
from peft_regress.report.layout import Layout, cells
from peft_regress.report.results import cost_section, overview
from peft_regress.runs.run_file import read_run_file

ENTRY = Path(__file__).parents[2] / "baselines/Linux-CPython-3.11-64bit/0004_peft-0.21.2.json"
WIDTHS = (60, 80, 200)


@pytest.fixture(scope="module")
def stored():
    return read_run_file(ENTRY).run


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Return a storage of three entries in which metrics move and packages change."""
    root = tmp_path_factory.mktemp("storage")
    for number in range(3):
        records = [
            make_record(
                LORA, {"forward_flops": 10**9 + number, "accuracy": [0.5 + number / 9] * 3}
            ),
            make_record("unseen/dora_all-r16/efficientnet_lite0"),
        ]
        date = f"2026-01-0{number + 1}T00:00:00+00:00"
        packages = {f"package-{index}": str(number) for index in range(20)}
        write_entry(root, number, *records, date=date, environment={**ENVIRONMENT, **packages})
    return root


def explain_text(stored, _, layout):
    old, new = (stored.cases[f"shift/{method}-r4/resnet18"] for method in ("lora", "dora"))
    document = explanation(observe(old), observe(new), changed_costs(old, new), top=5)
    return as_text(document, layout)


def history_text(_, storage, layout):
    return as_text(history_document(select_histories(read_entries(storage, []))), layout)


def overview_text(stored, _, layout):
    return as_text(overview(stored, sources="0004_peft-0.21.2"), layout)


def cost_text(stored, _, layout):
    metrics = {
        name: metric
        for name, metric in stored.cases[LORA].metrics.items()
        if metric.unit in {"flop", "byte", "count"}
    }
    title = "resnet18, lora r=4, one training step on 1x3x224x224, 10 classes"
    return as_text([cost_section(title, metrics)], layout)


def times_text(_, storage, layout):
    interval = Interval(low=0.98, high=1.2)
    found = Estimate(ratio=1.02, interval=interval, confidence=0.95, pairs=30)
    pairs = ((0.1, 0.102),)
    case = CaseTimes(id=LORA, verdict="undetermined", pairs=pairs, estimate=found)
    failed = CaseTimes(id="a/b/c", verdict="failed", problem="ValueError: no such layer " * 9)
    packages = {f"package-{index}": "1" for index in range(20)}
    run = TimingRun(
        base="/venv/base/bin/python",
        candidate="/venv/candidate/bin/python",
        cases=(case, failed),
        candidate_packages=packages,
    )
    return as_text(times_document(run), layout)


def results_text(stored, _, layout):
    return results_table(stored, layout)


REPORTS = (explain_text, history_text, overview_text, cost_text, times_text, results_text)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("report", REPORTS)
def test_no_line_is_longer_than_the_terminal_is_wide(stored, storage, report, width):
    text = report(stored, storage, Layout(width=width))
    assert max(map(cells, text.splitlines())) <= width


@pytest.mark.parametrize("report", REPORTS)
def test_a_wider_terminal_takes_no_more_lines(stored, storage, report):
    counts = [len(report(stored, storage, Layout(width=width)).splitlines()) for width in WIDTHS]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] < counts[0] or report is cost_text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "words",
    [("report",), ("history", "--all"), ("explain", "0000", "0002", LORA)],
    ids=lambda words: words[0],
)
def test_the_commands_take_the_width_of_the_terminal(monkeypatch, capsys, storage, words, width):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*words, "--baselines", str(storage)])
    assert max(map(cells, capsys.readouterr().out.splitlines())) <= width


def test_commands_that_show_stored_results_import_no_torch(storage):
    options = ["--baselines", str(storage)]
    commands = [
        ["report", *options],
        ["history", *options],
        ["explain", "0000", "0002", LORA, *options],
        ["export", str(ENTRY), "--output", "/dev/null"],
    ]
    code = (
        "import sys\n"
        "from peft_regress.cli.main import main\n"
        f"for words in {commands!r}:\n"
        "    try: main(words)\n"
        "    except SystemExit as stopped: assert not stopped.code, stopped.code\n"
        "assert not {'torch', 'peft', 'numpy', 'pytest'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
