"""Invariants: all hold for the built-in methods, and each fails for the fault it is there for."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peft.tuners.lora.layer as lora_layer
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_methods import ALL, each, method_named, rank_of, trained
from tiny_network import tiny_data, tiny_network
from tiny_training import finetune

from peft_regress import registry
from peft_regress.catalogue.architectures import MOBILENET_V3_SMALL
from peft_regress.catalogue.methods import (
    BN_HEAD,
    DORA,
    FULL,
    GALORE,
    HEAD,
    LORA,
    GaLore,
    Method,
    PeftAdapter,
)
from peft_regress.catalogue.methods.parts import cast_base
from peft_regress.catalogue.sources import build_source
from peft_regress.errors import FilledLossError
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.measure.adapters.built_in_method import MethodAdapter
from peft_regress.measure.invariants import InvariantWatch, StoredOutput
from peft_regress.measure.invariants.filled import one_wide_image
from peft_regress.measure.invariants.layers import of_other_dtype
from peft_regress.measure.objective import Objective
from peft_regress.metrics import EDGE_INVARIANTS, INVARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

BASELINES = Path(__file__).parents[2] / "baselines"
NAMES = [name for name in INVARIANTS if name not in EDGE_INVARIANTS]
# What there is of an adapter alone.
OF_ADAPTERS = {
    "merge_equals_unmerged",
    "unmerge_restores_base",
    "refused_merge_keeps_base",
    "disabled_equals_base",
    "toggling_keeps_trainable",
    "adapters_do_not_leak",
    "delete_leaves_nothing",
    "doubled_rank_not_smaller",
}
OF_SECOND = {"adapters_do_not_leak", "delete_leaves_nothing"}
# What peft 0.21 gets wrong, and what bfloat16 cannot move: test_bfloat16.py shows how.
KNOWN_FALSE: dict[str, set[str]] = {
    "adalora-bf16": {
        "expected_trainable",
        "frozen_unchanged",
        "saved_adapter_reloads",
        "reload_keeps_trainable",
    },
    "boft-bf16": {"reload_keeps_trainable"},
    "dora": {"channels_last_kept"},
    "dora-bf16": {"channels_last_kept"},
    "dora-grouped": {"channels_last_kept", "merge_equals_unmerged"},
    "full-bf16": {"trainable_changed"},
    "hira-bf16": {"reload_keeps_trainable"},
    "hra": {"channels_last_kept"},
    "hra-bf16": {"channels_last_kept", "reload_keeps_trainable"},
    "ia3-bf16": {"reload_keeps_trainable"},
    "ln_tuning-bf16": {"dtypes_as_asked"},
    "loha-bf16": {"reload_keeps_trainable"},
    "lora-grouped": {"merge_equals_unmerged"},
    "loha-tucker-bf16": {"reload_keeps_trainable"},
    "lokr-bf16": {"reload_keeps_trainable"},
    "lokr-tucker-bf16": {"reload_keeps_trainable"},
    "lorafa": {"toggling_keeps_trainable"},
    "lorafa-bf16": {"toggling_keeps_trainable"},
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    # What peft says of every AdaLoRA adapter that it loads.
    pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning"),
]


def _nothing(_: nn.Module) -> None:
    return


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """A method with one fault: what adapting, merging or shipping does besides its work."""

    method: Any
    adapting: Callable[[nn.Module], None] = _nothing
    merging: Callable[[nn.Module], None] = _nothing
    shipping: Callable[[dict[str, Tensor]], None] = field(default=lambda _: None)
    loading: Callable[[nn.Module], None] = _nothing
    disabling: Callable[[Any, nn.Module], Any] = lambda method, model: method.disabled(model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def adapt(self, model: nn.Module, **options: Any) -> nn.Module:
        adapted = self.method.adapt(model, **options)
        self.adapting(adapted)
        return adapted

    def merge(self, model: nn.Module) -> nn.Module | None:
        merged = self.method.merge(model)
        if merged is not None:
            self.merging(merged)
        return merged

    def save(self, model: nn.Module, folder: Path) -> None:
        self.method.save(model, folder)
        for path in folder.glob("*.safetensors"):
            shipped = load_file(path)
            self.shipping(shipped)
            save_file(shipped, path)

    def load(self, base: nn.Module, folder: Path, **options: Any) -> nn.Module:
        loaded = self.method.load(base, folder, **options)
        self.loading(loaded)
        return loaded

    def disabled(self, model: nn.Module) -> Any:
        return self.disabling(self.method, model)


def _watch(method: Any, base: nn.Module, rank: int | None = 2, **more: Any) -> InvariantWatch:
    data = tiny_data().cast(method.base_dtype)
    return InvariantWatch(
        adapter=MethodAdapter(method=method, rank=rank, heads=("head",)),
        objective=Objective(),
        base=copy.deepcopy(base),
        probe=(data.test_images[:8], data.test_labels[:8]),
        steps=1001,
        **more,
    )


def _watched(
    method: Any,
    rank: int | None = 2,
    *,
    training: Callable[[nn.Module], None] = _nothing,
    **more: Any,
) -> dict[str, bool | None]:
    """Run one watched fine-tuning; `training` is a fault that strikes while it runs."""
    data = tiny_data().cast(method.base_dtype)
    base = cast_base(tiny_network(), method.base_dtype)
    watch = _watch(method, base, rank, **more)
    adapted = method.adapt(base, heads=("head",), rank=rank, seed=0)
    watch.before_training(adapted)
    optimizer = method.make_optimizer(adapted, rank=rank)
    watch.watch_first_step(adapted, optimizer)
    finetune(
        adapted,
        optimizer,
        data,
        # To the end of a schedule that prunes, and past GaLore's next projection.
        steps=22 if method.prunes or method.name.startswith("galore") else 6,
        batch_size=8,
        seed=0,
        first=1,
        batch_norm_statistics=method.trains_batch_norm_statistics,
    )
    training(adapted)
    found = watch.after_training(adapted, optimizer)
    assert all(fact.note for fact in found.values() if fact.holds is False)
    return {name: fact.holds for name, fact in found.items()}


def _broken(found: dict[str, bool | None]) -> set[str]:
    return {name for name, value in found.items() if value is False}


def _add(name: str, amount: float) -> Callable[[nn.Module], None]:
    """Return a fault that moves one parameter or buffer."""

    def strike(model: nn.Module) -> None:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        with torch.no_grad():
            tensors[name].view(-1)[0] += amount

    return strike


@each(*ALL)
def test_everything_holds_for_a_sound_method(method: Method) -> None:
    found = _watched(method, rank_of(method))
    assert list(found) == NAMES
    assert _broken(found) == KNOWN_FALSE.get(method.name, set())
    absent = {"stored_adapter_loads", "training_keeps_no_memory"}  # nobody watches its steps here
    if not isinstance(method, PeftAdapter):
        absent |= OF_ADAPTERS
    if not isinstance(method, GaLore):
        absent.add("projections_renewed")
    if not method.ranks:
        absent.add("doubled_rank_not_smaller")
    if method.alters_base:
        absent |= {"disabled_equals_base", *OF_SECOND}
    if method.name.startswith("adalora"):  # peft refuses a second one
        absent |= OF_SECOND
    if method.name.startswith("ln_tuning"):  # it swaps layers, and computes nothing to check
        absent.add("refused_merge_keeps_base")
    if method.name.endswith("-grouped"):  # peft refuses to merge them
        absent |= {"unmerge_restores_base", "refused_merge_keeps_base"}
    assert {name for name, value in found.items() if value is None} == absent


def test_watching_changes_neither_the_losses_nor_the_modes() -> None:
    data = tiny_data()

    def losses(*, watched: bool) -> tuple[float, ...]:
        base = tiny_network()
        watch = _watch(LORA, base)
        adapted = LORA.adapt(base, heads=("head",), rank=2, seed=0).train()
        if watched:
            watch.before_training(adapted)
            assert all(module.training for module in adapted.modules())
        optimizer = LORA.make_optimizer(adapted, rank=2)
        if watched:
            watch.watch_first_step(adapted, optimizer)
        return finetune(adapted, optimizer, data, steps=3, batch_size=8, seed=0, first=1).losses

    assert losses(watched=True) == losses(watched=False)


# Identity


@pytest.mark.parametrize("amount", [1e-2, -1e-2])
def test_an_adapter_that_starts_off_zero_breaks_identity(amount: float) -> None:
    fault = _add("base_model.model.linear.lora_B.default.weight", amount)
    assert "identity_at_init" in _broken(_watched(Faulty(method=LORA, adapting=fault)))


def test_a_base_weight_altered_by_wrapping_breaks_identity() -> None:
    fault = _add("base_model.model.conv.base_layer.weight", 1e-2)
    assert "identity_at_init" in _broken(_watched(Faulty(method=DORA, adapting=fault)))


def test_identity_is_judged_relative_to_the_size_of_the_logits() -> None:
    base = tiny_network()
    with torch.no_grad():
        base.head.weight *= 1e-6
        base.head.bias *= 1e-6
    watch = _watch(LORA, base)
    adapted = LORA.adapt(base, heads=("head",), rank=2, seed=0)
    _add("base_model.model.linear.lora_B.default.weight", 1e-2)(adapted)
    watch.before_training(adapted)
    optimizer = LORA.make_optimizer(adapted, rank=2)
    assert watch.after_training(adapted, optimizer)["identity_at_init"].holds is False


def test_on_bfloat16_a_start_off_by_more_than_the_rounding_is_caught() -> None:
    fault = _add("base_model.model.linear.lora_magnitude_vector.default.weight", 0.5)
    dora = method_named("dora-bf16")
    assert "identity_at_init" in _broken(_watched(Faulty(method=dora, adapting=fault)))


# Merging


@pytest.mark.parametrize("name", ["lora", "lora-bf16"])
@pytest.mark.parametrize("kind", ["Linear", "Conv2d"])
def test_a_library_that_merges_by_another_scaling_than_it_computes_with_is_caught(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    """On bfloat16 as sharply: there, too, sums are compared in float32."""
    layer = getattr(lora_layer, kind)
    original = layer.get_delta_weight
    monkeypatch.setattr(
        layer, "get_delta_weight", lambda self, adapter: 1.5 * original(self, adapter)
    )
    assert _broken(_watched(method_named(name))) == {"merge_equals_unmerged"}


def test_a_library_that_cannot_merge_on_bfloat16_itself_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A merge that leaves a weight in float32 does its sums well, and gives a broken model."""

    def upcast(self: Any, *_arguments: Any, **_options: Any) -> None:
        if self.merged:
            return
        self.base_layer.weight.data = self.base_layer.weight.data.float()
        self.base_layer.weight.data += self.get_delta_weight("default")
        self.merged_adapters.append("default")

    monkeypatch.setattr(lora_layer.Conv2d, "merge", upcast)
    assert _broken(_watched(LORA)) == set()
    assert _broken(_watched(method_named("lora-bf16"))) == {"merge_equals_unmerged"}


def test_a_merge_that_loses_the_head_is_caught() -> None:
    fault = Faulty(method=LORA, merging=_add("head.weight", 0.5))
    assert _broken(_watched(fault)) == {"merge_equals_unmerged"}


# Frozen


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.conv.base_layer.weight",
        "base_model.model.depthwise.bias",
        "base_model.model.norm.weight",
        "base_model.model.norm.running_var",
        "base_model.model.norm.num_batches_tracked",
    ],
)
def test_a_frozen_tensor_that_drifts_is_caught(name: str) -> None:
    amount = 1 if name.endswith("tracked") else 1e-6
    assert "frozen_unchanged" in _broken(_watched(LORA, training=_add(name, amount)))


def test_running_statistics_may_move_only_where_the_method_says_so() -> None:
    move = _add("norm.running_mean", 1e-3)
    assert "frozen_unchanged" in _broken(_watched(HEAD, None, training=move))
    assert "frozen_unchanged" not in _broken(_watched(BN_HEAD, None, training=move))
    affine = _add("norm.weight", 1e-3)
    assert "frozen_unchanged" in _broken(_watched(BN_HEAD, None, training=affine))


# What trains


def _freeze(name: str) -> Callable[[nn.Module], None]:
    def strike(model: nn.Module) -> None:
        model.get_parameter(name).requires_grad_(requires_grad=False)

    return strike


def test_a_library_that_leaves_one_adapter_frozen_is_caught() -> None:
    fault = Faulty(method=LORA, adapting=_freeze("base_model.model.conv.lora_A.default.weight"))
    assert {"expected_trainable", "trainable_changed"} <= _broken(_watched(fault))


def test_a_tensor_that_trains_besides_is_caught() -> None:
    def unfreeze(model: nn.Module) -> None:
        model.get_parameter("base_model.model.norm.weight").requires_grad_(requires_grad=True)

    fault = Faulty(method=LORA, adapting=unfreeze)
    assert {"expected_trainable", "frozen_unchanged"} <= _broken(_watched(fault))


def test_freezing_during_training_is_caught() -> None:
    fault = _freeze("base_model.model.linear.lora_B.default.weight")
    assert _broken(_watched(LORA, training=fault)) == {"expected_trainable"}


def test_a_wrong_rank_is_caught_by_its_shape() -> None:
    @dataclass(frozen=True)
    class OtherRank:
        def __getattr__(self, name: str) -> Any:
            return getattr(LORA, name)

        def adapt(self, model: nn.Module, **options: Any) -> nn.Module:
            return LORA.adapt(model, **{**options, "rank": 3})

    wrong = {"expected_trainable", "doubled_rank_not_smaller"}
    assert _broken(_watched(OtherRank())) == wrong


def test_an_adapter_that_never_moves_is_caught() -> None:
    def deaden(model: nn.Module) -> None:
        parameter = model.get_parameter("base_model.model.linear.lora_B.default.weight")
        parameter.register_hook(torch.zeros_like)

    assert _broken(_watched(Faulty(method=LORA, adapting=deaden))) == {"trainable_changed"}


def test_what_a_method_prunes_may_end_where_it_began_and_nothing_else() -> None:
    """AdaLoRA's singular values start at zero, and a pruned one is set to zero again."""
    adalora = method_named("adalora")
    start = adalora.adapt(tiny_network(), heads=("head",), rank=2, seed=0)

    def put_back(part: str) -> Callable[[nn.Module], None]:
        name = f"base_model.model.linear.{part}.default"

        def strike(model: nn.Module) -> None:
            with torch.no_grad():
                model.get_parameter(name).copy_(start.get_parameter(name))

        return strike

    assert _broken(_watched(adalora, training=put_back("lora_E"))) == set()
    assert _broken(_watched(adalora, training=put_back("lora_B"))) == {"trainable_changed"}


def test_what_moves_at_the_first_step_and_is_put_back_is_caught() -> None:
    """A step that works on a weight which nobody is to train, and hides that at the end."""

    @dataclass(frozen=True)
    class Passing:
        def __getattr__(self, name: str) -> Any:
            return getattr(LORA, name)

        def make_optimizer(self, model: nn.Module, *, rank: int | None) -> Any:
            weight = model.get_parameter("base_model.model.norm.weight")
            moves = iter([1.0, -1.0])

            def move(*_: object) -> None:
                with torch.no_grad():
                    weight.add_(next(moves, 0.0))

            optimizer = LORA.make_optimizer(model, rank=rank)
            optimizer.register_step_post_hook(move)
            return optimizer

    assert _broken(_watched(Passing())) == {"frozen_unchanged"}


def test_an_optimizer_whose_step_is_never_seen_is_no_pass() -> None:
    watch = _watch(LORA, tiny_network())
    adapted = LORA.adapt(tiny_network(), heads=("head",), rank=2, seed=0)
    watch.before_training(adapted)
    facts = watch.after_training(adapted, LORA.make_optimizer(adapted, rank=2))
    found = {name: fact.holds for name, fact in facts.items()}
    assert {"expected_trainable", "frozen_unchanged"} <= _broken(found)


# Projections


def test_a_projection_that_is_never_renewed_is_caught() -> None:
    stale = dataclasses.replace(GALORE, update_proj_gap=1000)
    assert _broken(_watched(stale)) == {"projections_renewed"}


# A filled adapter


def _filled(method: Any) -> tuple[float, ...]:
    base = cast_base(tiny_network(), method.base_dtype)
    watch = _watch(method, base)
    rank = rank_of(method) or 2
    watch.before_training(method.adapt(base, heads=("head",), rank=rank, seed=0))
    assert watch.filled_losses is not None
    return watch.filled_losses


@each(*(method for method in ALL if isinstance(method, PeftAdapter)))
def test_each_fill_moves_the_output_of_every_adapter(method: Method) -> None:
    data = tiny_data().cast(method.base_dtype)
    base = cast_base(tiny_network(), method.base_dtype).float()
    logits = base(data.test_images[:8].float())
    unfilled = torch.nn.functional.cross_entropy(logits.double(), data.test_labels[:8]).item()
    losses = _filled(method)
    assert len(losses) == 3
    assert len({unfilled, *losses}) == 4
    torch.manual_seed(7)
    assert _filled(method) == losses


@pytest.mark.parametrize(
    "name",
    [
        "lora",
        "lora-bf16",
        *(pytest.param(n, marks=pytest.mark.nightly) for n in ("dora", "rslora")),
    ],
)
def test_a_scaling_off_by_a_hundredth_shows_in_the_filled_losses(name: str) -> None:
    """On a real network; the tiny one damps what its adapters do."""
    method = method_named(name)
    data = registry.get("task", "shift").load().cast(method.base_dtype)

    def losses(factor: float) -> tuple[float, ...]:
        base = cast_base(build_source(BASELINES, MOBILENET_V3_SMALL), method.base_dtype)
        watch = InvariantWatch(
            adapter=MethodAdapter(method=method, rank=1, heads=(MOBILENET_V3_SMALL.head,)),
            objective=Objective(),
            base=copy.deepcopy(base),
            probe=(data.test_images[:4], data.test_labels[:4]),
        )
        adapted = method.adapt(base, heads=(MOBILENET_V3_SMALL.head,), rank=1, seed=0)
        for module in adapted.modules():
            if isinstance(module, lora_layer.LoraLayer):
                module.scaling["default"] *= factor
        watch.before_training(adapted)
        assert watch.filled_losses is not None
        return watch.filled_losses

    moved = [abs(b - a) / a for a, b in zip(losses(1.0), losses(1.01), strict=True)]
    assert max(moved) > DEFAULT_POLICY.filled_bound


def _wide_and_others() -> tuple[float, tuple[float, ...]]:
    base = tiny_network()
    data = tiny_data()
    probe = data.test_images[:8], data.test_labels[:8]
    watch = _watch(LORA, base, wide_probe=one_wide_image(probe))
    watch.before_training(LORA.adapt(base, heads=("head",), rank=2, seed=0))
    assert watch.wide_filled_loss is not None
    assert watch.filled_losses is not None
    return watch.wide_filled_loss, watch.filled_losses


@pytest.mark.parametrize(
    "strikes",
    [lambda x: x.shape[-1] > 64, lambda _: torch.get_num_threads() > 1],
    ids=["wide", "two threads"],
)
def test_what_is_wrong_for_wide_images_or_two_threads_alone_shows_in_the_wide_loss(
    strikes: Callable[[Tensor], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, others = _wide_and_others()
    forward = lora_layer.Conv2d.forward

    def faulty(self: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        found: Tensor = forward(self, x, *args, **options)
        return 2 * found if strikes(x) else found

    monkeypatch.setattr(lora_layer.Conv2d, "forward", faulty)
    wide, same = _wide_and_others()
    assert same == others
    assert abs(wide - sound) / sound > DEFAULT_POLICY.wide_filled_bound
    assert torch.get_num_threads() == 1


def test_a_wide_image_repeats_each_pixel() -> None:
    images, labels = torch.arange(12.0).view(1, 3, 2, 2), torch.tensor([3])
    wide, same = one_wide_image((images, labels))
    assert wide.shape == (1, 3, 224, 224)
    assert torch.equal(wide[:, :, ::112, ::112], images)
    assert torch.equal(wide[:, :, 111::112, 111::112], images)
    assert same == labels


def test_a_filled_adapter_without_a_finite_loss_is_an_error() -> None:
    base = tiny_network()
    adapted = LORA.adapt(tiny_network(), heads=("head",), rank=2, seed=0)
    adapted.get_submodule("base_model.model.head").register_forward_hook(
        lambda _module, _args, out: out * math.nan
    )
    with pytest.raises(FilledLossError, match="filled by seed 0 is nan"):
        _watch(LORA, base).before_training(adapted)


def test_filling_leaves_the_watched_model_alone() -> None:
    adapted = DORA.adapt(tiny_network(), heads=("head",), rank=2, seed=0)
    kept = copy.deepcopy(adapted.state_dict())
    _watch(DORA, tiny_network()).before_training(adapted)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in adapted.state_dict().items())


@pytest.mark.parametrize("name", ["lora", "lora-bf16"])
def test_an_adapter_that_stays_on_is_caught(name: str) -> None:
    fault = Faulty(method=method_named(name), disabling=lambda *_: contextlib.nullcontext())
    assert _broken(_watched(fault)) == {"disabled_equals_base"}


def test_an_adapter_that_cannot_be_switched_off_is_caught() -> None:
    @contextlib.contextmanager
    def disabling(*_: Any) -> Any:
        raise NotImplementedError
        yield

    fault = Faulty(method=LORA, disabling=disabling)
    assert _broken(_watched(fault)) == {"disabled_equals_base", "toggling_keeps_trainable"}


def test_toggling_that_freezes_or_frees_a_tensor_is_caught() -> None:
    def disabling(method: Any, model: nn.Module) -> Any:
        parameter = model.get_parameter("base_model.model.linear.lora_B.default.weight")
        context = contextlib.ExitStack()
        context.callback(parameter.requires_grad_, False)  # last, after peft has put all back
        context.enter_context(method.disabled(model))
        return context

    fault = Faulty(method=LORA, disabling=disabling)
    # Switching from one adapter to another and back frees it again.
    assert _broken(_watched(fault)) == {"toggling_keeps_trainable", "delete_leaves_nothing"}


def test_a_layer_without_its_adapter_is_no_reason_to_stop() -> None:
    """What is expected and not there is left out of the fill, and said elsewhere."""

    def unwrap(model: nn.Module) -> None:
        parent: Any = model.get_submodule("base_model.model")
        parent.linear = parent.linear.base_layer

    broken = _broken(_watched(Faulty(method=LORA, adapting=unwrap)))
    assert "expected_trainable" in broken


# Rank


def test_twice_the_rank_with_fewer_parameters_is_caught() -> None:
    @dataclass(frozen=True)
    class Capped:
        def __getattr__(self, name: str) -> Any:
            return getattr(LORA, name)

        def adapt(self, model: nn.Module, *, rank: int, **options: Any) -> nn.Module:
            return LORA.adapt(model, rank=1 if rank > 2 else rank, **options)

    assert _broken(_watched(Capped())) == {"doubled_rank_not_smaller"}


# Types and memory format


def _cast_adapter(model: nn.Module) -> None:
    model.get_parameter("base_model.model.linear.lora_A.default.weight").data = torch.zeros(
        2, 8, dtype=torch.bfloat16
    )


def test_an_adapter_in_half_precision_is_caught() -> None:
    watch = _watch(LORA, tiny_network())
    adapted = LORA.adapt(tiny_network(), heads=("head",), rank=2, seed=0)
    _cast_adapter(adapted)
    with contextlib.suppress(RuntimeError):
        watch.before_training(adapted)
    data = tiny_data()
    wrong = of_other_dtype(
        adapted,
        tiny_network(),
        objective=Objective(),
        probe=(data.test_images, data.test_labels),
        adapter_in_float32=True,
    )
    assert wrong == ["base_model.model.linear.lora_A.default.weight"]


def _hand_on(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """Return a fault: one layer hands on something else, and the next takes it back."""

    def strike(model: nn.Module) -> None:
        norm: Any = model.get_submodule("base_model.model.norm")
        norm.register_forward_pre_hook(
            lambda module, args: tuple(arg.to(module.weight.dtype) for arg in args)
        )
        conv = model.get_submodule("base_model.model.conv")
        conv.register_forward_hook(lambda _module, _args, out: change(out))

    return strike


def test_activations_of_a_wider_type_are_caught() -> None:
    fault = Faulty(method=method_named("lora-bf16"), adapting=_hand_on(lambda out: out.float()))
    assert _broken(_watched(fault)) == {"dtypes_as_asked"}


def test_a_layer_that_loses_the_memory_format_is_caught() -> None:
    fault = Faulty(method=LORA, adapting=_hand_on(lambda out: out.contiguous()))
    assert _broken(_watched(fault)) == {"channels_last_kept"}


# Shipping


@pytest.mark.parametrize(
    ("method", "rank", "name"),
    [
        (LORA, 2, "base_model.model.linear.lora_A.weight"),
        (LORA, 2, "head.bias"),
        (DORA, 2, "base_model.model.conv.lora_magnitude_vector"),
        (BN_HEAD, None, "norm.running_var"),
        (FULL, None, "norm.bias"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_shipped_tensor_that_is_not_the_trained_one_is_caught(
    method: Any, rank: int | None, name: str
) -> None:
    def strike(shipped: dict[str, Tensor]) -> None:
        if name in shipped:  # the head has a file of its own
            shipped[name].view(-1)[0] += 0.3

    broken = _broken(_watched(Faulty(method=method, shipping=strike), rank))
    assert broken == {"saved_adapter_reloads", *KNOWN_FALSE.get(method.name, set())}


def test_a_loaded_tensor_that_the_probe_does_not_show_is_caught() -> None:
    """The dead unit's bias: no output has a part of it."""

    def dead(model: nn.Module) -> None:
        with torch.no_grad():
            model.get_parameter("base_model.model.head.weight")[:, 0] = 0

    name = "base_model.model.linear.lora_B.default.weight"
    fault = Faulty(method=LORA, loading=_add(name, 0.5))
    found = _watched(fault, training=dead)
    assert _broken(found) == {"saved_adapter_reloads"}


def test_what_is_loaded_to_train_on_has_the_numbers_that_are_loaded_for_use() -> None:
    def only_to_train(model: nn.Module) -> None:
        if model.get_parameter("base_model.model.head.bias").requires_grad:
            _add("base_model.model.head.bias", 0.5)(model)

    assert _broken(_watched(Faulty(method=LORA, loading=only_to_train))) == {
        "reload_keeps_trainable"
    }


def test_the_watch_is_not_fooled_by_a_base_that_adapting_changes_in_place() -> None:
    base = tiny_network()
    kept = copy.deepcopy(base)
    watch = _watch(FULL, base, None)
    _add("conv.weight", 0.5)(base)
    watch.before_training(base)
    optimizer = FULL.make_optimizer(base, rank=None)
    assert watch.after_training(base, optimizer)["identity_at_init"].holds is False
    assert not torch.equal(base.conv.weight, kept.conv.weight)


def test_loading_that_loses_what_trains_is_caught() -> None:
    def freeze(model: nn.Module) -> None:
        model.requires_grad_(requires_grad=False)

    assert _broken(_watched(Faulty(method=LORA, loading=freeze))) == {"reload_keeps_trainable"}


def test_an_adapter_that_trains_on_although_it_was_only_to_be_used_is_caught() -> None:
    def thaw(model: nn.Module) -> None:
        parameter = model.get_parameter("base_model.model.linear.lora_A.default.weight")
        parameter.requires_grad_(requires_grad=True)

    assert _broken(_watched(Faulty(method=LORA, loading=thaw))) == {"reload_keeps_trainable"}


@pytest.mark.parametrize("name", ["lora", "adalora", "ln_tuning", "lora-bf16", "bn_head", "full"])
def test_what_was_stored_loads_and_gives_its_output_or_is_caught(name: str, tmp_path: Path) -> None:
    method = method_named(name)
    rank = rank_of(method)
    model = trained(method)
    method.save(model, tmp_path)
    base = cast_base(tiny_network(), method.base_dtype)
    logits = _watch(method, base, rank).rows(model)
    assert len(logits) == 8

    def found(stored: list[list[float]]) -> bool | None:
        output = StoredOutput(folder=tmp_path, rows=stored)
        return _watched(method, rank, stored=output)["stored_adapter_loads"]

    assert found(logits) is True
    logits[3][1] *= 1.001
    assert found(logits) is False
    assert found([[math.nan] * 4] * 8) is False
    next(tmp_path.glob("*.safetensors")).unlink()
    assert found(logits) is False
