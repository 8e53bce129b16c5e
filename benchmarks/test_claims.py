"""What others print of memory that PyTorch keeps for frozen layers, beside what is measured.

Each script of claims/ states its setting, prints its numbers (pytest -s shows them), and leaves
them in `found`. "Today" is PyTorch as it is, "lean" with `peft_regress.lean`.
"""

import runpy
from pathlib import Path

import pytest


def measured(name):
    return runpy.run_path(str(Path(__file__).with_name("claims") / f"{name}.py"))


def test_tinytls_factor_is_lost_in_pytorch_and_most_of_it_is_back():
    found = measured("tinytl")["found"]
    assert found["today"] == pytest.approx(1.03, abs=0.005)
    assert found["lean"] == pytest.approx(4.5, abs=0.05)
    assert found["least"] == pytest.approx(6.1, abs=0.1)


def test_freezing_convolutions_saves_nothing_and_lean_what_memsave_prints():
    found = measured("memsave")["found"]
    assert found["today"] == 1
    assert found["lean"] == pytest.approx(found["share kept, printed"], abs=0.02)


def test_the_activations_of_full_fine_tuning_are_those_of_peft_2196():
    script = measured("peft_2196")
    found = script["found"]
    assert script["model"].get_nb_trainable_parameters() == (317_772, 23_827_853)
    assert found["full"] == pytest.approx(found["printed"], abs=0.2)
    # Twice as many, as printed of LoRA, are those of DoRA today.
    assert found["LoRA, train"] == pytest.approx(found["full"], rel=0.02)
    assert found["lean, train"] < found["LoRA, train"]
    assert found["lean, eval"] < 0.5 * found["LoRA, eval"]
