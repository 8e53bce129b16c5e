"""The claims of the documents against the code."""

import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from packaging.version import Version

from peft_regress import registry
from peft_regress.baselines.history import read_entries
from peft_regress.gate.policy import DEFAULT_POLICY as POLICY
from peft_regress.gate.policy import numerics_of_method
from peft_regress.invariants import INVARIANTS
from peft_regress.measure.invariants.outputs import (
    AUTOCAST_TOLERANCE,
    MERGE_TOLERANCE,
    RELOAD_TOLERANCE,
)
from peft_regress.metrics import BATCH_SUFFIX, METRICS, Unit, format_value
from peft_regress.plugin.options import OPTIONS
from peft_regress.project.devices import load_devices
from peft_regress.runs.schema import Run

ROOT = Path(__file__).parents[2]
METRICS_PAGE = (ROOT / "docs" / "metrics.md").read_text()
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text()
UPGRADING = (ROOT / "docs" / "upgrading.md").read_text()
FLAT_EVIDENCE = " ".join(EVIDENCE.split())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_metrics_that_are_explained_are_those_that_are_measured_with_their_units():
    rows = [line.split(" | ") for line in METRICS_PAGE.splitlines() if line.startswith("| `")]
    explained = {
        name: row[1] for row in rows if row[1] in get_args(Unit)
        for name in re.findall(r"`(\w+)`", row[0])
    }  # fmt: skip
    measured = {name.removesuffix(BATCH_SUFFIX): spec.unit for name, spec in METRICS.items()}
    assert explained == measured


def test_every_invariant_stands_on_the_page_as_its_row_says():
    rows = [
        f"| `{name}` | {one.promise}{f'; null {one.null}' if one.null else ''} |"
        for name, one in INVARIANTS.items()
    ]
    section = METRICS_PAGE.partition("## Invariants")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows


def test_every_bound_of_the_policy_is_on_the_page():
    for row in (
        f"{100 * POLICY.bytes_bound:g} %",
        f"{100 * POLICY.accuracy_margin:g} points",
        f"{100 * POLICY.loss_margin:g} %",
        f"`gradient_norms`, `unclipped_norms` | more than {100 * POLICY.gradient_bound:g} %",
        f"| `filled_losses` | more than {100 * POLICY.filled_bound:g} %",
        f"| `wide_filled_loss` | more than {100 * POLICY.wide_filled_bound:g} %",
        f"| `optimizer_updates` | more than {POLICY.update_bound:g}, in either direction, for any",
        f"for any update; {100 * POLICY.bfloat16_update_bound:g} % on a bfloat16 base |",
        "the later three at ten times their bounds",
        "The drift budget is once the metric's own bound",
    ):
        assert row in METRICS_PAGE
    assert 2 < POLICY.accuracy_items < 3
    assert POLICY.referee_widens == 10
    rows = {
        "other methods": POLICY.fingerprint_bound,
        "bfloat16 base": POLICY.bfloat16_fingerprint_bound,
        **POLICY.fingerprint_bounds,
    }
    for method, bounds in rows.items():
        assert f"| {method} | {' | '.join(f'{bound:g}' for bound in bounds)} |" in METRICS_PAGE
    page = " ".join(UPGRADING.split())
    assert f"the whole interval is above +{100 * POLICY.time_margin:g} %" in page
    assert f"the interval reaches +{100 * POLICY.time_effect:g} %" in page


def test_the_smallest_fault_of_each_kind_is_what_the_bounds_allow():
    head = POLICY.fingerprint("first_losses", "head", step=1)
    for row in (
        f"{POLICY.fingerprint_bound[0]:g} of loss 1, {POLICY.filled_bound:g} of a filled loss",
        f"{POLICY.fingerprint_bound[1]:g} of loss 2, of the head {head:g}",
        f"{POLICY.referee_bound:g} of a loss, gradient or update norm",
        f"{POLICY.curve_rounding:g} of the largest loss",
        f"{100 * POLICY.accuracy_margin:g} points of accuracy, {100 * POLICY.loss_margin:g} % of",
        f"{MERGE_TOLERANCE:g} of the largest output; under autocast {AUTOCAST_TOLERANCE:g}",
        f"{RELOAD_TOLERANCE:g} of a loss",
    ):
        assert f"| {row}" in EVIDENCE
    assert POLICY.curve_steps == 4


def test_each_bound_on_a_loss_is_one_to_ten_times_what_was_seen():
    """By the table of the evidence."""
    table = EVIDENCE.partition("<!-- seen -->")[2].partition("<!-- /seen -->")[0]
    rows = [
        [cell.strip(" %") for cell in line.strip("|").split("|")]
        for line in table.strip().splitlines()[2:]
    ]
    seen = {row[0]: [float(cell) for cell in row[1:5]] for row in rows}
    methods = [one for one in registry.items("method") if not one.is_lean]
    assert seen.keys() == {one.name for one in methods if "default" in one.matrices}
    others = [seen[name] for name in seen.keys() - POLICY.fingerprint_bounds.keys()]
    groups = {
        **{name: seen[name] for name in POLICY.fingerprint_bounds if name in seen},
        "lora": [max(column) for column in zip(*others, strict=True)],
    }
    updates = re.search(r"by up to (\S+), and on bfloat16 by up to (\S+)\s", FLAT_EVIDENCE)
    assert updates is not None
    pairs = [
        (max(float(row[5]) for row in rows if row[5] != "-"), POLICY.filled_bound),
        (float(updates[1]), POLICY.update_bound),
        (float(updates[2]), POLICY.bfloat16_update_bound),
        (max(float(row[6]) for row in rows) / 100, POLICY.accuracy_margin),
        (max(float(row[7]) for row in rows) / 100, POLICY.loss_margin),
    ]
    for method, largest in groups.items():
        numerics = numerics_of_method(method)
        for step, value in enumerate(largest):
            pairs.append((value, POLICY.fingerprint("first_losses", numerics, step=step)))
    assert len(pairs) == 5 + 4 * len(groups)
    assert [(value, bound) for value, bound in pairs if not value < bound <= 10 * value] == []


def test_every_option_of_pytest_is_explained():
    page = (ROOT / "docs" / "usage.md").read_text()
    assert len(OPTIONS) == 10
    assert [name for name in OPTIONS if f"`--regress-{name}" not in page] == []


def test_every_variable_of_the_commands_is_read_by_the_package():
    names = re.findall(r"`([A-Z]+_[A-Z_]+)`", (ROOT / "docs" / "commands.md").read_text())
    assert len(names) >= 3
    sources = "".join(path.read_text() for path in (ROOT / "peft_regress").rglob("*.py"))
    for name in names:
        assert f'"{name}"' in sources, name


def test_the_rows_of_the_packages_are_the_layers_that_are_checked():
    """import-linter wants every module in a layer."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("| package |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    names = [" | ".join(re.findall(r"`(\w+)/?`", row)) for row in rows]
    assert ["__main__", *names] == layers


def test_every_key_of_the_run_file_is_explained():
    page = (ROOT / "docs" / "run-file.md").read_text()
    assert [key for key in Run.__struct_fields__ if f"| `{key}` |" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings]
            assert anchor in slugs, link


def test_every_image_exists_and_is_described_in_words():
    for page in PAGES:
        for words, path in re.findall(r"!\[(.*?)\]\((.*?)\)", page.read_text()):
            assert (page.parent / path).is_file(), path
            assert len(words.split()) >= 8, path


def test_only_the_page_on_publishing_has_an_address_without_an_owner():
    assert [page.name for page in PAGES if "OWNER" in page.read_text()] == ["publishing.md"]


def test_every_change_names_the_release_that_made_it():
    found = re.findall(r"^### (0\.\S+): .*?^\$ .*?$\n(.*?)$", UPGRADING, re.MULTILINE | re.DOTALL)
    assert len(found) == 3
    for release, first_line in found:
        assert first_line.startswith(f"peft {release} is the first release that changes what ")


def test_both_sides_of_each_further_change_are_in_the_stored_runs():
    rows = re.findall(
        r"^\| (0\.\S+) \| `(\S+)` \| `(\w+)` \| ([^|]+) \| ([^|]+) \|", UPGRADING, re.MULTILINE
    )
    runs = [entry.run for entry in read_entries(ROOT / "baselines", ())]
    for release, case, name, *sides in rows:
        holding = {Version(run.environment["peft"]): run for run in runs if case in run.cases}
        before = max(one for one in holding if one < Version(release))
        after = min(one for one in holding if one >= Version(release))
        assert [_shown(holding[one].cases[case], name) for one in (before, after)] == sides
    assert len(rows) >= 10


def _shown(record, name):
    if name in METRICS:
        return format_value(record.value_of(name), METRICS[name].unit)
    return record.status if name == "status" else str(record.invariants[name]).lower()


def test_the_table_of_devices_is_that_of_the_package():
    page = (ROOT / "docs" / "devices.md").read_text()
    table = page.partition("## Device classes")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    devices = load_devices()
    assert len(rows) == len(devices)
    for row, device in zip(rows, devices, strict=True):
        name, title, memory, storage, compute, source = row
        assert (name.strip("| `"), title, compute) == (device.name, device.title, device.compute)
        assert memory == format_value(device.memory_bytes, "byte")
        if device.storage_bytes is not None:
            assert storage == format_value(device.storage_bytes, "byte")
        assert all(address in source for address in device.source.split("; "))
