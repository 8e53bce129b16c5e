"""What the worker says of an adapter: it is called in this process, with the installed peft."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from saved_adapters import edit_configuration, save_adapter, save_lora, write_nets

from peft_regress.errors import InputError, UnknownNameError
from peft_regress.upgrades.compat import base_model
from peft_regress.upgrades.compat.judging import judge, problem_of_reference
from peft_regress.upgrades.compat.loading import Loader
from peft_regress.upgrades.compat.releases import BaseModel, LoadAdapter, Seen

pytestmark = pytest.mark.filterwarnings("ignore")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    return write_nets(tmp_path_factory.mktemp("nets"))


@pytest.fixture(scope="module")
def loader():
    return Loader()


@pytest.fixture(scope="module")
def make(loader, nets):
    def call(name="small_nets:make", **inputs):
        chosen = inputs or {"inputs": "small_nets:inputs"}
        return loader.make_base(BaseModel(name=name, folder=str(nets), **chosen))

    return call


@pytest.fixture
def load_all(loader):
    """Load an adapter on the base that was made last."""
    base = BaseModel(name="", folder="")
    return lambda folder: loader.load(LoadAdapter(base=base, adapter=str(folder)))


@pytest.fixture
def load(make, load_all):
    base = make()
    return lambda folder: (base, load_all(folder))


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    return save_lora(tmp_path_factory.mktemp("saved") / "lora")


@pytest.fixture
def copy(lora, tmp_path):
    for file in lora.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def verdict_on(load, folder, reference):
    base, adapter = load(reference)
    known = Seen(packages={}, base=base, adapter=adapter)
    return judge(*load(folder), known)


def test_a_base_is_seeded_and_its_digest_tells_weights_apart(make):
    first, again, other = make(), make(), make("small_nets:other")
    assert first == again
    assert first.weights != other.weights
    assert first.inputs == other.inputs
    assert [len(row) for row in first.outputs] == [8]


def test_inputs_are_drawn_by_shape_or_given_by_the_model_or_the_catalogue(make):
    drawn = make(shape=[3, 6])
    assert [len(row) for row in drawn.outputs] == [12]
    own = make("small_nets:Asking", inputs=None)
    assert [len(row) for row in own.outputs] == [8]  # the index is no floating-point tensor
    known = make("shufflenet_v2_x0_5", inputs=None)
    assert [len(row) for row in known.outputs] == [40]


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        (
            "small_nets:make",
            {"inputs": None},
            "no inputs are known.*--shape 4,3,32,32, or --inputs",
        ),
        ("small_nets:broken", {}, r"small_nets:broken raised RuntimeError: no weights here"),
        ("small_nets:wrong", {}, "returned int, not a module"),
        ("small_nets:absent", {}, "unknown name in module small_nets 'absent'"),
        ("small_nets:make", {"shape": [3, 5]}, "with its inputs raised RuntimeError"),
        ("small_nets:make", {"inputs": "small_nets:broken"}, "the inputs small_nets:broken raised"),
        ("small_nets:Endless", {"inputs": None}, "numbers that are NaN or infinite"),
        ("resnet17", {"inputs": None}, "unknown architecture 'resnet17'"),
        ("small_nets:counted", {}, "has other weights each time it is called"),
        ("small_nets:scaled", {}, "computes something else each time it is called"),
        ("small_nets:adapted", {}, "has an adapter already"),
        ("small_nets:drawing", {}, "something else when it runs again.*random numbers"),
    ],
)
def test_a_base_that_cannot_be_made_is_one_line(make, name, inputs, message):
    with pytest.raises((InputError, UnknownNameError), match=message):
        make(name, **inputs)


def test_a_model_that_writes_into_its_inputs_gets_copies(make, load_all, lora):
    plain = make()
    made = make("small_nets:writing")
    assert (made.weights, made.inputs) == (plain.weights, plain.inputs)
    adapter = load_all(lora)
    assert adapter.merged == [pytest.approx(adapter.outputs[0], rel=1e-4)]


@pytest.mark.parametrize("name", ["counted_late", "kept"])
def test_a_base_that_changes_later_is_no_refusal_of_the_library(make, load_all, lora, name):
    make(f"small_nets:{name}")
    with pytest.raises(InputError, match="has other weights each time it is called"):
        load_all(lora)


def test_an_output_that_is_too_large_is_refused(make, monkeypatch):
    monkeypatch.setattr(base_model, "_MOST_NUMBERS", 7)
    with pytest.raises(InputError, match="returns 8 numbers, and 7 are compared at most"):
        make(shape=[2, 6])


def test_inputs_may_be_a_mapping_that_is_no_tree_to_torch(make, nets):
    (nets / "more_nets.py").write_text(
        "from collections import UserDict\nimport torch\n"
        "from small_nets import Asking\n"
        "def inputs():\n    return UserDict(x=torch.ones(2, 6, dtype=torch.float64))\n"
    )
    assert [len(row) for row in make("more_nets:Asking", inputs="more_nets:inputs").outputs] == [8]


def test_an_adapter_loads_merges_and_trains(load, lora):
    base, adapter = load(lora)
    assert (adapter.refusal, adapter.merge_problem, adapter.training_problem) == ("", "", "")
    assert adapter.outputs != base.outputs
    assert adapter.merged == [pytest.approx(adapter.outputs[0], rel=1e-4)]
    assert len(adapter.trainable) == 4
    assert adapter.trainable_for_inference == []
    assert not (adapter.missing_keys + adapter.unexpected_keys + adapter.altered_keys)
    assert not adapter.changed_fields
    assert "use_dora" in adapter.default_fields
    assert "target_modules" not in adapter.default_fields
    assert verdict_on(load, lora, lora).verdict == "same"


def test_a_method_that_the_library_lacks_is_named(load, copy):
    edit_configuration(copy, peft_type="FUTURE")
    _, adapter = load(copy)
    assert adapter.refusal.startswith("peft 0")
    assert adapter.refusal.endswith("has no method FUTURE")


def test_a_field_that_the_library_does_not_know_is_found(load, lora, copy):
    edit_configuration(copy, future=3, old=None)
    assert load(copy)[1].unknown_fields == ["future"]
    found = verdict_on(load, copy, lora)
    assert (found.verdict, found.details) == ("loads_otherwise", ("ignores the settings future",))


def test_what_is_refused_is_loaded_without_unknown_fields(make, load_all, lora, copy, monkeypatch):
    import peft

    original = peft.PeftModel.from_pretrained

    def refusing(model, folder, **options):
        if "future" in json.loads((Path(folder) / "adapter_config.json").read_bytes()):
            raise TypeError("unexpected keyword argument 'future'")
        return original(model, folder, **options)

    # As before 0.14.
    monkeypatch.setattr(peft.PeftModel, "from_pretrained", refusing)
    edit_configuration(copy, future=3)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    make()
    found = load_all(copy)
    assert "keyword argument 'future'" in found.refusal
    assert found.without.outputs == load_all(lora).outputs
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def test_lacking_and_superfluous_tensors_are_named(load, lora, copy):
    tensors = load_file(copy / WEIGHTS)
    lacking = next(name for name in tensors if "lora_B" in name)
    tensors["base_model.model.9.lora_A.weight"] = tensors.pop(lacking)
    save_file(tensors, copy / WEIGHTS)
    _, adapter = load(copy)
    assert adapter.missing_keys == [lacking]
    assert adapter.unexpected_keys == ["base_model.model.9.lora_A.weight"]
    assert adapter.foreign_keys == adapter.unexpected_keys
    assert verdict_on(load, copy, lora).verdict == "other_output"


def test_drawn_tensors_that_are_saved_and_not_read_are_no_sign_of_another_base(
    load, tmp_path, monkeypatch
):
    import peft

    original = peft.PeftModel.load_adapter

    def drawing(self, *arguments, **options):
        result = original(self, *arguments, **options)
        result.unexpected_keys.append("base_model.vera_A")
        return result

    # As 0.11 to 0.20 do.
    monkeypatch.setattr(peft.PeftModel, "load_adapter", drawing)
    folder = save_adapter(tmp_path / "vera", peft.VeraConfig(target_modules=["0"], r=2))
    _, adapter = load(folder)
    assert adapter.unexpected_keys == ["base_model.vera_A"]
    assert problem_of_reference(adapter) == ""


def test_numbers_that_do_not_arrive_are_named(load, lora, monkeypatch):
    import peft
    import torch

    original = peft.PeftModel.load_adapter

    def rounding(self, *arguments, **options):
        result = original(self, *arguments, **options)
        with torch.no_grad():
            self.base_model.model[0].lora_A["default"].weight.mul_(1.5)
        return result

    monkeypatch.setattr(peft.PeftModel, "load_adapter", rounding)
    _, adapter = load(lora)
    assert adapter.altered_keys == ["base_model.model.0.lora_A.weight"]
    assert peft.PeftModel.load_adapter is rounding  # the library is left as it was


def test_an_adapter_that_computes_something_else_each_time_is_another_output(
    load, lora, monkeypatch
):
    import peft
    import torch

    forward = peft.tuners.lora.Linear.forward
    monkeypatch.setattr(
        peft.tuners.lora.Linear, "forward", lambda *given: forward(*given) * (1 + torch.rand(1))
    )
    _, adapter = load(lora)
    assert not adapter.is_steady
    monkeypatch.undo()
    base, known = load(lora)
    reference = Seen(packages={}, base=base, adapter=known)
    found = judge(base, adapter, reference)
    assert found.verdict == "other_output"
    assert found.details[0] == "its output is another one each time it runs"


def test_a_method_that_cannot_merge_says_why(load, tmp_path):
    from peft import LilyConfig

    folder = save_adapter(tmp_path / "lily", LilyConfig(target_modules=["0"], r=2, num_B=2))
    _, adapter = load(folder)
    assert adapter.merged is None
    assert adapter.merge_problem
    assert verdict_on(load, folder, folder).verdict == "same"
