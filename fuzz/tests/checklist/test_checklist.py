"""A method on two sides: what a worker computes, and workers that crash, hang or lack it."""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import peft
import pytest

from peft_fuzz.checklist import checklist as checklist_module
from peft_fuzz.checklist import networks
from peft_fuzz.checklist.checklist import ChecklistSettings, checklist
from peft_fuzz.checklist.examining import examined, inspected
from peft_fuzz.checklist.judge import judge
from peft_fuzz.checklist.running import Result, differences
from peft_fuzz.checklist.situations import (
    NETWORKS,
    PARTS,
    Examine,
    Examined,
    Inspect,
    find_method,
    known_methods,
    situations,
)
from peft_regress.errors import InputError

USUAL = "as in the catalogue"
FIELDS = inspected(Inspect(method="lora")).fields or {}


def find(network, *, label=USUAL, dtype="float32", autocast=False, method="lora"):
    fields = inspected(Inspect(method=method)).fields
    (found,) = [
        one
        for one in situations(find_method(method), fields)
        if (one.network, one.label, one.dtype, one.autocast) == (network, label, dtype, autocast)
    ]
    return found


def both(situation, folder, between=lambda: None):
    """Examine a situation in this process: the base, then, after `between`, the branch."""
    base = examined(Examine(situation=situation, folder=str(folder), is_base=True))
    between()
    branch = examined(Examine(situation=situation, folder=str(folder), is_base=False))
    return base, branch, differences(folder)


def test_every_method_of_peft_in_the_catalogue_has_a_checklist_and_no_other():
    known = known_methods()
    assert {"lora", "dora", "lokr", "oft", "ia3", "ln_tuning"} <= known.keys()
    assert not {"full", "galore", "lora-bf16"} & known.keys()


@pytest.mark.parametrize(
    ("name", "message"),
    [("lorra", "Did you mean 'lora'"), ("galore", "not an adapter of peft on a float32 base")],
)
def test_a_method_that_has_no_checklist_says_why(name, message):
    with pytest.raises(InputError, match=message):
        find_method(name)


def test_settings_that_the_base_lacks_are_left_out():
    labels = {one.label for one in situations(find_method("lora"), set(FIELDS) - {"lora_bias"})}
    assert "lora_bias" not in labels
    assert {"rsLoRA", "DoRA", "patterns", USUAL} <= labels


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_has_targets_seeded_weights_and_outputs_of_the_order_of_1(network):
    inputs = networks.batch(find(network))["inputs"]
    one, other = (networks.build(network).eval()(inputs) for _ in range(2))
    assert one.equal(other)
    assert 0.1 < one.abs().max() < 10
    model = networks.build(network)
    assert all(model.get_submodule(target) is not None for target in NETWORKS[network].targets)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equal_code_gives_equal_bits(tmp_path, dtype):
    base, branch, found = both(find("conv2d", dtype=dtype), tmp_path)
    assert {part: one.absolute for part, one in found.items()} == dict.fromkeys(PARTS, 0)
    assert (base.keys, base.losses) == (branch.keys, branch.losses)
    # A half trains nothing.
    assert bool(base.losses) is (dtype == "float32")
    assert base.effect > 0.1
    assert not base.failures
    assert not branch.failures


def scaled_more(original, self, adapter_name, *arguments, **settings):
    original(self, adapter_name, *arguments, **settings)
    self.scaling[adapter_name] *= 1.01


def merged_more_if_safe(original, self, safe_merge=False, adapter_names=None):
    original(self, safe_merge=safe_merge, adapter_names=adapter_names)
    if safe_merge:
        self.get_base_layer().weight.data *= 1.01


def left_merged(original, self, x, *arguments, **settings):
    is_left = self.disable_adapters and self.merged
    return self.base_layer(x) if is_left else original(self, x, *arguments, **settings)


def half_left_on(_, self, enabled):
    self.scaling.update(default=1.0 if enabled else 0.5)


def replace(monkeypatch, owner, name, change):
    """Put a function in place of another, which it gets as its first argument."""
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given, **named: change(original, *given, **named))


WHEN_OFF = {"off", "restored", "off when merged"}


@pytest.mark.parametrize(
    ("name", "change", "parts"),
    [
        ("update_layer", scaled_more, PARTS.keys() - WHEN_OFF),
        ("unmerge", lambda *_: None, {"restored", "off when merged"}),
        ("enable_adapters", half_left_on, WHEN_OFF),
        ("merge", merged_more_if_safe, {"merged safely", "restored", "off when merged"}),
        ("forward", left_merged, {"off when merged"}),
    ],
)
def test_a_fault_of_one_state_is_seen_there(tmp_path, monkeypatch, name, change, parts):
    base, branch, found = both(
        find("linear"),
        tmp_path,
        lambda: replace(monkeypatch, peft.tuners.lora.Linear, name, change),
    )
    assert {part for part, one in found.items() if one.absolute > 1e-4} == parts
    assert (base.losses != branch.losses) is (name == "update_layer")


def test_another_state_dict_is_seen(tmp_path, monkeypatch):
    def renamed(names):
        return {key.replace("lora_A", "lora_a"): value for key, value in names.items()}

    name = "get_peft_model_state_dict"

    def change(original, *arguments, **settings):
        return renamed(original(*arguments, **settings))

    base, branch, found = both(
        find("linear"), tmp_path, lambda: replace(monkeypatch, peft.peft_model, name, change)
    )
    assert base.keys != branch.keys
    assert renamed(base.keys) == branch.keys
    # The file of the base loads, and the file of the branch does not.
    assert found["unmerged"].absolute == 0
    assert found["reloaded"].absolute > 0.01


@pytest.mark.parametrize(
    ("method", "network", "label"),
    [
        ("hira", "conv3d", "rank 2 r"),
        ("oft", "embedding", "constrained"),
        ("hira", "conv2d", USUAL),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_an_adapter_is_filled_until_every_number_type_shows_it(
    tmp_path, method, network, label, dtype
):
    situation = find(network, label=label, dtype=dtype, method=method)
    base, branch, found = both(situation, tmp_path)
    assert base.effect > 0.1 * found["unmerged"].largest_base
    result = Result(situation=situation, base=base, branch=branch, found=found)
    rows = judge([result], [inspected(Inspect(method=method))] * 2).rows
    assert {row.verdict for row in rows if row.about == "outputs"} == {"ok"}


def test_what_peft_refuses_is_a_part_of_the_answer_and_leaves_the_rest(tmp_path):
    folder = tmp_path / "refused"
    folder.mkdir()
    refused = examined(Examine(situation=find("normalization"), folder=str(folder), is_base=True))
    assert refused.failures["adapting"].type == "ValueError"
    assert refused.losses == []
    unmerged, _, found = both(find("grouped"), tmp_path)
    assert unmerged.failures["merging"].type == "NotImplementedError"
    assert found.keys() == {"unmerged", "off", "reloaded"}


def test_a_number_type_that_the_network_cannot_compute_is_unavailable(tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")

    monkeypatch.setattr(networks._Tokens, "forward", refuse)
    request = Examine(situation=find("linear", dtype="float16"), folder=str(tmp_path), is_base=True)
    assert examined(request) == Examined(
        unavailable="float16: \"addmm_impl_cpu_\" not implemented for 'Half'"
    )


_FAKE = """#!{python}
import os, pathlib, sys, types
import numpy
from safetensors.numpy import save_file
from peft_fuzz.checklist import situations as m
from peft_regress.workers import serve
def import_modules(request: serve.Import) -> serve.Imported:
    here = serve.Machine(digest="sha256:here", cpu="", cores=1, threads=1, instruction_set="")
    return serve.Imported(machine=here, files={{}})  # to describe this machine imports torch
def inspected(request: m.Inspect) -> m.Inspected:
    fields = None if "no method" in {how!r} else dict(r="8")
    return m.Inspected(packages=dict(peft="1.0"), fields=fields)
def examined(request: m.Examine) -> m.Examined:
    here = {how!r}.get(str(request.situation))
    if here == "exit":
        os._exit(3)
    name = "outputs-base" if request.is_base else "outputs-branch"
    outputs = dict.fromkeys({parts!r}, numpy.ones((2, 2), numpy.float32))
    save_file(outputs, pathlib.Path(request.folder) / (name + ".safetensors"))
    return m.Examined(keys=dict(a="b"), effect=1.0, losses=[1.0])
serve.import_modules = import_modules
serve.installed_packages = lambda: dict(peft="1.0")  # to find them takes half a second
fake = types.SimpleNamespace(inspected=inspected, examined=examined)
sys.modules["peft_fuzz.checklist.examining"] = fake
serve.serve()
"""


FEW = [find("linear"), find("conv2d"), find("conv2d", label="DoRA"), find("embedding")]
CRASHES = "Conv2d, float32, as in the catalogue"


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """Fill a checklist between two fake interpreters, one of which may misbehave by situation."""

    def fill(how, *, side="branch"):
        @contextmanager
        def opened(wanted, _):
            this = "base" if wanted == ["old"] else "branch"
            python = tmp_path / this
            wrong = how if this == side else {}
            python.write_text(_FAKE.format(python=sys.executable, how=wrong, parts=list(PARTS)))
            python.chmod(0o755)
            yield SimpleNamespace(python=python, packages={"peft": "1.0"}, remarks=())

        monkeypatch.setattr(checklist_module, "opened_overlay", opened)
        monkeypatch.setattr(checklist_module, "situations", lambda *_: FEW)
        chosen = ChecklistSettings(jobs=1, time_limit=60, method="lora", base="old")
        return checklist(["new"], chosen)

    return fill


@pytest.mark.parametrize(
    ("how", "side", "code", "verdict"),
    [
        pytest.param({}, "base", 0, "ok", marks=pytest.mark.slow),
        ({CRASHES: "exit"}, "branch", 1, "out of bounds"),
        pytest.param({CRASHES: "exit"}, "base", 3, "not measured", marks=pytest.mark.slow),
    ],
)
def test_a_side_that_crashes_is_never_a_pass_and_loses_one_situation(
    filled, how, side, code, verdict
):
    found = filled(how, side=side)
    assert (found.judged.exit_code, found.situations, found.base) == (code, len(FEW), "old")
    assert found.packages == ({"peft": "1.0"}, {"peft": "1.0"})
    verdicts = {row.what: row.verdict for row in found.judged.rows if row.about == "outputs"}
    assert verdicts == {
        "Linear, float32": "ok", "Conv2d, float32": verdict, "Embedding, float32": "ok",
    }  # fmt: skip


def test_a_branch_without_the_method_is_one_line(filled):
    with pytest.raises(InputError, match=r"peft 1\.0 of the branch has no LoraConfig"):
        filled({"no method": ""})
