"""docs/choosing.md: its numbers stand in blocks and tables that are made, and its rules hold."""

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
STUDIES = [
    pytest.param(study, id=f"{task}-{network}")
    for task, studies in read_evidence().studies.items()
    for network, study in studies.items()
]


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
    """Return the cells of a table that tools/docs/choices.py made."""
    text = PAGE.split(f"<!-- choices:{table} -->")[1].split("<!-- /")[0].strip()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


@pytest.mark.parametrize("study", STUDIES)
def test_lora_at_rank_4_equals_full_and_the_head_does_not(study):
    """The first two rules, on every network of the study."""
    assert "**LoRA at rank 4 equals full fine-tuning**" in PAGE
    assert "**The head alone is no equal.**" in PAGE
    full = study.methods["full"].final
    margin = Answer.points / 100
    assert difference(study.methods["lora-r4"].final, full).is_within(margin)
    for name in {"head", "bn_head"} & study.methods.keys():
        found = difference(study.methods[name].final, full)
        assert found.mean + found.half < -margin


def test_what_the_rules_say_of_memory_holds_on_every_network():
    assert "**DoRA takes more memory than LoRA**" in PAGE
    assert "**With a batch, LoRA saves hardly any memory on small networks**" in PAGE
    found = rows("memory")
    assert all(float(dora) > float(lora) for _, _, _, lora, _, dora, _ in found)
    batched = {network: float(lora) for network, batch, _, lora, *_ in found if batch == "8"}
    large = batched.pop("resnet18")
    said = f"takes {min(batched.values()):.2f} to {max(batched.values()):.2f} of full"
    text = " ".join(PAGE.split())
    assert said in text
    assert f"and {large:.2f} on resnet18" in text
    assert min(batched.values()) > 0.9


def test_the_studied_networks_are_those_that_the_page_names():
    (named,) = re.findall(r"first two are of one network so far, (\w+)\.", PAGE)
    assert {one for of in read_evidence().studies.values() for one in of} == {named}
