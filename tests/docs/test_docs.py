"""The claims of the documents against the code."""

import re
import tomllib
from pathlib import Path

import pytest

from peft_regress import registry
from peft_regress.gate.policy import DEFAULT_POLICY, numerics_of_method
from peft_regress.invariants import INVARIANTS
from peft_regress.measure.invariants.outputs import (
    AUTOCAST_TOLERANCE,
    MERGE_TOLERANCE,
    RELOAD_TOLERANCE,
)
from peft_regress.metrics import BATCH_SUFFIX, METRICS, format_value
from peft_regress.plugin.options import OPTIONS
from peft_regress.project.devices import load_devices
from peft_regress.runs.schema import Run

ROOT = Path(__file__).parents[2]
METRICS_PAGE = (ROOT / "docs" / "metrics.md").read_text()
ARCHITECTURE_PAGE = (ROOT / "docs" / "architecture.md").read_text()
RUN_FILE_PAGE = (ROOT / "docs" / "run-file.md").read_text()
USAGE_PAGE = (ROOT / "docs" / "usage.md").read_text()
README = (ROOT / "README.md").read_text()
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text()
FLAT_EVIDENCE = " ".join(EVIDENCE.split())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("metric", [m for m in METRICS if not m.endswith(BATCH_SUFFIX)])
def test_every_metric_is_explained_with_its_unit(metric):
    rows = [line.split("|") for line in METRICS_PAGE.splitlines() if line.startswith("| `")]
    (row,) = [row for row in rows if f"`{metric}`" in row[1]]
    assert row[2].strip() == METRICS[metric].unit


def test_every_invariant_stands_on_the_page_as_its_row_says():
    rows = [
        f"| `{name}` | {one.promise}{f'; null {one.null}' if one.null else ''} |"
        for name, one in INVARIANTS.items()
    ]
    section = METRICS_PAGE.partition("## Invariants")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| `")] == rows


def test_every_bound_of_the_policy_is_on_the_page():
    policy = DEFAULT_POLICY
    assert f"{100 * policy.bytes_bound:g} %" in METRICS_PAGE
    assert f"{100 * policy.accuracy_margin:g} points" in METRICS_PAGE
    assert f"{100 * policy.loss_margin:g} %" in METRICS_PAGE
    gradients = f"`gradient_norms`, `unclipped_norms` | more than {100 * policy.gradient_bound:g} %"
    assert gradients in METRICS_PAGE
    assert f"| `filled_losses` | more than {100 * policy.filled_bound:g} %" in METRICS_PAGE
    assert f"| `wide_filled_loss` | more than {100 * policy.wide_filled_bound:g} %" in METRICS_PAGE
    row = f"more than {policy.update_bound:g}, in either direction, for any update; "
    on_bfloat16 = f"{100 * policy.bfloat16_update_bound:g} % on a bfloat16 base"
    assert f"| `optimizer_updates` | {row}{on_bfloat16} |" in METRICS_PAGE
    assert 2 < policy.accuracy_items < 3
    assert policy.referee_widens == 10
    assert "the later three at ten times their bounds" in METRICS_PAGE
    assert "The drift budget is once the metric's own bound" in METRICS_PAGE
    rows = {
        "other methods": policy.fingerprint_bound,
        "bfloat16 base": policy.bfloat16_fingerprint_bound,
        **policy.fingerprint_bounds,
    }
    for method, bounds in rows.items():
        cells = " | ".join(f"{bound:g}" for bound in bounds)
        assert f"| {method} | {cells} |" in METRICS_PAGE


def test_the_smallest_fault_of_each_kind_is_what_the_bounds_allow():
    policy = DEFAULT_POLICY
    head = policy.fingerprint("first_losses", "head", step=1)
    for row in (
        f"{policy.fingerprint_bound[0]:g} of loss 1, {policy.filled_bound:g} of a filled loss",
        f"{policy.fingerprint_bound[1]:g} of loss 2, of the head {head:g}",
        f"{policy.referee_bound:g} of a loss, gradient or update norm",
        f"{policy.curve_rounding:g} of the largest loss",
        f"{100 * policy.accuracy_margin:g} points of accuracy, {100 * policy.loss_margin:g} % of",
        f"{MERGE_TOLERANCE:g} of the largest output; under autocast {AUTOCAST_TOLERANCE:g}",
        f"{RELOAD_TOLERANCE:g} of a loss",
    ):
        assert f"| {row}" in EVIDENCE
    assert policy.curve_steps == 4


def test_no_bound_on_a_loss_is_wider_than_ten_times_what_was_seen():
    """And no bound is tighter than what was seen, by the table of the evidence."""
    policy = DEFAULT_POLICY
    table = EVIDENCE.partition("<!-- seen -->")[2].partition("<!-- /seen -->")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.strip().splitlines()[2:]
    ]
    seen = {row[0]: [float(cell) for cell in row[1:5]] for row in rows}
    assert seen.keys() == {m.name for m in registry.items("method") if "default" in m.matrices}
    others = [seen[name] for name in seen.keys() - policy.fingerprint_bounds.keys()]
    groups = {
        **{name: seen[name] for name in policy.fingerprint_bounds if name in seen},
        "lora": [max(column) for column in zip(*others, strict=True)],
    }
    for method, largest in groups.items():
        numerics = numerics_of_method(method)
        bounds = [policy.fingerprint("first_losses", numerics, step=step) for step in range(4)]
        for bound, value in zip(bounds, largest, strict=True):
            assert value < bound <= 10 * value, (method, bound, value)
    filled = max(float(row[5]) for row in rows if row[5] != "-")
    assert filled < policy.filled_bound <= 10 * filled
    updates = re.search(r"by up to (\S+), and on bfloat16 by up to (\S+)\s", FLAT_EVIDENCE)
    assert updates is not None
    bounds_of_updates = (policy.update_bound, policy.bfloat16_update_bound)
    for value, bound in zip(updates.groups(), bounds_of_updates, strict=True):
        assert float(value) < bound <= 10 * float(value)
    accuracy = max(float(row[6]) for row in rows) / 100
    assert accuracy < policy.accuracy_margin <= 10 * accuracy
    loss = max(float(row[7].removesuffix(" %")) for row in rows) / 100
    assert loss < policy.loss_margin <= 10 * loss


def test_every_option_of_pytest_is_explained():
    options = [f"--regress-{name}" for name in OPTIONS]
    assert len(options) == 10
    for option in options:
        assert f"`{option}" in USAGE_PAGE


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
    table = ARCHITECTURE_PAGE.partition("| package |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in table.splitlines()[2:]]
    names = [" | ".join(re.findall(r"`(\w+)/?`", row)) for row in rows]
    assert ["__main__", *names] == layers


def test_every_key_of_the_run_file_is_explained():
    for key in Run.__struct_fields__:
        assert f"| `{key}` |" in RUN_FILE_PAGE


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


def test_the_section_on_timing_has_the_policy():
    page = " ".join((ROOT / "docs" / "upgrading.md").read_text().split())
    policy = DEFAULT_POLICY
    assert f"the whole interval is above +{100 * policy.time_margin:g} %" in page
    assert f"the interval reaches +{100 * policy.time_effect:g} %" in page


def test_every_change_names_the_release_that_made_it():
    page = (ROOT / "docs" / "upgrading.md").read_text()
    changes = re.findall(
        r"^### (0\.\d+\.\d+): .*?^\$ peft-regress bisect peft (.*?)$\n(.*?)^```",
        page, re.MULTILINE | re.DOTALL,
    )  # fmt: skip
    assert len(changes) >= 5
    for release, _, output in changes:
        assert output.startswith(f"peft {release} is the first release that changes what ")


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
