"""What methods are called and declare: names, matrices, and all that is set by hand."""

import json
from dataclasses import replace

import pytest
from tiny_methods import ALL, each, method_named

from peft_regress.catalogue.methods import LORA


@each(*ALL)
def test_definition_is_plain_json_with_a_type_only_where_it_is_not_float32(method):
    declared = method.hyperparameters()
    assert json.loads(json.dumps(declared)) == declared
    assert declared.get("base_dtype", "float32") == method.base_dtype
    assert not method.ranks or method.at(1).hyperparameters() != method.at(2).hyperparameters()
    assert ("base_dtype" in declared) == (method.base_dtype != "float32")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config", "AnotherConfig"),
        ("settings", lambda rank: {"r": rank, "lora_alpha": 2 * rank}),
        ("targets", method_named("loha").targets),
        ("optimizer_settings", {"optimizer": "SGD"}),
        ("base_dtype", "bfloat16"),
    ],
)
def test_whatever_is_set_by_hand_in_an_adapter_is_in_its_definition(field, value):
    assert replace(LORA, **{field: value}).at(4).hyperparameters() != LORA.at(4).hyperparameters()


# On bfloat16 their costs are to be had, and no baseline.
COSTS_ALONE = {"bitfit-bf16", "norm-bf16", "galore-bf16", "loha-tucker-bf16", "lokr-tucker-bf16"}


def test_the_default_matrix_has_eight_methods_and_the_extended_one_the_others():
    default = [method for method in ALL if "default" in method.matrices]
    ranks = dict.fromkeys(("lora", "dora", "galore"), (1, 4, 16))
    ranks |= {"lora-dropout": (4,), "lora-lean": (4,)}
    assert {m.name for m in default} == {"full", "head", "bn_head", *ranks}
    for method in default:
        assert method.matrices == ("default",)
        assert method.ranks == ranks.get(method.name, ())
    for method in (method for method in ALL if method not in default):
        assert method.matrices == (() if method.name in COSTS_ALONE else ("extended",))
        assert method.ranks in ({(96,)} if method.name.endswith("-grouped") else {(), (4,)})
