"""docs/methods.md and the tool that writes its tables: complete and up to date."""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any, Literal, get_args, get_type_hints

import methods as tool
import peft
import peft.optimizers
import pytest
from builders import make_record
from method_notes import METHODS, OTHER_TYPES, TYPE_ARGUMENTS, VARIANTS
from page_tables import put
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from tiny_methods import ALL

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.catalogue.methods import ADAPTERS
from peft_regress.runs.schema import Failure

PAGE = tool.PAGE.read_text()
RELEASE = re.search(r"every other adapter type of peft (\S+),", PAGE)[1]
of_the_pages_release = pytest.mark.skipif(
    peft.__version__ != RELEASE, reason=f"the page quotes peft {RELEASE}"
)


def _on_page(name: str) -> str:
    """Return a table of the page."""
    start, end = f"<!-- methods:{name} -->", f"<!-- /methods:{name} -->"
    return PAGE.partition(start)[2].partition(end)[0].strip()


# The page


def test_every_method_has_its_notes_and_its_row() -> None:
    names = {method.name.removesuffix("-bf16") for method in ALL}
    assert names == set(METHODS)
    assert _on_page("methods") == tool.methods()


def test_every_type_that_peft_maps_is_a_method_or_has_a_reason() -> None:
    """A release that adds a type fails here: try it on a convolution and note its answer."""
    here = {method.config for method in ADAPTERS}
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items():
        if config.__name__ not in here:
            assert kind.value in OTHER_TYPES, f"{kind.value} ({config.__name__}) is not on the page"
            assert f"`{kind.value}`" in _on_page("others")


def test_no_type_is_both_a_method_and_left_out() -> None:
    here = {method.config for method in ADAPTERS}
    left_out = {PEFT_TYPE_TO_CONFIG_MAPPING[kind].__name__ for kind in OTHER_TYPES if _known(kind)}
    assert not here & left_out
    assert TYPE_ARGUMENTS.keys() <= OTHER_TYPES.keys()


def _known(kind: str) -> bool:
    return kind in {known.value for known in PEFT_TYPE_TO_CONFIG_MAPPING}


def _starts() -> set[str]:
    """Return the starts that `LoraConfig` names, such as `pissa`."""
    options = get_type_hints(peft.LoraConfig)["init_lora_weights"]
    literals = [option for option in get_args(options) if getattr(option, "__origin__", None)]
    return {
        name for option in literals if option.__origin__ is Literal for name in get_args(option)
    }


def test_every_start_and_variant_of_lora_is_a_method_or_has_a_reason() -> None:
    settings = [method.settings(4) for method in ADAPTERS if method.config == "LoraConfig"]
    starts = {str(s["init_lora_weights"]) for s in settings if "init_lora_weights" in s}
    starts |= {name.partition('"')[2].rstrip('"') for name in VARIANTS if '"' in name}
    assert len(_starts()) > 5
    for start in _starts():
        # `pissa_niter_[number of iters]` stands for a number of them.
        stem = start.partition("_[")[0]
        assert any(known.startswith(stem) for known in starts), f"{start} is not on the page"
    flags = {name for s in settings for name in s} | {name.partition("=")[0] for name in VARIANTS}
    variants = {
        field.name
        for field in dataclasses.fields(peft.LoraConfig)
        if field.metadata.get("is_lora_variant")
    }
    assert variants <= flags, f"{variants - flags} are not on the page"


def test_every_optimizer_of_peft_is_on_the_page() -> None:
    for name in peft.optimizers.__all__:
        assert f"`{name}`" in PAGE


@of_the_pages_release
@pytest.mark.parametrize("name", ["others", "variants"])
def test_quoted_answers_are_those_of_peft(name: str) -> None:
    assert _on_page(name) == tool.made(name)


@of_the_pages_release
@pytest.mark.parametrize("method", ["head", pytest.param("lora", marks=pytest.mark.nightly)])
def test_costs_on_the_page_are_those_measured_now(method: str) -> None:
    _check_costs(method, "mobilenet_v2")


@of_the_pages_release
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("method", "architecture"),
    # Every fifth method, on the architectures in turn: each adapter family is in it.
    list(zip(list(METHODS)[4::5], itertools.cycle(tool.ARCHITECTURES))),
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # peft warns about layers; no matter here
def test_costs_of_a_choice_of_methods_are_those_measured_now(
    method: str, architecture: str
) -> None:
    _check_costs(method, architecture)


def _check_costs(method: str, architecture: str) -> None:
    of_architecture = _on_page("costs").partition(f"{architecture}, r = 4")[2]
    row = next(line for line in of_architecture.splitlines() if line.startswith(f"| `{method}` |"))
    assert row == "| " + " | ".join(tool.cost_row(method, architecture)) + " |"


@of_the_pages_release
@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::UserWarning")  # peft warns about layers; no matter here
@pytest.mark.parametrize("name", ["costs", "wide"])
def test_every_row_of_costs_on_the_page_is_that_measured_now(name: str) -> None:
    assert _on_page(name).splitlines() == tool.made(name).splitlines()


def test_every_method_has_a_row_of_costs_on_both_architectures_and_a_state() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| [-\d]", _on_page("costs"), re.MULTILINE)
    assert rows == [*METHODS, *METHODS]
    in_states = re.findall(r"`([a-z0-9_-]+)`", _on_page("states"))
    for method in ALL:
        assert (method.name in in_states) == bool(method.matrices), method.name


def test_the_page_says_which_methods_are_in_no_matrix() -> None:
    for method in ALL:
        marked = f"`{method.name}` (no matrix)" in _on_page("methods")
        assert marked == (not method.matrices), method.name


def test_accepted_records_have_the_states_of_the_page() -> None:
    """Only once every case has a record; until then the page is of an earlier run."""
    records = tool.recorded(None)
    wanted = {case.id for m in ("default", "extended") for case in matrix_cases(m, task="shift")}
    if wanted <= records.keys():
        assert _on_page("states") == tool.states(records)


# The tool


def _records(**others: dict[str, Any]) -> dict[str, Any]:
    """Return a passing record of every case, except for the given methods."""
    return {
        case.id: make_record(case.id, **others.get(case.method, {"invariants": {"frozen": True}}))
        for matrix in ("default", "extended")
        for case in matrix_cases(matrix, task="shift")
    }


def test_methods_of_the_same_states_share_a_row_and_messages_a_number() -> None:
    refused = {"status": "unsupported", "error": Failure(type="ValueError", message="no | way")}
    table = tool.states(
        _records(pissa=refused, olora=refused, full={"invariants": {"moved": False, "own": None}})
    )
    first, *others = [line for line in table.splitlines() if line.startswith("| `")]
    assert first.endswith("| ok | ok | ok | ok |")
    assert "`full`" not in first
    assert others == [
        "| `dora-grouped`, `lora-grouped` | ok | no case | no case | ok |",
        "| `full` |" + " false: `moved` |" * 4,
        "| `olora`, `pissa` |" + " unsupported (1) |" * 4,
    ]
    assert table.endswith("\n1. `ValueError: no | way`")


def test_a_case_without_a_record_is_named_with_the_command_that_makes_it() -> None:
    records = _records()
    del records["shift/hra-r4/resnet18"]
    with pytest.raises(SystemExit, match=r"1 of \d+ .* shift/hra-r4/resnet18\. .*bench-extended"):
        tool.states(records)


def test_a_table_is_put_in_its_place_and_nothing_else_moves() -> None:
    page = "a\n<!-- methods:x -->\nold\n<!-- /methods:x -->\nb\n"
    new = put(page, "methods", "x", "| new \\1 |")
    assert new == "a\n<!-- methods:x -->\n\n| new \\1 |\n\n<!-- /methods:x -->\nb\n"
    assert put(new, "methods", "x", "| new \\1 |") == new
    with pytest.raises(SystemExit, match="must have one place for the table 'y'"):
        put(page, "methods", "y", "")


def test_checking_fails_if_the_page_differs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "made", lambda name, run: _on_page(name))
    assert tool.main(["--check"]) == 0
    monkeypatch.setattr(tool, "made", lambda name, run: "| other |")
    assert tool.main(["--check", "--only", "methods"]) == 1
    assert "+| other |" in capsys.readouterr().out
