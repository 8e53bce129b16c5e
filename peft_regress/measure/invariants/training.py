"""What trains, what stays as it was, and what changed in a training; whether it keeps memory."""

import ctypes
import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from peft_regress.catalogue.methods.method import Method, base_name, base_prefix
from peft_regress.measure.data import Data
from peft_regress.measure.invariants import facts
from peft_regress.measure.invariants.facts import Fact
from peft_regress.measure.recipe import Recipe
from peft_regress.memory.packing import set_packings
from peft_regress.metrics import format_value

_STATISTICS: Final = (".running_mean", ".running_var", ".num_batches_tracked")

FIRST_STEPS: Final = 3
"""Of the steps after these, none may keep memory: optimizers have made their state by then."""

# How much more may be in use at the end. Seen on 56 cases of both matrices in 30 steps: at most
# 14 KiB, since C++ and Python keep small objects for later use. A list of losses without their
# graphs grows by 0.3 to 0.5 KiB a step; a kept gradient or activation of 32 images by its size.
ALLOWED_BYTES: Final = 32 * 1024
ALLOWED_BYTES_PER_STEP: Final = 1024


class TrainingFacts:
    """The facts of what trains, after wrapping, after one step and after training."""

    def __init__(self, *, adapter: Method, base: nn.Module, steps: int) -> None:
        self._adapter = adapter
        self._base = base
        self._steps = steps
        by_rule = adapter.expected_trainable(base)
        self.has_rule = by_rule is not None
        """Whether a rule says what must train."""
        self.expected: dict[str, tuple[int, ...]] = dict(by_rule or {})
        """Name and shape of what must train; without a rule, of what trains after wrapping."""
        self.before: dict[str, Tensor] = {}
        """Copies of the adapted model's tensors, before its training."""
        self._after_first_step: dict[str, Fact] = {}
        self._projections: dict[str, Tensor] = {}

    def watch_first_step(self, adapted: nn.Module, optimizer: Optimizer) -> None:
        """Check again right after the first update; what trains, the optimizer may have frozen."""
        if not self.has_rule:
            self.expected = facts.trainable(adapted)

        def check(*_: object) -> None:
            handle.remove()
            # Whoever records the step must not see the checks.
            with _disable_current_modes():
                self._after_first_step = self._of_now(adapted)
                held = self._adapter.projections(optimizer)
                self._projections = {name: tensor.clone() for name, tensor in held.items()}

        handle = optimizer.register_step_post_hook(check)

    @facts.judged
    def trainable_as_expected(self, model: nn.Module) -> None:
        """Check that what must train does, at this moment."""
        facts.check_none(sorted(dict(facts.trainable(model).items() ^ self.expected.items())))
        if not self.has_rule:
            raise facts.null("no rule says what must train; the reference's set judges it")

    def _of_now(self, adapted: nn.Module) -> dict[str, Fact]:
        return {
            "expected_trainable": self.trainable_as_expected(adapted),
            "frozen_unchanged": self._unchanged(adapted),
        }

    def after(self, adapted: nn.Module, optimizer: Optimizer, at_start: Fact) -> dict[str, Fact]:
        """Check at the end, with what was seen after the first step and at the start."""
        now = self._of_now(adapted)
        no_step = dict.fromkeys(now, facts.false("the optimizer took no step").fact)
        for seen in ({"expected_trainable": at_start}, self._after_first_step or no_step):
            now |= {name: fact for name, fact in seen.items() if fact.holds is False}
        now["trainable_changed"] = self._trainable_changed(adapted)
        now["projections_renewed"] = self._projections_renewed(optimizer)
        return now

    @facts.judged
    def _trainable_changed(self, adapted: nn.Module) -> None:
        before = {name: one for name, one in self.before.items() if name in self.expected}
        after = facts.named_tensors(adapted)
        changed = {name for name in facts.moved(before, after) if name in after}
        prunes = self._adapter.prunes
        still = (name for name in self.expected if name not in changed)
        facts.check_none([n for n in still if not any(part in n for part in prunes)])

    @facts.judged
    def _unchanged(self, adapted: nn.Module) -> None:
        after = facts.named_tensors(adapted)
        may_move = _STATISTICS if self._adapter.trains_batch_norm_statistics else ()
        prefix = base_prefix(adapted, self._base)
        frozen = {
            name: tensor
            for name, tensor in self.before.items()
            if name not in self.expected
            and not name.endswith(may_move)
            and base_name(name, prefix) not in self._adapter.moving
        }
        facts.check_none([*facts.moved(frozen, after), *sorted(after.keys() - self.before.keys())])

    @facts.judged
    def _projections_renewed(self, optimizer: Optimizer) -> None:
        now = self._adapter.projections(optimizer)
        if not now:
            raise facts.null("the optimizer projects no gradients")
        # Any layer is enough: a layer without a gradient gives the same vectors again.
        before = self._projections
        if now.keys() == before.keys() and facts.moved(before, now):
            return
        gaps = [group["update_proj_gap"] for group in optimizer.param_groups if "rank" in group]
        if gaps and (gap := min(gaps)) >= self._steps:
            raise facts.null(f"they are renewed every {gap} steps, the case takes {self._steps}")
        raise facts.false("they are those of the first step")


@facts.judged
def trains_alike(recipe: Recipe, data: Data, losses: Sequence[float]) -> None:
    """Train a plain model from the same start; `losses` are those of the lean one, in nats."""
    seed = recipe.seeds[0]
    plain = recipe.adapted_model(seed)
    set_packings(plain, {})
    batches = recipe.batches(data, seed=seed)
    expected = recipe.train(plain, recipe.make_optimizer(plain), batches, seed=seed).losses
    for step, (one, other) in enumerate(zip(losses, expected, strict=True), start=1):
        if one != other:
            note = f"the loss of step {step} is {one!r} if lean, {other!r} otherwise"
            raise facts.false(note, size=abs(one - other))


class _Usage(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names.split())


@functools.cache
def _allocated() -> Callable[[], int] | None:
    """Return what asks the allocator for the bytes in use, in its arenas and mapped alone."""
    usage = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if usage is None:
        return None
    usage.restype = _Usage

    def allocated() -> int:
        found = usage()
        return int(found.uordblks + found.hblkhd)

    # Nothing is in use if another allocator is preloaded.
    return allocated if allocated() else None


@dataclass
class MemoryWatch:
    """Compares the memory in use after the first steps of a training and after its last."""

    steps: int
    _after_first: int = 0
    _grown_bytes: int | None = None

    def stepped(self, step: int) -> None:
        """Look at the memory after one of these steps; they count from 1."""
        allocated = _allocated()
        if allocated is None:
            return
        if step == FIRST_STEPS:
            gc.freeze()  # garbage of before must stay, or it would make up for what is kept
            self._after_first = allocated()
        elif step == self.steps > FIRST_STEPS:
            gc.collect()  # what there is since then: it takes no time
            self._grown_bytes = allocated() - self._after_first

    def end(self) -> None:
        """Let garbage of before be collected again, however the training ended."""
        gc.unfreeze()

    @property
    @facts.judged
    def fact(self) -> None:
        """Check that the training kept no memory."""
        if _allocated() is None:
            raise facts.null("the allocator does not say what is in use, as glibc's 2.33 does")
        if self._grown_bytes is None:
            raise facts.null(f"only what is kept after step {FIRST_STEPS} counts")
        most = ALLOWED_BYTES + (self.steps - FIRST_STEPS) * ALLOWED_BYTES_PER_STEP
        if self._grown_bytes > most:
            grown, allowed = (format_value(size, "byte") for size in (self._grown_bytes, most))
            raise facts.false(
                f"from step {FIRST_STEPS} to step {self.steps} the memory in use grows by "
                f"{grown}; {allowed} would be usual",
                size=self._grown_bytes,
            )
