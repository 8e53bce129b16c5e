"""What others print of memory that PyTorch keeps for frozen layers, beside what is measured.

Each script of claims/ states its setting, prints its numbers (pytest -s shows them), and leaves
them in `found`. "Today" is PyTorch as it is, "lean" with `peft_regress.lean`.
"""

import runpy
from pathlib import Path

import pytest

PAGE = " ".join((Path(__file__).parents[1] / "docs" / "paper.md").read_text().split())


def measured(name):
    return runpy.run_path(str(Path(__file__).with_name("claims") / f"{name}.py"))


def test_tinytls_factor_is_lost_in_pytorch_and_most_of_it_is_back():
    found = measured("tinytl")["found"]
    assert found["today"] == pytest.approx(1.03, abs=0.005)
    assert found["lean"] == pytest.approx(4.5, abs=0.05)
    assert found["least"] == pytest.approx(6.1, abs=0.1)
    said = f"is {found['today']:.2f} on mobilenet_v2 today, and {found['lean']:.1f} with `lean`"
    assert said in PAGE


def test_freezing_convolutions_saves_nothing_and_lean_what_memsave_prints():
    found = measured("memsave")["found"]
    assert found["today"] == 1
    printed = found["share kept, printed"]
    assert found["lean"] == pytest.approx(printed, abs=0.02)
    assert f"memsave_torch keeps {printed:.2f} of ResNet-101's" in PAGE
    assert f"PyTorch all, `lean` {found['lean']:.2f}" in PAGE


def test_the_activations_of_full_fine_tuning_are_those_of_peft_2196():
    script = measured("peft_2196")
    found = script["found"]
    assert script["model"].get_nb_trainable_parameters() == (317_772, 23_827_853)
    assert found["full"] == pytest.approx(found["printed"], abs=0.2)
    # Twice as many, as printed of LoRA, are those of DoRA today.
    assert found["LoRA, train"] == pytest.approx(found["full"], rel=0.02)
    assert found["lean, train"] < found["LoRA, train"]
    assert found["lean, eval"] < 0.5 * found["LoRA, eval"]
    assert f"LoRA adds {100 * (found['LoRA, train'] / found['full'] - 1):.0f} %" in PAGE
