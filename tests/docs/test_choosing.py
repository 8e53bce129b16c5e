"""docs/choosing.md: its numbers stand in blocks and tables that are made, and its rules hold."""

import itertools
import re

import pytest
from examples import ROOT

from peft_regress.catalogue.evidence import read_evidence
from peft_regress.choosing.candidates import Answer
from peft_regress.choosing.ranking import difference
from peft_regress.project.devices import load_devices, room

PAGE = (ROOT / "docs" / "choosing.md").read_text()
_LINES = re.DOTALL | re.MULTILINE
MADE = "\n".join(re.findall(r"```.*?```|^\|.*?\|$", PAGE, flags=_LINES))
PROSE = re.sub(r"```.*?```|^\|.*?\|$|`[^`]*`|\]\([^)]*\)", " ", PAGE, flags=_LINES)
OF_OTHERS = {"95", "512", "1", "3"}
"""The share of an interval, the device's MB, exit codes and the margin: tests of their own."""


def test_each_number_of_the_prose_is_one_that_is_made():
    listed = set(re.findall(r"^(\d+)\. ", PROSE, flags=re.MULTILINE))
    known = set(re.findall(r"\d+(?:\.\d+)?", MADE)) | OF_OTHERS | listed
    used = set(re.findall(r"(?<![\w.-])\d+(?:\.\d+)?", PROSE))
    assert len(used) > 5
    assert used - known == set()


def test_nothing_but_executorch_fits_on_the_device_with_512_mb():
    (zero,) = [one for one in load_devices() if one.name == "raspberry-pi-zero-2-w"]
    assert zero.memory_bytes == 512 * 2**20
    assert room(zero, "eager") == room(zero, "peft") == 0
    assert room(zero, "executorch") > 0


def rows(table):
    text = PAGE.split(f"<!-- choices:{table} -->")[1].split("<!-- /")[0].strip()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def compared(task, one, other):
    """Return how a method of the study differs from another one, by network."""
    return {
        network: difference(study.methods[one].final, study.methods[other].final)
        for network, study in read_evidence().studies[task].items()
        if {one, other} <= study.methods.keys()
    }


def test_lora_at_rank_4_equals_full_where_the_first_rule_says_so():
    page, margin = " ".join(PAGE.split()), Answer.points / 100
    assert "**On new classes LoRA at rank 4 equals full fine-tuning**" in page
    on_new_classes = compared("unseen", "lora-r4", "full")
    assert len(on_new_classes) >= 2
    assert all(found.is_within(margin) for found in on_new_classes.values())
    (named,) = re.findall(
        r"Under a shift it does on ([\w, ]+), and falls short on ([\w, ]+)\.", page
    )
    equal, below = set(), set()
    for network, found in compared("shift", "lora-r4", "full").items():
        (equal if found.is_within(margin) else below).add(network)
    assert (equal, below) == tuple(set(re.split(", | and ", names)) for names in named)


def test_the_head_is_no_equal():
    assert "**The head alone is no equal.**" in PAGE
    for task, method in itertools.product(("shift", "unseen"), ("bn_head", "head")):
        found = compared(task, method, "full")
        assert found
        assert all(one.mean + one.half < -Answer.points / 100 for one in found.values())


@pytest.mark.parametrize(
    ("claim", "task", "one", "other", "holds"),
    [
        ("GaLore is robust**: holds", "unseen", "galore-r4", "full", lambda of: of.is_within(0.03)),
        ("ten points below full", "unseen", "bn_head", "full", lambda of: of.mean < -0.1),
        ("**BN + head is far below", "shift", "bn_head", "full", lambda of: of.mean < -0.1),
        ("above the head alone", "shift", "head", "bn_head", lambda of: of.is_below),
    ],
)
def test_the_papers_conclusions_hold_as_its_page_says(claim, task, one, other, holds):
    """Of LoRA the test above says it."""
    assert claim in " ".join((ROOT / "docs" / "paper.md").read_text().split())
    found = compared(task, one, other)
    assert found
    assert all(map(holds, found.values()))


def test_in_the_gates_22_steps_the_head_is_above_bn_head_on_most_networks():
    page = " ".join((ROOT / "docs" / "paper.md").read_text().split())
    assert "the two stand the other way round on most networks" in page
    (current,) = (ROOT / "baselines").glob("*/current.txt")
    line = r"^shift/(head|bn_head)/(\w+) accuracy ([\d.]+)"
    found = {
        (method, network): float(accuracy)
        for method, network, accuracy in re.findall(line, current.read_text(), re.MULTILINE)
    }
    networks = [network for method, network in found if method == "head"]
    above = [one for one in networks if found["head", one] > found["bn_head", one]]
    assert 1 < len(networks) / 2 < len(above) < len(networks)


def test_what_the_rules_say_of_memory_holds_on_every_network():
    assert "**DoRA takes more memory than LoRA**" in PAGE
    assert "**Where memory decides, take LoRA with" in PAGE
    found, text = rows("memory"), " ".join(PAGE.split())
    assert all(float(dora) > float(lora) for *_, lora, dora, _ in found)
    plain, lean = ({row[0]: float(row[at]) for row in found if row[1] == "8"} for at in (3, 4))
    assert f"it takes {min(lean.values()):.2f} to {max(lean.values()):.2f} of full" in text
    large = f"{plain.pop('resnet18'):.2f} on resnet18"
    assert f"it takes {min(plain.values()):.2f} to {max(plain.values()):.2f}, and {large}" in text
    planned = {row[0]: (float(row[6]), float(row[4])) for row in found if row[6]}
    shares = [share for share, _ in planned.values()]
    assert f"on one image in {min(shares):.2f} to {max(shares):.2f} of it" in text
    assert [name for name, (one, other) in planned.items() if one < other] == ["resnet18"]
    assert all(half.startswith("lora-r4") for _, _, half, *_ in rows("unseen"))


def test_the_studied_networks_are_those_that_the_page_names():
    said = "The scores behind the first two are of ([^.]+); on new classes also of ([^.]+)\\."
    (named,) = re.findall(said, " ".join(PAGE.split()))
    both, more = (set(re.split(", | and ", names)) for names in named)
    studies = read_evidence().studies
    assert (both, both | more) == (studies["shift"].keys(), studies["unseen"].keys())
    assert all({row[0] for row in rows(task)} == studies[task].keys() for task in studies)
