"""docs/methods.md and the tool that writes its table: complete and up to date."""

import dataclasses
import re

import methods as tool
import peft
import peft.optimizers
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from tiny_methods import ALL

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.catalogue.methods import ADAPTERS

PAGE = tool.PAGE.read_text()
LISTED = PAGE.partition("## Where each works")[0]
METHODS = re.findall(r"^\| `([\w-]+)`", LISTED, re.MULTILINE)


def _on_page(name):
    start, end = f"<!-- methods:{name} -->", f"<!-- /methods:{name} -->"
    return PAGE.partition(start)[2].partition(end)[0].strip()


def test_every_method_has_its_row_with_its_ranks_and_says_if_it_is_in_no_matrix():
    assert {method.name.removesuffix("-bf16") for method in ALL} == set(METHODS)
    for method in ALL:
        marked = f"`{method.name}` (no matrix)" in LISTED
        assert marked == (not method.matrices), method.name
        (row,) = re.findall(rf"^\|[^|]*`{method.name}`.*$", LISTED, re.MULTILINE)
        declared = method.at(tool.rank_of(method)).hyperparameters()
        ranks = ", ".join(map(str, method.ranks)) or "none"
        rate = f"{declared['optimizer']}, {declared['learning_rate']:g}"
        if not method.name.endswith("-bf16"):
            assert row.endswith(f"| {ranks} | {rate} |"), method.name


def test_every_type_and_optimizer_of_peft_is_a_method_or_on_the_page():
    """A release that adds a type fails here: try it on a convolution and note its answer."""
    here = {method.config for method in ADAPTERS}
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        assert config.__name__ in here or f"`{kind.value}`" in PAGE, kind.value
    assert [name for name in peft.optimizers.__all__ if f"`{name}`" not in PAGE] == []


def test_every_variant_of_lora_is_a_method_or_on_the_page():
    settings = [method.settings(4) for method in ADAPTERS if method.config == "LoraConfig"]
    variants = {
        field.name
        for field in dataclasses.fields(peft.LoraConfig)
        if field.metadata.get("is_lora_variant")
    }
    flags = {name for one in settings for name in one}
    assert [name for name in variants - flags if f"`{name}`" not in PAGE] == []


def test_every_method_of_a_matrix_has_a_state():
    in_states = set(re.findall(r"`([a-z0-9_-]+)`", _on_page("states")))
    names = {method.name for method in ALL}
    assert in_states & names == {method.name for method in ALL if method.matrices}


def test_accepted_records_have_the_states_of_the_page():
    """Only once every case has a record; until then the page is of an earlier run."""
    records = tool.recorded()
    wanted = {case.id for m in ("default", "extended") for case in matrix_cases(m, task="shift")}
    if wanted <= records.keys():
        assert _on_page("states") == tool.states(records)
