"""`peft-regress cost --runtime executorch`: what the programs of a step ask of a device."""

import json

import pytest
from edge_programs import without_executorch

HEAD = ("cost", "--architecture", "shufflenet_v2_x0_5", "--method", "head", "--resolution", "32")
RUNTIME = ("--runtime", "executorch")


@pytest.mark.slow
@pytest.mark.executorch
def test_the_metrics_of_programs_come_after_those_of_the_step(command):
    code, out, err = command(*HEAD, *RUNTIME, "--format", "json")
    assert (code, err) == (0, "")
    values = {name: m["value"] for name, m in json.loads(out)["metrics"].items()}
    state = values["optimizer_state_bytes"]
    assert values["edge_train_bytes"] == values["edge_train_planned_bytes"] + state
    assert list(values)[-1] == "edge_inference_program_bytes"
    # Weights of 4 bytes are in the file.
    assert values["edge_inference_program_bytes"] > 4 * values["total_params"]


@pytest.mark.slow
@pytest.mark.executorch
def test_what_has_no_program_is_one_line(command):
    arguments = ("--method", "full", "--bn", "train")
    code, out, err = command(*HEAD[:3], *arguments, "--resolution", "64", *RUNTIME)
    assert (code, out) == (2, "")
    assert "full on shufflenet_v2_x0_5 has no program for ExecuTorch: " in err
    assert "running_mean" in err
    assert len(err.splitlines()) == 1


def test_without_executorch_the_error_is_the_command_that_installs_it(command, monkeypatch):
    without_executorch(monkeypatch)
    code, out, err = command(*HEAD, *RUNTIME)
    assert (code, out) == (2, "")
    assert "python -m pip install 'peft-regress[executorch]'" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cost", "--model", "a:b", *RUNTIME), "--runtime does not go with --model"),
        (("cost", "--cases", "a/*", *RUNTIME), "--runtime does not go with --cases"),
        ((*HEAD, "--matrix", "edge"), "name them by --cases GLOB"),
        (("cost", "--cases", "nothing/*", "--matrix", "edge"), "edge/full/"),
    ],
)
def test_a_runtime_goes_with_no_model_of_ones_own_and_a_matrix_is_of_cases(
    command, arguments, message
):
    code, _, err = command(*arguments)
    assert (code, message in err) == (2, True)
