"""Invariants: all hold for the built-in methods, and each fails for the fault it is there for."""

import contextlib
import copy
import dataclasses
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft.tuners.lora.layer as lora_layer
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_methods import ALL, adapted, cast_base, each, method_named, rank_of, trainable, trained
from tiny_network import tiny_data, tiny_network
from tiny_training import finetune

from peft_regress import registry
from peft_regress.catalogue.architectures.torchvision_models import MOBILENET_V3_SMALL
from peft_regress.catalogue.methods import LORA, PeftAdapter
from peft_regress.catalogue.methods.galore import GALORE
from peft_regress.catalogue.methods.selective import BN_HEAD, HEAD
from peft_regress.catalogue.sources import build_source
from peft_regress.errors import FilledLossError
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.invariants import EDGE_INVARIANTS, INVARIANTS
from peft_regress.measure.invariants.continuing import CONTINUED
from peft_regress.measure.invariants.filled import Filled, one_wide_image
from peft_regress.measure.invariants.probe import Probe
from peft_regress.measure.invariants.watch import InvariantWatch
from peft_regress.measure.objective import Objective

BASELINES = Path(__file__).parents[2] / "baselines"
OTHERS = {*EDGE_INVARIANTS, *CONTINUED, "lean_trains_alike"}
NAMES = [name for name in INVARIANTS if name not in OTHERS]
BY_DAY = [method for method in ALL if method.base_dtype == "float32" or method.name == "lora-bf16"]
pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    # What peft says of every AdaLoRA adapter that it loads.
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]


def _nothing(_):
    return


@dataclass(frozen=True, kw_only=True)
class Wrapped:
    """A method that another one stands in front of, at every rank."""

    method: Any = LORA

    def __getattr__(self, name):
        return getattr(self.method, name)

    def at(self, *args, **options):
        return replace(self, method=self.method.at(*args, **options))

    def doubled(self):
        return replace(self, method=self.method.doubled())


@dataclass(frozen=True, kw_only=True)
class Faulty(Wrapped):
    """A method with one fault: what adapting, merging or shipping does besides its work."""

    adapting: Any = _nothing
    merging: Any = _nothing
    shipping: Any = _nothing
    loading: Any = _nothing
    disabling: Any = lambda method, model: method.disabled(model)

    def adapt(self, model, **options):
        adapted = self.method.adapt(model, **options)
        self.adapting(adapted)
        return adapted

    def merge(self, model):
        merged = self.method.merge(model)
        if merged is not None:
            self.merging(merged)
        return merged

    def save(self, model, folder):
        self.method.save(model, folder)
        for path in folder.glob("*.safetensors"):
            shipped = load_file(path)
            self.shipping(shipped)
            save_file(shipped, path)

    def load(self, base, folder, **options):
        loaded = self.method.load(base, folder, **options)
        self.loading(loaded)
        return loaded

    def disabled(self, model):
        return self.disabling(self.method, model)


def _probe(method):
    data = tiny_data(method.base_dtype)
    return data.test_images[:8], data.test_labels[:8]


def _watch(method, base, rank=2, **more):
    return InvariantWatch(
        adapter=method.at(rank, heads=("head",)),
        objective=Objective(),
        base=copy.deepcopy(base),
        probe=_probe(method),
        steps=1001,
        **more,
    )


def _watched(method, rank=2, *, training=_nothing, **more):
    """Run one watched fine-tuning; `training` is a fault that strikes while it runs."""
    data = tiny_data(method.base_dtype)
    base = cast_base(tiny_network(), method.base_dtype)
    watch = _watch(method, base, rank, **more)
    method = method.at(rank, heads=("head",))
    adapted = method.adapt(base, seed=0)
    watch.before_training(adapted)
    optimizer = method.make_optimizer(adapted)
    watch.training.watch_first_step(adapted, optimizer)
    finetune(
        adapted,
        optimizer,
        data,
        # To the end of a schedule that prunes, and past GaLore's next projection.
        steps=22 if method.prunes or method.name.startswith("galore") else 6,
        batch_size=8,
        seed=0,
        set_mode=method.set_mode,
    )
    training(adapted)
    found = watch.after_training(adapted, optimizer)
    assert all(fact.note for fact in found.values() if fact.holds is False)
    return {name: fact.holds for name, fact in found.items()}


def _broken(found):
    return {name for name, value in found.items() if value is False}


def _add(name, amount):
    """Return a fault that moves one parameter or buffer."""

    def strike(model):
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            tensors[name].view(-1)[0] += amount

    return strike


@each(*BY_DAY)
def test_all_that_applies_holds_but_for_what_the_library_gets_wrong(method, snapshot):
    """What is false here is a defect of peft, or of bfloat16's: docs/methods.md says how."""
    found = _watched(method, rank_of(method))
    assert list(found) == NAMES
    assert snapshot == {
        "false": sorted(_broken(found)),
        "does not apply": sorted(name for name, value in found.items() if value is None),
    }


@pytest.mark.nightly
@each(*(method for method in ALL if method not in BY_DAY))
def test_the_same_on_bfloat16(method, snapshot):
    """A test of its own: to syrupy, snapshots of other rows of a test that runs are unused."""
    test_all_that_applies_holds_but_for_what_the_library_gets_wrong(method, snapshot)


def test_watching_changes_neither_the_losses_nor_the_modes():
    data = tiny_data()

    def losses(*, watched):
        base = tiny_network()
        watch = _watch(LORA, base)
        adapted = LORA.at(2, heads=("head",)).adapt(base, seed=0).train()
        if watched:
            watch.before_training(adapted)
            assert all(module.training for module in adapted.modules())
        optimizer = LORA.at(2).make_optimizer(adapted)
        if watched:
            watch.training.watch_first_step(adapted, optimizer)
        return finetune(adapted, optimizer, data, steps=3, batch_size=8, seed=0).losses

    assert losses(watched=True) == losses(watched=False)


# --- Faults ---------------------------------------------------------------------------------------

BASE = "base_model.model."
B = f"{BASE}linear.lora_B.default.weight"


def _trains(name, *, requires_grad):
    """Return a fault that freezes or frees one parameter."""
    return lambda model: model.get_parameter(name).requires_grad_(requires_grad=requires_grad)


def _deadened(model):
    model.get_parameter(B).register_hook(torch.zeros_like)


def _put_back(part):
    """Return a fault that gives a part of AdaLoRA the numbers that it started with."""
    name = f"{BASE}linear.{part}.default"

    def strike(model):
        start = method_named("adalora").at(2, heads=("head",)).adapt(tiny_network(), seed=0)
        with torch.no_grad():
            model.get_parameter(name).copy_(start.get_parameter(name))

    return strike


def _unwrapped(model):
    parent = model.get_submodule("base_model.model")
    parent.linear = parent.linear.base_layer


@dataclass(frozen=True, kw_only=True)
class OfRank(Wrapped):
    """LoRA that is put on at another rank than is asked."""

    asked: Any

    def adapt(self, model, *, seed):
        other = replace(self.method, rank=self.asked(self.method.rank))
        return other.adapt(model, seed=seed)


class Moving(Wrapped):
    """LoRA whose first step moves a weight that is frozen, and the second moves it back."""

    def make_optimizer(self, model):
        weight = model.get_parameter(f"{BASE}norm.weight")
        moves = iter([1.0, -1.0])

        def move(*_):
            with torch.no_grad():
                weight.add_(next(moves, 0.0))

        optimizer = self.method.make_optimizer(model)
        optimizer.register_step_post_hook(move)
        return optimizer


@contextlib.contextmanager
def _cannot_be_disabled(*_):
    raise NotImplementedError
    yield


def _frozen_by_toggling(method, model):
    context = contextlib.ExitStack()
    # Last, after peft has put all back.
    context.callback(model.get_parameter(B).requires_grad_, False)
    context.enter_context(method.disabled(model))
    return context


def _hand_on(change):
    """Return a fault: one layer hands on something else, and the next takes it back."""

    def strike(model):
        model.get_submodule(f"{BASE}norm").register_forward_pre_hook(
            lambda module, args: tuple(arg.to(module.weight.dtype) for arg in args)
        )
        conv = model.get_submodule(f"{BASE}conv")
        conv.register_forward_hook(lambda _module, _args, out: change(out))

    return strike


def _shipped(name):
    """Return a fault that ships another number; the head has a file of its own."""

    def strike(shipped):
        if name in shipped:
            shipped[name].view(-1)[0] += 0.3

    return strike


def _dead_unit(model):
    with torch.no_grad():
        model.get_parameter(f"{BASE}head.weight")[:, 0] = 0


def _loaded_to_train(model):
    """Load other numbers for training than for use."""
    if model.get_parameter(f"{BASE}head.bias").requires_grad:
        _add(f"{BASE}head.bias", 0.5)(model)


def lora(name="lora", **fault):
    return Faulty(method=method_named(name), **fault)


FAULTS = {
    # An adapter that does not start at the base's output.
    "starts above zero": (lora(adapting=_add(B, 1e-2)), "identity_at_init"),
    "wrapping alters a base weight": (
        lora("dora", adapting=_add(f"{BASE}conv.base_layer.weight", 1e-2)),
        (
            "identity_at_init channels_last_kept disabled_equals_base paths_agree "
            "saved_adapter_reloads"
        ),
    ),
    "starts off by more than the rounding of bfloat16": (
        lora("dora-bf16", adapting=_add(f"{BASE}linear.lora_magnitude_vector.default.weight", 0.5)),
        "identity_at_init channels_last_kept paths_agree",
    ),
    # Merging.
    "merging loses the head": (lora(merging=_add("head.weight", 0.5)), "merge_equals_unmerged"),
    # What trains.
    "a part of the adapter stays frozen": (
        lora(adapting=_trains(f"{BASE}conv.lora_A.default.weight", requires_grad=False)),
        (
            "expected_trainable trainable_changed doubled_rank_not_smaller "
            "toggling_keeps_trainable state_kept"
        ),
    ),
    "another tensor trains": (
        lora(adapting=_trains(f"{BASE}norm.weight", requires_grad=True)),
        "expected_trainable frozen_unchanged saved_adapter_reloads",
    ),
    "another rank": (OfRank(asked=lambda _: 3), "expected_trainable doubled_rank_not_smaller"),
    "twice the rank has no more": (
        OfRank(asked=lambda r: 1 if r > 2 else r),
        "doubled_rank_not_smaller",
    ),
    "an adapter never moves": (lora(adapting=_deadened), "trainable_changed"),
    "a weight moves in the first step alone": (Moving(), "frozen_unchanged"),
    # What is expected and not there is left out of the fill.
    "a layer has no adapter": (
        lora(adapting=_unwrapped),
        (
            "expected_trainable trainable_changed doubled_rank_not_smaller adapters_do_not_leak "
            "delete_leaves_nothing reload_keeps_trainable saved_adapter_reloads paths_agree "
            "state_kept"
        ),
    ),
    "projections are never renewed": (
        dataclasses.replace(GALORE, update_proj_gap=1000),
        "projections_renewed",
    ),
    # Off and on.
    "stays on": (
        lora(disabling=lambda *_: contextlib.nullcontext()),
        "disabled_equals_base paths_agree",
    ),
    "cannot be switched off": (
        lora(disabling=_cannot_be_disabled),
        "disabled_equals_base paths_agree toggling_keeps_trainable",
    ),
    # Switching from one adapter to another and back frees it again.
    "toggling freezes": (
        lora(disabling=_frozen_by_toggling),
        "toggling_keeps_trainable delete_leaves_nothing",
    ),
    # Types and memory format.
    "activations of a wider type": (
        lora("lora-bf16", adapting=_hand_on(lambda out: out.float())),
        "dtypes_as_asked",
    ),
    "a layer loses the memory format": (
        lora(adapting=_hand_on(lambda out: out.contiguous())),
        "channels_last_kept",
    ),
    # Shipping.
    "ships another A": (
        lora(shipping=_shipped(f"{BASE}linear.lora_A.weight")),
        "saved_adapter_reloads",
    ),
    "ships another magnitude": (
        lora("dora", shipping=_shipped(f"{BASE}conv.lora_magnitude_vector")),
        "saved_adapter_reloads channels_last_kept paths_agree",
    ),
    "ships other statistics": (
        lora("bn_head", shipping=_shipped("norm.running_var")),
        "saved_adapter_reloads",
    ),
    "ships another bias": (lora("full", shipping=_shipped("norm.bias")), "saved_adapter_reloads"),
    "loads other numbers to train on": (lora(loading=_loaded_to_train), "reload_keeps_trainable"),
    "loading loses what trains": (
        lora(loading=lambda model: model.requires_grad_(requires_grad=False)),
        "reload_keeps_trainable",
    ),
    "loaded for use, it trains": (
        lora(loading=_trains(f"{BASE}linear.lora_A.default.weight", requires_grad=True)),
        "reload_keeps_trainable",
    ),
}
IN_TRAINING = {
    # A method, what happens while it trains, and which facts that breaks.
    **{
        f"{name} drifts": (LORA, _add(f"{BASE}{name}", amount), "frozen_unchanged")
        for name, amount in (
            ("conv.base_layer.weight", 1e-6),
            ("depthwise.bias", 1e-6),
            ("norm.weight", 1e-6),
            ("norm.running_var", 1e-6),
            ("norm.num_batches_tracked", 1),
        )
    },
    # Statistics may move only where the method says so.
    "head moves a mean": (
        HEAD,
        _add("norm.running_mean", 1e-3),
        "frozen_unchanged saved_adapter_reloads",
    ),
    "bn_head moves a mean": (BN_HEAD, _add("norm.running_mean", 1e-3), ""),
    "bn_head moves a weight": (
        BN_HEAD,
        _add("norm.weight", 1e-3),
        "frozen_unchanged saved_adapter_reloads",
    ),
    "freezing": (LORA, _trains(B, requires_grad=False), "expected_trainable"),
    # AdaLoRA's singular values start at zero, and a pruned one is set to zero again.
    "a pruned value is put back": (method_named("adalora"), _put_back("lora_E"), ""),
    "a factor is put back": (method_named("adalora"), _put_back("lora_B"), "trainable_changed"),
    # The dead unit's bias: no output has a part of it.
    "loads a number that no output shows": (
        lora(loading=_add(B, 0.5)),
        _dead_unit,
        "saved_adapter_reloads",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_breaks_the_facts_that_are_there_for_it(name):
    method, broken = FAULTS[name]
    assert _broken(_watched(method, rank_of(method))) == set(broken.split())


@pytest.mark.parametrize("name", IN_TRAINING)
def test_a_fault_in_training_breaks_the_facts_that_are_there_for_it(name, monkeypatch):
    # Those of a filled adapter are judged before it.
    monkeypatch.setattr(InvariantWatch, "_of_a_filled_adapter", lambda *_: {})
    method, training, broken = IN_TRAINING[name]
    assert _broken(_watched(method, rank_of(method), training=training)) == set(broken.split())


# Merging


def test_a_library_that_cannot_merge_on_bfloat16_itself_is_caught(monkeypatch):
    """A merge that leaves a weight in float32 does its sums well, and gives a broken model."""

    def upcast(self, *_arguments, **_options):
        if self.merged:
            return
        self.base_layer.weight.data = self.base_layer.weight.data.float()
        self.base_layer.weight.data += self.get_delta_weight("default")
        self.merged_adapters.append("default")

    monkeypatch.setattr(lora_layer.Conv2d, "merge", upcast)
    assert _broken(_watched(LORA)) == set()
    assert _broken(_watched(method_named("lora-bf16"))) == {"merge_equals_unmerged"}


def test_an_optimizer_whose_step_is_never_seen_is_no_pass():
    watch = _watch(LORA, tiny_network())
    adapted = LORA.at(2, heads=("head",)).adapt(tiny_network(), seed=0)
    watch.before_training(adapted)
    facts = watch.after_training(adapted, LORA.at(2).make_optimizer(adapted))
    found = {name: fact.holds for name, fact in facts.items()}
    assert {"expected_trainable", "frozen_unchanged"} <= _broken(found)


# A filled adapter


def _filled(method, adapted, probe, wide_probe=None):
    return Filled(
        adapted,
        adapter=method,
        probe=Probe(base=adapted, objective=Objective(), batch=probe),
        wide_probe=wide_probe or probe,
        parameters=method.adapter_parameters(adapted),
        copies=(),
    )


@each(*(method for method in ALL if isinstance(method, PeftAdapter)))
def test_each_fill_moves_the_output_of_every_adapter(method):
    images, labels = probe = _probe(method)
    logits = cast_base(tiny_network(), method.base_dtype).float()(images.float())
    unfilled = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    losses = _filled(method, adapted(method), probe).losses
    assert len(losses) == 3
    assert len({unfilled, *losses}) == 4
    torch.manual_seed(7)
    assert _filled(method, adapted(method), probe).losses == losses


@pytest.mark.parametrize("name", ["lora", "lora-bf16"])
def test_a_scaling_off_by_a_hundredth_shows_in_the_filled_losses(name):
    """On a real network; the tiny one damps what its adapters do."""
    method = method_named(name).at(1, heads=(MOBILENET_V3_SMALL.head,))
    _, (images, labels) = registry.get("task", "shift").load()
    probe = images[:4].to(getattr(torch, method.base_dtype)), labels[:4]
    base = cast_base(build_source(BASELINES, MOBILENET_V3_SMALL), method.base_dtype)
    network = method.adapt(base, seed=0)
    sound = _filled(method, network, probe).losses
    for module in network.modules():
        if isinstance(module, lora_layer.LoraLayer):
            module.scaling["default"] *= 1.01
    scaled = _filled(method, network, probe).losses
    moved = [abs(b - a) / a for a, b in zip(sound, scaled, strict=True)]
    assert max(moved) > DEFAULT_POLICY.filled_bound


def _wide_and_others():
    probe = _probe(LORA)
    filled = _filled(LORA.at(2), adapted(LORA), probe, one_wide_image(probe))
    return filled.wide_loss, filled.losses


@pytest.mark.parametrize(
    "strikes",
    [lambda x: x.shape[-1] > 64, lambda _: torch.get_num_threads() > 1],
    ids=["wide", "two threads"],
)
def test_what_is_wrong_for_wide_images_or_two_threads_alone_shows_in_the_wide_loss(
    strikes, monkeypatch
):
    sound, others = _wide_and_others()
    forward = lora_layer.Conv2d.forward

    def faulty(self, x, *args, **options):
        found = forward(self, x, *args, **options)
        return 2 * found if strikes(x) else found

    monkeypatch.setattr(lora_layer.Conv2d, "forward", faulty)
    wide, same = _wide_and_others()
    assert same == others
    assert abs(wide - sound) / sound > DEFAULT_POLICY.wide_filled_bound
    assert torch.get_num_threads() == 1


def test_a_filled_adapter_without_a_finite_loss_is_an_error():
    base = tiny_network()
    adapted = LORA.at(2, heads=("head",)).adapt(tiny_network(), seed=0)
    adapted.get_submodule("base_model.model.head").register_forward_hook(
        lambda _module, _args, out: out * math.nan
    )
    with pytest.raises(FilledLossError, match="filled by seed 0 is nan"):
        _watch(LORA, base).before_training(adapted)


# Types and memory format


def test_an_adapter_in_half_precision_is_caught():
    name = "base_model.model.linear.lora_A.default.weight"
    adapted = LORA.at(2, heads=("head",)).adapt(tiny_network(), seed=0)
    adapted.get_parameter(name).data = torch.zeros(2, 8, dtype=torch.bfloat16)
    probe = Probe(base=tiny_network(), objective=Objective(), batch=_probe(LORA))
    assert probe.dtypes_as_asked(adapted, adapter_in_float32=True).defect.tensors == [name]


@pytest.mark.parametrize(
    "name",
    [
        *("lora", "lora-bf16", "bn_head"),
        *(
            pytest.param(name, marks=pytest.mark.nightly)
            for name in ("adalora", "ln_tuning", "full")
        ),
    ],
)
def test_what_was_stored_loads_and_gives_its_output_or_is_caught(name, tmp_path):
    method = method_named(name)
    rank = rank_of(method)
    model = trained(method)
    method.save(model, tmp_path)
    base = cast_base(tiny_network(), method.base_dtype)
    logits = _watch(method, base, rank).rows(model)
    assert len(logits) == 8

    def found(stored):
        saving = _watch(method, base, rank, stored=(tmp_path, stored)).saving
        return saving.of(model, trainable(model))["stored_adapter_loads"].holds

    assert found(logits) is True
    logits[3][1] *= 1.001
    assert found(logits) is False
    assert found([[math.nan] * 4] * 8) is False
    next(tmp_path.glob("*.safetensors")).unlink()
    assert found(logits) is False
