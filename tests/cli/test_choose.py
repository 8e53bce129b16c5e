"""`peft-regress choose`: what fits, how it is ranked, and that its costs are those of `cost`."""

import json
import re

import msgspec
import pytest
import torch
from edge_programs import without_executorch
from tiny_architecture import TinyArchitecture

from peft_regress import lean, registry
from peft_regress.catalogue.evidence import Evidence, Study, Trained
from peft_regress.choosing.study import Trainer
from peft_regress.cli import choose
from peft_regress.cost.profile import loss_of_images, random_images
from peft_regress.errors import NonFiniteLossError
from peft_regress.measure.costs import CostSettings, adapted_model
from peft_regress.measure.edge.package import INSTALL
from peft_regress.measure.edge.program import training_program
from peft_regress.project.devices import load_devices, room

DEVICES = {
    "raspberry-pi-zero-2-w": "head", "raspberry-pi-3-b-plus": "head", "raspberry-pi-4-2gb": "dora",
    "raspberry-pi-5-8gb": "head", "jetson-orin-nano": "head",
}  # fmt: skip
"""With the method to try there."""
PHASES = ("forward", "backward", "optimizer")
GATES = """
import torch
from torch import nn
from peft_regress import FineTune

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))

class Labelled(Net):
    def forward(self, x):
        return super().forward(x.float())

def load():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    inputs = torch.rand(60, 6, generator=generator) + labels[:, None]
    return (inputs, labels), (inputs, labels)

GATES = [
    FineTune("toy/lora-r2/net", model=Net, data=load, adapter="lora-r2", also_train=["2"],
             batch=4, steps=6, seeds=4),
]
"""


@pytest.fixture
def tiny(clean_registry):
    registry.add("architecture", TinyArchitecture())


TABLE = {
    "title": "x", "memory": "1 GiB", "reserve": "100 MiB", "storage": "9 kB", "compute": "x",
    "source": "x",
}  # fmt: skip
TOML = "".join(f'{name} = "{text}"\n' for name, text in TABLE.items())
SETTINGS = '[tool.peft_regress]\ncases = ["toy_gates:GATES"]\ndevices = "devices.toml"\n'
FILES = {"pyproject.toml": SETTINGS, "devices.toml": f"[lab]\n{TOML}", "toy_gates.py": GATES}


@pytest.fixture
def toy(project):
    project.write(FILES)


def chosen(command, *arguments):
    code, out, err = command("choose", *arguments, "--format", "json")
    found = json.loads(out)
    assert found["exit_code"] == code, err
    return found


def by_name(found):
    return {one["name"]: one for one in found["candidates"]}


OWN = ("--case", "toy/lora-r2/net", "--method", "head")
TRAINED = (*OWN, "--memory", "1GiB", "--train")
TINY = ("--architecture", "tiny", "--batch", "4", "--resolution", "32", "--method", "lora")


@pytest.mark.usefixtures("tiny")
def test_a_limit_says_what_lacks_and_which_batch_fits(command):
    free = by_name(chosen(command, *TINY, "--memory", "1GiB"))
    assert list(free) == ["full", "lora-r1", "lora-r2", "lora-r4", "lora-r8"]
    memory = {name: one["costs"]["memory"] for name, one in free.items()}
    limit = memory["lora-r1"]
    found = chosen(command, *TINY, "--memory", f"{limit}B")
    tight = by_name(found)
    assert tight["lora-r1"]["lacks"] == {}
    assert tight["lora-r1"]["largest_batch"] == 4
    assert tight["lora-r4"]["lacks"] == {"memory": memory["lora-r4"] - limit}
    assert tight["lora-r4"]["largest_batch"] < 4
    assert tight["lora-r4"]["position"] is None
    assert found["recommended"] in {"full", "lora-r1"}
    code, out, _ = command("choose", *TINY, "--memory", f"{limit}B")
    assert code == 0
    assert f"({memory['lora-r4'] - limit:,}) of memory" in out
    assert "full is the cheapest" in out or "lora-r1 is the cheapest" in out
    assert "No advice on accuracy: there is no study of this network and task" in out


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("limit", "cost"), [("--ship", "ship"), ("--update", "update"), ("--storage", "storage")]
)
def test_each_limit_is_of_its_own_cost(command, limit, cost):
    free = by_name(chosen(command, *TINY, "--memory", "1GiB"))
    most = free["lora-r1"]["costs"][cost]
    unit = "FLOP" if cost == "update" else "B"
    tight = by_name(chosen(command, *TINY, limit, f"{most}{unit}"))
    for name, one in free.items():
        over = one["costs"][cost] - most
        assert tight[name]["lacks"] == ({cost: over} if over > 0 else {})
    if cost == "update":
        assert tight["lora-r1"]["largest_batch"] == 4


@pytest.mark.usefixtures("tiny")
def test_what_takes_notably_less_with_lean_counts_with_it_and_the_line_is_printed(command):
    method = registry.get("method", "lora").at(4, heads=("head",))
    model = adapted_model(method, TinyArchitecture(), CostSettings())
    images = (random_images((n, 3, 32, 32), 10, "cross-entropy", torch.float32) for n in (4, 37))
    four, many = (lean(model, one, loss=loss_of_images(10)) for one in images)
    found = by_name(chosen(command, *TINY, "--memory", "1GiB"))["lora-r4"]
    assert (found["plain_memory"], found["costs"]["memory"]) == (
        four.plain_peak_bytes,
        four.peak_bytes,
    )
    assert four.peak_bytes < 0.9 * four.plain_peak_bytes
    for most, batch in ((many.peak_bytes, 37), (many.peak_bytes - 1, 36)):
        tight = by_name(chosen(command, *TINY, "--memory", f"{most}B"))
        assert tight["lora-r4"]["largest_batch"] == batch
    _, out, _ = command("choose", *TINY, "--memory", "1GiB")
    assert "To add, for what has a memory with no lean:" in out
    assert "lean(model, batch, loss=loss)" in out
    _, out, _ = command("choose", *TINY[:-1], "head", "--memory", "1GiB")
    assert "lean" not in out


@pytest.mark.usefixtures("tiny")
def test_on_a_device_a_step_needs_room_for_what_its_convolutions_copy(command):
    """Not under a limit of one's own, which is for the tensors alone."""
    device = ("--device", "raspberry-pi-3-b-plus")
    limit = room({one.name: one for one in load_devices()}[device[1]])

    def head_at(batch, *limits):
        arguments = (*TINY[:3], str(batch), *TINY[4:-1], "head", *limits)
        return arguments, by_name(chosen(command, *arguments))["head"]

    largest = head_at(4, *device)[1]["largest_batch"]
    _, last = head_at(largest, *device)
    assert last["lacks"] == {}
    arguments, over = head_at(largest + 1, *device)
    assert over["lacks"] == {"memory": over["room"] - limit}
    assert over["costs"]["memory"] < limit
    _, out, _ = command("choose", *arguments)
    assert "of memory, to copy images" in out
    _, own = head_at(largest + 1, "--memory", f"{over['costs']['memory']}B")
    assert (own["lacks"], own["largest_batch"]) == ({}, largest + 1)


@pytest.mark.usefixtures("tiny")
def test_nothing_fits_is_exit_1_with_what_would(command):
    code, out, _ = command("choose", *TINY, "--device", "stm32n6")
    assert code == 1
    assert "stm32n6: nothing fits" in out
    assert "--runtime executorch" in out
    code, out, _ = command("choose", *TINY, "--memory", "60kB")
    assert code == 1
    assert re.search(r"What would fit:\n  \S+ at a batch of 1\n", out)


@pytest.mark.usefixtures("tiny")
def test_without_the_extra_the_runtime_is_one_line_with_the_command(command, monkeypatch):
    without_executorch(monkeypatch)
    code, out, err = command("choose", *TINY, "--memory", "1GiB", "--runtime", "executorch")
    assert (code, out) == (2, "")
    assert err == f"error: executorch is not installed: {INSTALL}\n"


@pytest.mark.executorch
@pytest.mark.usefixtures("tiny")
def test_in_executorch_memory_is_the_plan_and_the_state(command):
    typed = ["--architecture", "tiny", "--resolution", "32", "--memory", "1GiB"]
    typed += ["--method", "galore", "--runtime", "executorch"]
    found = chosen(command, *typed)
    full = by_name(found)["full"]
    cost = priced(command, "full", "tiny", batch=8, resolution=32)
    batch = {"inputs": torch.rand(8, 3, 32, 32), "labels": torch.arange(8)}
    model = TinyArchitecture().build(num_classes=10, seed=0)
    program = training_program(model, batch, loss=loss_of_images(10))
    assert full["costs"]["memory"] == program.planned_bytes + cost["optimizer_state_bytes"]
    assert full["costs"]["update"] == sum(cost[f"{part}_flops"] for part in PHASES)
    assert full["costs"]["storage"] == len(program.content)
    assert full["largest_batch"] is None
    assert "optimizer that ExecuTorch lacks" in found["refused"]["galore"]


@pytest.mark.usefixtures("tiny")
def test_what_there_is_no_time_for_is_exit_3(command, monkeypatch):
    from peft_regress.choosing import candidates

    clock = iter(range(0, 10**6, 60))
    monkeypatch.setattr(candidates.time, "monotonic", lambda: next(clock))
    found = chosen(command, *TINY, "--memory", "1GiB", "--time-limit", "90")
    assert found["exit_code"] == 3
    assert found["not_tried"] == ["lora"]
    assert found["recommended"] == "full"


def a_study(**accuracies):
    """Return evidence of a tiny network that has learned."""
    trained = {
        name.replace("_", "-"): Trained(rate=2.0, early=(0.2, 0.2), final=scores)
        for name, scores in accuracies.items()
    }
    study = Study(
        images="tiny images", batch=16, steps=40, chance=0.1, untrained=0.11,
        curve={20: 0.70, 40: 0.895, 80: 0.9}, methods=trained,
    )  # fmt: skip
    return Evidence(packages={}, studies={"unseen": {"tiny": study}})


@pytest.mark.usefixtures("tiny")
def test_evidence_ranks_and_each_line_says_why(command, monkeypatch):
    evidence = a_study(
        full=(0.90, 0.92, 0.91, 0.91), lora_r1=(0.70, 0.72, 0.71, 0.70),
        lora_r2=(0.90, 0.91, 0.90, 0.90), lora_r4=(0.99, 0.70, 0.95, 0.80),
    )  # fmt: skip
    monkeypatch.setattr(choose, "read_evidence", lambda: evidence)
    found = chosen(command, *TINY, "--memory", "1GiB")
    costs = {name: one["costs"]["update"] for name, one in by_name(found).items()}
    equal = sorted(("full", "lora-r2"), key=costs.get)
    assert found["recommended"] == equal[0]
    positions = sorted(by_name(found).values(), key=lambda one: one["position"])
    assert [one["name"] for one in positions] == [*equal, "lora-r4", "lora-r1", "lora-r8"]
    assert by_name(found)["lora-r2"]["to_full"]["mean"] == pytest.approx(-0.0075)
    _, out, _ = command("choose", *TINY, "--memory", "1GiB")
    told = " ".join(out.split())
    assert f"equals {equal[1]} within 3 points, and takes less" in told
    assert "Cannot tell whether as good within 3 points, add seeds: lora-r4" in told
    assert "Scores: tiny images, batch 16, 40 steps, 4 seeds" in told
    assert "70.0 % after 20, 89.5 % after 40, 90.0 % after 80" in told
    lines = out.partition("What fits, by")[0].splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith("    ")}
    words = {"full": "best", "lora-r1": "below", "lora-r2": "equal", "lora-r4": "cannot tell"}
    assert {name: rows[name].endswith(word) for name, word in words.items()} == dict.fromkeys(
        words, True
    )
    assert "-20.3 +- 0.8" in rows["lora-r1"]
    narrow = chosen(command, *TINY, "--memory", "1GiB", "--margin", "0.5")
    assert narrow["recommended"] == "full"


@pytest.mark.usefixtures("tiny")
def test_a_study_that_has_not_learned_gives_no_advice(command, monkeypatch):
    evidence = a_study(full=(0.6, 0.6, 0.6), lora_r1=(0.2, 0.2, 0.2))
    young = msgspec.structs.replace(evidence.studies["unseen"]["tiny"], curve={20: 0.4, 40: 0.6})
    evidence.studies["unseen"]["tiny"] = young
    monkeypatch.setattr(choose, "read_evidence", lambda: evidence)
    found = chosen(command, *TINY, "--memory", "1GiB")
    costs = {name: one["costs"]["update"] for name, one in by_name(found).items()}
    assert found["recommended"] == min(costs, key=costs.get)
    assert found["no_advice_on_accuracy"] == "full fine-tuning still learns after 20 steps"
    assert {len(one["scores"]) for one in found["candidates"]} == {0}


@pytest.mark.usefixtures("toy")
def test_a_device_has_room_for_a_method_by_what_it_imports_and_for_its_weights(command):
    found = chosen(command, *OWN, "--device", "lab")
    assert found["recommended"] == "head"
    (lab,) = [one for one in load_devices({"lab": TABLE}) if one.name == "lab"]
    code, out, _ = command("choose", *OWN, "--device", "lab")
    assert code == 0
    for runtime in ("eager", "peft"):
        assert f"{room(lab, runtime) / 2**20:.1f} MiB" in out


@pytest.mark.usefixtures("toy")
def test_an_own_case_costs_what_cost_says_and_is_trained_on_its_data(command):
    found = chosen(command, *TRAINED)
    head, full = by_name(found)["head"], by_name(found)["full"]
    assert len(full["scores"]) == 5
    assert len(head["scores"]) in {0, 3, 4, 5}
    study = found["study"]
    assert study["chance"] == pytest.approx(1 / 3)
    steps = sorted(map(int, study["curve"]))
    assert steps == [6 * 2**power for power in range(len(steps))]
    assert study["steps"] == steps[-2]
    assert f'"toy/{found["recommended"]}/net"' in found["code"]
    assert f"adapter='{found['recommended']}'" in found["code"]
    assert f"steps={study['steps']}" in found["code"] or study["steps"] == 30
    _, out, _ = command("cost", "--case", "toy/lora-r2/net", "--format", "json")
    (cost,) = json.loads(out)["cases"]
    again = by_name(chosen(command, *OWN[:3], "lora", "--memory", "1GiB"))["lora-r2"]
    metrics = {name: metric["value"] for name, metric in cost["metrics"].items()}
    assert again["costs"]["ship"] == metrics["adapter_bytes"]
    peaks = metrics["peak_bytes"], metrics["first_step_peak_bytes"]
    assert again["costs"]["memory"] == max(peaks)


@pytest.mark.usefixtures("toy")
def test_a_training_that_stays_at_chance_is_refused(command):
    """One step leaves a network where it was; so do labels that no input tells."""
    found = chosen(command, *TRAINED, "--steps", "1")
    assert found["exit_code"] == 3
    assert found["code"] is None
    (why,) = found["not_trained"].values()
    assert why == found["no_advice_on_accuracy"]
    assert "where guessing gives 33.3" in why or "still learns" in why
    code, out, _ = command("choose", *TRAINED, "--steps", "1")
    assert code == 3
    assert "head is the cheapest" in out
    assert "take head" not in out


@pytest.mark.usefixtures("toy")
def test_what_a_training_raises_is_a_reason_and_no_traceback(command, monkeypatch):
    def points(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Trainer, "points", points)
    found = chosen(command, *TRAINED)
    assert found["exit_code"] == 3
    assert list(found["not_trained"]) == ["full"]
    assert found["not_trained"]["full"].startswith("RuntimeError: out of luck")
    assert found["code"] is None


@pytest.mark.usefixtures("toy")
def test_a_rate_at_which_the_loss_is_not_finite_is_not_taken(command, monkeypatch):
    of_package = Trainer.points

    def points(self, name, *, rate=1.0, **options):
        if name == "head" or rate > 1:
            raise NonFiniteLossError(step=1, loss=float("nan"), seed=0)
        return of_package(self, name, rate=rate, **options)

    monkeypatch.setattr(Trainer, "points", points)
    found = chosen(command, *TRAINED)
    assert found["study"]["methods"]["full"]["rate"] <= 1
    assert found["not_trained"] == {"head": "its loss is not finite at any rate"}


@pytest.mark.usefixtures("toy")
def test_a_model_of_ones_own_has_its_last_linear_layer_as_its_head(command):
    model = ["--model", "toy_gates:Labelled", "--input", "6", "--memory", "1GiB"]
    found = chosen(command, *model, "--method", "head")
    assert "the head 2, a step on 8 of 6" in found["subject"]
    head = by_name(found)["head"]
    assert head["costs"]["ship"] == 4 * (16 * 3 + 3)
    forward = 2 * 8 * (6 * 16 + 16 * 3)
    backward = 2 * 8 * 16 * 3
    assert forward + backward < head["costs"]["update"] < 1.5 * (forward + backward)
    other = chosen(command, *model, "--method", "head", "--head", "0")
    assert by_name(other)["head"]["costs"]["ship"] == 4 * (6 * 16 + 16)


def priced(command, name, architecture, *, batch, resolution):
    method, _, rank = name.partition("-r")
    typed = ["--architecture", architecture, "--method", method, "--batch", batch]
    typed += ["--resolution", resolution, *(["--rank", rank] if rank else [])]
    _, out, _ = command("cost", *typed, "--format", "json")
    return {name: metric["value"] for name, metric in json.loads(out)["metrics"].items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["shufflenet_v2_x0_5", pytest.param("mobilenet_v2", marks=pytest.mark.nightly)]
)
@pytest.mark.parametrize(
    ("batch", "resolution"), [(1, 96), pytest.param(32, 224, marks=pytest.mark.nightly)]
)
def test_for_each_device_the_answer_is_what_cost_says(command, architecture, batch, resolution):
    at = ["--architecture", architecture, "--batch", batch, "--resolution", resolution]

    def costs_of(name):
        metrics = priced(command, name, architecture, batch=batch, resolution=resolution)
        return {
            "memory": max(metrics["peak_bytes"], metrics["first_step_peak_bytes"]),
            "update": sum(metrics[f"{part}_flops"] for part in PHASES),
            "ship": metrics["adapter_bytes"],
            "storage": metrics["peak_param_bytes"] + metrics["peak_buffer_bytes"],
        }

    expected = {name: costs_of(name) for name in ("full", "head", "dora-r1", "dora-r16")}
    devices = {one.name: one for one in load_devices()}
    for device, method in DEVICES.items():
        found = by_name(chosen(command, *at, "--device", device, "--method", method))
        for name in expected.keys() & found.keys():
            left = room(devices[device], "peft" if name.startswith("dora") else "eager")
            costs, plain = found[name]["costs"], found[name]["plain_memory"]
            assert found[name]["room"] >= costs["memory"]
            lacks = max(found[name]["room"] - left, 0)
            assert costs["memory"] <= (plain or costs["memory"])
            assert costs | {"memory": plain or costs["memory"]} == expected[name], (device, name)
            if devices[device].storage_bytes is None:
                assert found[name]["lacks"] == ({"memory": lacks} if lacks else {}), (device, name)
