"""Certify what a brief fine-tuning computes: two digests, made while its first steps run.

`graph`: the operators of the first steps of the first seed and of its evaluation, as a program over
storages, with torch's settings and kernels. `state`: what they start from, of each seed: weights,
batches, test data, generators. With both equal, and the same torch, another run would compute the
same: so it need not.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any, Final

import torch
from msgspec import UNSET
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import (
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from peft_regress.cost.storages import tensors_in
from peft_regress.measure.computation.code import CodeDigest
from peft_regress.measure.computation.contents import (
    Digest,
    bytes_digest,
    form_of,
    leaves_of,
)
from peft_regress.measure.computation.kept import (
    Code,
    Kept,
    TooManyObjectsError,
    drawn_outside_torch,
    kept_by,
)
from peft_regress.measure.computation.named import foreign_functions
from peft_regress.measure.computation.operators import OperatorTrace
from peft_regress.measure.computation.settings import registrations, torch_settings
from peft_regress.measure.trees import named_tensors
from peft_regress.runs.schema import Computation, digest_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from msgspec import UnsetType
    from torch import Tensor
    from torch.optim import Optimizer

    from peft_regress.measure.computation.operators import Program

VERSION: Final = 1
"""Raised by hand when the way of making the digests changes."""
TRACED_STEPS: Final = 3
"""The optimizer's state is made in the first step; the next two show what stays the same."""
_PLAIN: Final = (bool, int, float, complex, str, bytes, type(None))
_TORCH: Final = (torch.nn.functional, torch, torch.Tensor)
"""Where functions of torch may have been replaced."""


class ComputationTrace:
    """Digest one case's training while it runs, or its first steps alone.

    Call `start` for each seed with the model and the optimizer that will train; then, for the seed,
    `batch` for each of its training batches; for the first seed also `step` around each of the
    first steps, `stepped` after each step, and `evaluation` around the scoring. `computation` has
    the result, `problem` why there is none.
    """

    def __init__(
        self,
        *,
        steps: int,
        scored_by: Sequence[Callable[..., Any]] = (),
        runs: Sequence[Callable[..., Any]] = (),
        stated: Sequence[tuple[str, ...]] = (),
    ) -> None:
        """Trace a training of so many steps.

        scored_by: functions of the case's own that turn outputs into numbers outside torch. runs:
        other functions of its own that run while it trains. stated: what its author says of the
        numbers, which decides how they are judged.
        """
        self.problem: str | None = None
        self._steps = self._planned = steps
        self._runs = (*scored_by, *runs)
        self._operators = OperatorTrace()
        self._code = CodeDigest([*stated, *scored_by])
        self._operators.readers |= self._code.codes
        self._forms: list[Any] = []
        self._at_start: list[Any] = []
        self._programs: list[Program] = []
        self._kept: list[Kept] = []
        self._roots: list[Any] = []
        self._met = Code()
        self._settings: list[Any] = []
        self._hyperparameters = Digest()
        self._weights: list[dict[str, str]] = []
        self._beside: list[list[str]] = []
        self._batches = Digest()
        self._test = Digest()
        self._drawn = self._drawn_outside = ""
        self._schedule: LRScheduler | None = None
        if steps <= TRACED_STEPS:
            self.refuse(f"it takes {steps} steps, no more than a certificate does")
        if not self._code.is_whole:
            self.refuse("the functions that score it name too much code")

    # --- What the training calls ---

    def start(self, model: nn.Module, optimizer: Optimizer, *, steps: int) -> None:
        """Digest what the training of the next seed starts from, right before its first step.

        steps: how many it is about to take.
        """
        if self.problem is not None:
            return
        self._planned = steps
        tensors = _tensors_of(model)
        self._weights.append({name: bytes_digest(tensor) for name, tensor in tensors.items()})
        kept = self._kept_by([model, *self._runs], code=None)
        known = {id(tensor.untyped_storage()) for tensor in tensors.values()}
        others = [one for one in kept.tensors if id(one.untyped_storage()) not in known]
        self._beside.append([*kept.generators, *map(bytes_digest, others)])
        self._batches.add("seed")
        if len(self._weights) > 1:
            if repr(kept.plain) != repr(self._at_start):
                self.refuse("the models of two seeds keep different numbers")
            return
        self._at_start = kept.plain
        self._operators.follow(tensors)
        self._check_optimizer(optimizer)
        if optimizer.state:
            self.refuse("the optimizer has a state before its first step")

    @property
    def records_next_step(self) -> bool:
        """Whether the next step is one of the first steps of the first seed."""
        is_first_seed = len(self._weights) == 1
        return self.problem is None and is_first_seed and len(self._programs) < TRACED_STEPS

    def batch(self, batch: Any) -> None:
        """Digest a training batch; refuse one of another form than in the steps that are traced."""
        if self.problem is not None:
            return
        form = self._add_batch(self._batches, batch)
        if self.records_next_step:
            self._forms.append(form)
        elif form != self._forms[-1]:
            self.refuse("a batch has another form than in the first steps")

    def test_batch(self, batch: Any) -> None:
        """Digest a test batch."""
        if self.problem is None:
            self._add_batch(self._test, batch)

    def _add_batch(self, digest: Digest, batch: Any) -> list[Any]:
        """Digest what a batch holds, and return its form."""
        form: list[Any] = []
        for leaf in leaves_of(batch):
            if isinstance(leaf, torch.Tensor):
                digest.add(bytes_digest(leaf))
                form.append(form_of(leaf))
            elif isinstance(leaf, _PLAIN):
                digest.add(leaf)
                form.append(leaf)
            else:
                self.refuse(f"a batch has a {type(leaf).__name__}")
        return form

    @contextlib.contextmanager
    def step(
        self, batch: Any, optimizer: Optimizer, loss: Callable[[nn.Module, Any], Tensor]
    ) -> Iterator[Callable[[nn.Module, Any], Tensor]]:
        """Record the operators of a step; gives the loss to call in place of the given one."""
        operators = self._operators

        def traced_loss(model: nn.Module, batch: Any) -> Tensor:
            operators.loss = loss(model, batch)
            return operators.loss

        def enter(stepping: Optimizer, *_: Any) -> None:
            operators.in_optimizer = stepping is optimizer and self.problem is None

        def leave(*_: Any) -> None:
            operators.in_optimizer = False

        self._settings.append(torch_settings())
        handles = [
            # Not the optimizer's own hooks, from which one may be removed while they run.
            register_optimizer_step_pre_hook(enter),
            register_optimizer_step_post_hook(leave),
        ]
        try:
            with operators.step(named_tensors(batch)) as program:
                yield traced_loss
        finally:
            for handle in handles:
                handle.remove()
        self._programs.append(program)
        self._settings.append(torch_settings())

    def stepped(self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler | None) -> None:
        """Note the optimizer's settings after a step of the first seed, and what objects keep."""
        if self.problem is not None or len(self._weights) > 1:
            return
        self._hyperparameters.add(_numbers_of(optimizer))
        self._schedule = schedule
        count = len(self._programs)
        if count == len(self._kept):
            return
        self._check_optimizer(optimizer)
        if schedule is not None and not _is_stock(schedule):
            self.refuse(f"{type(schedule).__name__} is not a schedule of torch's own alone")
        kept = Kept()
        if count >= TRACED_STEPS - 1:
            replaced = [one for owner in _TORCH for one in foreign_functions(owner)]
            types = [type(optimizer), *map(type, _parts_of(schedule))]
            self._roots = [model, *self._runs, *_functions_of(schedule), *types, *replaced]
            beside = [optimizer, *_parts_of(schedule)]
            kept = self._kept_by(self._roots, beside=beside, code=self._met)
            if kept.met:
                self.refuse("the model or its loss knows the optimizer or its schedule")
            if count == TRACED_STEPS and drawn_outside_torch() != self._drawn_outside:
                self.refuse("a step draws from a generator outside torch")
            self._drawn_outside = drawn_outside_torch()
        self._kept.append(kept)
        if count == TRACED_STEPS:
            self._drawn = bytes_digest(torch.get_rng_state())

    def _kept_by(
        self, roots: Sequence[Any], *, code: Code | None, beside: Sequence[Any] = ()
    ) -> Kept:
        try:
            return kept_by(roots, beside=beside, code=code)
        except TooManyObjectsError:
            self.refuse("there are too many objects to look at")
        except Exception as error:  # noqa: BLE001  (an object's own code may run)
            self.refuse(f"its objects cannot be looked at: {type(error).__name__}")
        return Kept()

    def rest_of_schedule(self, optimizer: Optimizer) -> None:
        """Note the settings of the steps that are not taken."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the schedule expects updates
            for _ in range(self._planned - TRACED_STEPS):
                if self._schedule is not None:
                    self._schedule.step()
                self._hyperparameters.add(_numbers_of(optimizer))

    @contextlib.contextmanager
    def evaluation(self, model: nn.Module, batches: Sequence[Any]) -> Iterator[None]:
        """Record the operators of the first seed's evaluation on test batches."""
        if self.problem is not None or len(self._programs) != TRACED_STEPS:
            yield
            return
        operators = self._operators

        def enter(*_: Any) -> None:
            operators.may_read = False

        def leave(*_: Any) -> None:
            operators.may_read = True

        handles = [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
        drawn = drawn_outside_torch()
        operators.may_read = True
        operators.look_again()
        try:
            with operators.step(named_tensors(list(batches))) as program:
                yield
        finally:
            operators.may_read = False
            for handle in handles:
                handle.remove()
        self._programs.append(program)
        if self.problem is None:
            self._kept.append(self._kept_by(self._roots, code=self._met))
            if drawn_outside_torch() != drawn:
                self.refuse("its evaluation draws from a generator outside torch")

    # --- The result ---

    @property
    def computation(self) -> Computation | UnsetType:
        """Return the digests; unset, with `problem`, where they would not tell everything."""
        self._check()
        if self.problem is not None:
            return UNSET
        version = str(torch.__version__)  # a class of its own
        return Computation(graph=self._graph(), state=self._state(), torch=version)

    def refuse(self, problem: str) -> None:
        """Make no digests, for the first reason that is given."""
        self.problem = self.problem or problem

    def _check_optimizer(self, optimizer: Optimizer) -> None:
        if not _is_of_torch(optimizer):
            cls = type(optimizer)
            name = f"{cls.__module__}.{cls.__qualname__}"
            self.refuse(f"the optimizer {name} is not torch's own")
        if len(self._programs) and _has_hooks(optimizer):
            self.refuse("hooks run in the optimizer's step")

    def _check(self) -> None:
        if self.problem is None and self._operators.problem is not None:
            self.refuse(self._operators.problem)
        if self.problem is not None:
            return
        if len(self._programs) != TRACED_STEPS + 1:
            self.refuse("it did not take its first steps")
            return
        before, last = self._programs[TRACED_STEPS - 2 : TRACED_STEPS]
        if not last.has_structure_of(before):
            self.refuse(f"step {TRACED_STEPS} is not like step {TRACED_STEPS - 1}")
        if len({repr(kept.numbers) for kept in self._kept[TRACED_STEPS - 2 :]}) > 1:
            self.refuse("a number that an object keeps changes from step to step")
        if any(one != self._settings[0] for one in self._settings):
            self.refuse("a setting of torch changes in a step")
        _, in_python = registrations(self._operators.operators.values())
        if in_python:
            self.refuse(f"{in_python[0]} runs Python code")

    def _graph(self) -> str:
        digest = Digest()
        digest.add(("version", VERSION, self._steps, len(self._weights)))
        digest.add(self._settings[0])
        digest.add(registrations(self._operators.operators.values())[0])
        for program in self._programs:
            digest.add("step")
            for line in program.lines:
                digest.add(tuple(line))
        digest.add(self._hyperparameters.hexdigest())
        digest.add(self._code.hexdigest())
        return digest_of(digest.hexdigest().encode())

    def _state(self) -> str:
        digest = Digest()
        for weights, beside in zip(self._weights, self._beside, strict=True):
            digest.add([weights.get(name) for name in self._operators.leaves])
            digest.add(beside)
        for part in (self._batches, self._test):
            digest.add(part.hexdigest())
        digest.add(self._drawn)
        return digest_of(digest.hexdigest().encode())


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, buffers and tensors in plain attributes, by name."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = [*module._parameters.items(), *module._buffers.items()]  # noqa: SLF001
        found |= {f"{name}.{key}": tensor for key, tensor in own if tensor is not None}
        for key, value in vars(module).items():
            if key not in _OF_EVERY_MODULE:
                for place, tensor in enumerate(tensors_in(value)):
                    found[f"{name}.{key}.{place}"] = tensor
    return found


_OF_EVERY_MODULE: Final = frozenset(vars(nn.Module()))


def _is_of_torch(optimizer: Optimizer) -> bool:
    """Return whether an optimizer is torch's own, and steps as torch wrote it."""
    cls = type(optimizer)
    own = vars(optimizer).get("step")
    is_counted = own is None or hasattr(own, "_wrapped_by_lr_sched")
    is_patched = any(next(foreign_functions(one), None) for one in cls.__mro__)
    return is_counted and cls.__module__.startswith("torch.optim.") and not is_patched


def _has_hooks(optimizer: Optimizer) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks  # noqa: SLF001
        or optimizer._optimizer_step_post_hooks  # noqa: SLF001
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
    )


def _is_stock(schedule: LRScheduler) -> bool:
    """Return whether a schedule depends on nothing but the count of steps."""
    kinds = [type(part) for part in _parts_of(schedule)]
    if any(kind.__module__ != LRScheduler.__module__ for kind in kinds):
        return False
    roots, beside = [*kinds, *_functions_of(schedule)], _parts_of(schedule)
    return not kept_by(roots, beside=beside, code=Code()).tensors


def _parts_of(schedule: Any) -> list[Any]:
    """Return a schedule and those that it is made of."""
    if schedule is None:
        return []
    inner = [*getattr(schedule, "_schedulers", ()), *getattr(schedule, "schedulers", ())]
    return [schedule, *(part for one in inner for part in _parts_of(one))]


def _functions_of(schedule: Any) -> list[Any]:
    """Return the functions and other callables that a schedule holds."""
    held = [value for part in _parts_of(schedule) for value in vars(part).values()]
    flat = [one for value in held for one in (value if isinstance(value, list) else [value])]
    return [one for one in flat if callable(one) and not isinstance(one, LRScheduler)]


def _numbers_of(optimizer: Optimizer) -> list[Any]:
    """Return the settings of each group: numbers, flags and tuples of them."""
    return [
        sorted(
            (name, repr(float(value) if isinstance(value, torch.Tensor) else value))
            for name, value in group.items()
            if name != "params"
        )
        for group in optimizer.param_groups
    ]
