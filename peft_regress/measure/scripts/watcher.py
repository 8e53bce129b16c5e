"""Watch whatever trains in this process, by torch's global hooks, and end it after some steps.

A *step* is one of the optimizer that stepped first; other optimizers' steps and all `backward`
calls since the step before belong to it. Operators are recorded from the first forward pass that
can train until the end of the second step.
"""

import contextlib
import hashlib
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import _get_current_dispatch_mode

from peft_regress.cost.batches import named_tensors
from peft_regress.cost.module_trail import module_names
from peft_regress.cost.step_cost import Mark, Phase, StepLog, StepMarks, sites_after
from peft_regress.errors import InputError
from peft_regress.imports import told
from peft_regress.measure.float64 import Raising
from peft_regress.measure.inputs import BatchSums, numbers_of, summaries_of
from peft_regress.measure.scripts import observation as seen
from peft_regress.measure.scripts import script_recorder as recording
from peft_regress.measure.scripts.horizon import STEPS_BESIDE, Horizon
from peft_regress.measure.training import begin_alike
from peft_regress.runs.environment import imported_packages, loaded_packages
from peft_regress.runs.schema import Failure

RECORDED_STEPS: Final = 2
_SECONDS_TO_END: Final = 5
"""What a script that catches everything, or trains in a thread, has to end by itself."""

_BACKWARD: Final = "a backward pass"
_UPDATE: Final = "an optimizer step"
Result = TypeVar("Result")


class WatchEnded(BaseException):
    """The steps are over. No `except Exception` catches it."""


class Watcher:
    """What has been seen so far; `start` installs the hooks."""

    def __init__(self, request: seen.WatchRequest) -> None:
        self._request = request
        self._depth = 0
        """Of the calls of modules outside a backward pass."""
        self._backward_depth = 0
        self._modules: list[nn.Module] = []
        """The outermost modules that can train."""
        self._recorder: recording.ScriptRecorder | None = None
        self._marks: list[Mark] = []
        """Where the first step begins, where each recorded one ends."""
        self._backward_mark: Mark | None = None
        self._optimizer_mark: Mark | None = None
        self._optimizers: dict[int, seen.OptimizerSeen] = {}
        self._main: Optimizer | None = None
        """The optimizer whose steps count."""
        self._inside: list[tuple[Optimizer, Phase]] = []
        """The optimizers that step, with the phase before."""
        self._inputs: dict[str, Tensor] = {}
        self._micro_batches: list[seen.MicroBatch] = []
        self._losses = recording.Losses()
        self._horizon = Horizon()
        self._norms: dict[int, float] = {}
        """Of each gradient as the last backward pass left it, by the parameter."""
        self._norm = self._unclipped_norm = 0.0
        self._rates: tuple[float, ...] = ()
        self._step_began = time.perf_counter()
        self._steps: list[seen.Step] = []
        self._later: deque[seen.Step] = deque(maxlen=STEPS_BESIDE)
        """The last steps beyond those asked for, on the way to an event."""
        self._facts: dict[str, Any] = {}
        self._notes: list[str] = []
        self._is_over = False
        self._lazy: nn.Module | None = None
        """An outermost module whose parameters are made in its first forward pass."""
        self._model: nn.Module | None = None
        """The module that owns what the first optimizer trains."""
        self._float64 = Raising() if request.float64 else None  # type: ignore[no-untyped-call]
        self._failed = ""
        self._is_blind = False
        """Whether a hook has failed without which no step is known."""

    def start(self) -> None:
        """Install the hooks, for the whole process."""
        if self._float64 is not None:
            torch.set_default_dtype(torch.float64)
            self._float64.__enter__()  # type: ignore[no-untyped-call]
        module_hooks = torch.nn.modules.module
        forward, update = (partial(self._safely, where) for where in ("a forward pass", _UPDATE))
        module_hooks.register_module_forward_pre_hook(partial(forward, self._enter_module))
        leave = partial(forward, self._leave_module)
        module_hooks.register_module_forward_hook(leave, always_call=True)
        optimizers.register_optimizer_step_pre_hook(partial(update, self._enter_optimizer))
        optimizers.register_optimizer_step_post_hook(partial(update, self._leave_optimizer))
        backward, compiled = torch.autograd.backward, torch.compile

        def watched_backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
            inside = self._in_backward(tensors)
            self._safely(_BACKWARD, inside.__enter__)
            try:
                backward(tensors, *args, **kwargs)
            finally:
                self._safely(_BACKWARD, inside.__exit__, None, None, None)

        def named_compile(model: Any = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(model, nn.Module):  # libraries compile functions when they are imported
                self._notes = ["torch.compile is left out: the watched steps run in eager mode"]
            return compiled(model, *args, **kwargs)

        # torch has no hook for these. `Tensor.backward` calls the function.
        torch.autograd.backward = watched_backward
        torch.compile = named_compile
        self._losses.follow_scalers(partial(self._safely, "a GradScaler"))
        self._horizon.follow_loaders(partial(self._safely, "a DataLoader"))

    def _safely(self, where: str, hook: Callable[..., Result], *args: Any) -> Result | None:
        """Call a hook. If it fails, the script goes on, and what cannot be known is absent."""
        if self._is_over:
            return None
        if not self._is_blind:
            try:
                return hook(*args)
            except Exception as error:  # noqa: BLE001  (whatever it is, the script goes on)
                self._failed = self._failed or f"the watcher failed in {where}: {told(error)}"
                self._is_blind = where in {_BACKWARD, _UPDATE}
                self._facts.pop("costs", None)
                self._stop_recording()
        elif hook == self._leave_optimizer:
            self._horizon.steps += 1
            if self._horizon.steps >= self._request.steps:
                self._end()
        return None

    def _enter_module(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._float64 is not None:
            self._float64.watches = True
        self._enter_outermost(module, args)
        if self._recorder is not None:
            self._recorder.enter_module(module)

    def _enter_outermost(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._backward_depth:
            return
        self._depth += 1
        if self._depth > 1:
            return
        if not torch.is_grad_enabled():
            self._note_evaluation(module)
            return
        parameters = list(module.parameters())
        if not any(one.requires_grad and not one.is_meta for one in parameters):
            return
        # A global hook gets no keyword arguments; they are in the frame that calls `_safely`.
        kwargs = sys._getframe(3).f_locals.get("kwargs", {})  # noqa: SLF001
        inputs = {**{str(at): value for at, value in enumerate(args)}, **kwargs}
        tensors = list(named_tensors(inputs))
        if module not in self._modules:
            if any(map(is_lazy, parameters)):
                self._lazy = module
            else:
                self._follow(module)
                self._begin_alike(module, dict(tensors))
        if self._recorder is not None:
            self._recorder.hold_batch(tensor for _, tensor in tensors)
        for name, tensor in tensors:
            if recording.has_one_storage(tensor):
                self._keep_input(name, tensor)

    def _begin_alike(self, module: nn.Module, batch: dict[str, Tensor]) -> None:
        """Begin with the weights of another run of the script; only its batch must be the same."""
        start, mode = self._request.kept_start, self._float64
        if start is None or mode is None or len(self._modules) > 1:
            return
        try:
            (kept,) = begin_alike(Path(start), module, [batch])
        except InputError as error:
            mode.left = str(error)
            return
        if kept.keys() != batch.keys() or not all(map(torch.equal, kept.values(), batch.values())):
            mode.left = "it has another first batch"

    def _keep_input(self, name: str, tensor: Tensor) -> None:
        while name in self._inputs:
            name += "'"  # the next call of the same micro-batch
        with recording.unrecorded():
            self._inputs[name] = tensor.detach()

    def _note_evaluation(self, module: nn.Module) -> None:
        """Note an evaluation, if the module has what trains: a reference model has nothing."""
        trained = {id(one) for one in _parameters(self._main)} if self._main is not None else {}
        if not module.training and any(id(one) in trained for one in module.parameters()):
            self._horizon.note("evaluation")

    def _leave_module(self, module: nn.Module, _args: object, _output: object) -> None:
        if self._recorder is not None:
            self._recorder.leave_module(module)
        if not self._backward_depth:
            self._depth = max(self._depth - 1, 0)
        if module is self._lazy:
            self._lazy = None
            self._follow(module)

    def _follow(self, module: nn.Module) -> None:
        """Begin to follow an outermost module; the first one begins the first step."""
        self._modules.append(module)
        if self._float64 is not None:
            self._float64.raise_weights(module)
        with recording.unrecorded():
            self._facts.setdefault("weights", {}).update(summaries_of(module))
        device = next(module.parameters()).device.type
        if torch.is_autocast_enabled(device):
            self._facts["autocast"] = str(torch.get_autocast_dtype(device)).removeprefix("torch.")
        if self._steps or self._failed or self._float64 is not None:
            return
        if self._recorder is None:
            self._recorder = recording.ScriptRecorder(self._safely)
            self._recorder.__enter__()  # type: ignore[no-untyped-call]
            self._step_began = time.perf_counter()
        self._recorder.follow(module)
        if not self._marks:
            self._marks.append(self._recorder.mark())

    @contextlib.contextmanager
    def _in_backward(self, tensors: Any) -> Iterator[None]:
        self._backward_depth += 1
        is_outermost = self._backward_depth == 1
        recorder, before = self._recorder, None
        if is_outermost and not self._is_over:
            with recording.unrecorded():
                loss, divisor = self._losses.read(tensors)
                sums = BatchSums(rows=not self._steps and not self._micro_batches)
                sums.add(self._inputs)
                digests = {
                    name: digest_of(tensor)
                    for name, tensor in self._inputs.items()
                    if not tensor.is_floating_point() and not tensor.is_complex()
                }
            inputs = sums.summaries()
            batch = seen.MicroBatch(loss=loss, divisor=divisor, inputs=inputs, digests=digests)
            self._micro_batches.append(batch)
            self._horizon.passes += 1
            self._inputs = {}
            if recorder is not None:
                before, recorder.phase = recorder.phase, "backward"
                self._backward_mark = self._backward_mark or recorder.mark()
        try:
            yield
        finally:
            self._backward_depth -= 1
            if before is not None and recorder is not None:
                recorder.phase = before
                recorder.is_fetching = True
            if is_outermost and not self._is_over:
                with recording.unrecorded():
                    self._norms = _norms(self._trainable(), self._losses.scale)

    def _trainable(self) -> Iterator[Tensor]:
        """Yield the parameters that may train, some of them twice."""
        for module in self._modules:
            yield from module.parameters()
        if self._main is not None:
            yield from _parameters(self._main)

    def _enter_optimizer(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        before: Phase = self._recorder.phase if self._recorder is not None else "forward"
        self._inside.append((optimizer, before))
        if len(self._inside) > 1:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._begin_update(optimizer)
            return None

        def watched() -> Any:
            """Call the closure: its passes, as Lightning's all are, are no part of the update."""
            if self._recorder is not None:
                self._recorder.phase = before
            loss = closure()
            self._safely(_UPDATE, self._begin_update, optimizer)
            return loss

        return args[:1], {**kwargs, "closure": watched}

    def _begin_update(self, optimizer: Optimizer) -> None:
        self._main = self._main or optimizer
        name = type(optimizer).__name__
        known = self._optimizers.get(id(optimizer), seen.OptimizerSeen(name=name, groups=()))
        count = len(known.groups)
        if added := numbers_of(optimizer)[count:]:  # at its first step, and later ones
            groups = (*known.groups, *added)
            self._optimizers[id(optimizer)] = seen.OptimizerSeen(name=name, groups=groups)
            self._note_trained(optimizer, optimizer.param_groups[count:])
        if optimizer is self._main:
            with recording.unrecorded():
                # A fused optimizer takes the scaler's factor out itself.
                held = getattr(optimizer, "grad_scale", None)
                after = _norms(_parameters(optimizer), 1.0 if held is None else float(held))
            self._norm = math.hypot(*after.values())
            self._unclipped_norm = math.hypot(*(self._norms.get(key, 0.0) for key in after))
            rates = (group["lr"] for group in optimizer.param_groups if "lr" in group)
            self._rates = tuple(map(float, rates))
        recorder = self._recorder
        if recorder is not None:
            recorder.phase = "optimizer"
            recorder.is_fetching = False
            if optimizer is self._main:
                self._optimizer_mark = recorder.mark()

    def _leave_optimizer(self, optimizer: Optimizer, *_: object) -> None:
        before = self._inside.pop()[1]
        if self._inside:
            return
        recorder = self._recorder
        if recorder is not None:
            recorder.hold_parameters()
            recorder.phase = before
            recorder.is_fetching = True
        # A fused optimizer that got infinite gradients from a scaler has taken no step.
        is_step = not getattr(optimizer, "found_inf", None)
        if optimizer is self._main and is_step:
            self._end_step()

    def _end_step(self) -> None:
        now = time.perf_counter()
        recorder = self._recorder
        if self._float64 is not None:
            self._float64.watches = False
        self._horizon.steps = number = self._horizon.steps + 1
        if self._event_at is not None:
            self._steps += self._later
            self._later.clear()
        is_kept = self._event_at is not None or number <= self._request.steps
        (self._steps if is_kept else self._later).append(
            seen.Step(
                number=number,
                micro_batches=tuple(self._micro_batches),
                gradient_norm=self._norm,
                unclipped_norm=self._unclipped_norm,
                rates=self._rates,
                seconds=now - self._step_began,
                is_recorded=recorder is not None,
            )
        )
        self._micro_batches = []
        self._losses.scale = 1.0
        if number == 1 and self._request.nudge and self._main is not None:
            self._nudge(self._main)
        if recorder is not None:
            self._marks.append(recorder.mark())
            if number == RECORDED_STEPS:
                self._keep_costs(recorder)
            else:
                recorder.start_step()
                self._backward_mark = self._optimizer_mark = None
        if self._has_seen_all():
            self._end()
        if is_kept:
            self._write(is_final=False)
        self._step_began = time.perf_counter()

    def _nudge(self, optimizer: Optimizer) -> None:
        """Move what trains a little, each number by its own seeded share."""
        with recording.unrecorded():
            generator = torch.Generator().manual_seed(0)
            for parameter in _parameters(optimizer):
                if parameter.is_floating_point():
                    shares = torch.randn(parameter.shape, generator=generator)
                    shares = shares.to(parameter.device, parameter.dtype)
                    parameter.mul_(1 + self._request.nudge * shares)

    def _keep_costs(self, recorder: recording.ScriptRecorder) -> None:
        """Summarize the second step, and record no more."""
        first, start, end = self._marks
        backward = self._backward_mark or start
        marks = StepMarks(first, start, backward, self._optimizer_mark or backward, end)
        log = recorder.memory_log
        alive = sites_after(log[: backward.memory])
        step = StepLog(log, recorder.flop_log, marks, "real tensors", recorder.spares)
        self._facts["costs"] = step.cost()
        self._facts["saved"] = tuple(site for site in alive if site.category == "activation")
        self._facts["uncounted"] = {
            phase: tuple(sorted(name for where, name in recorder.uncounted if where == phase))
            for phase in sorted({phase for phase, _ in recorder.uncounted})
        }
        self._stop_recording()

    def _stop_recording(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            if _get_current_dispatch_mode() is recorder:
                recorder.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            recorder.close()

    def _note_trained(self, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
        """Keep which tensors of these groups train, by the names of the module that owns them."""
        trained = {id(p): p for group in groups for p in group["params"] if p.requires_grad}
        owners = sorted(
            self._modules, key=lambda module: -sum(id(p) in trained for p in module.parameters())
        )
        found = self._facts.setdefault("trained", {})
        for owner in owners:
            for name, parameter in _named_parameters(owner):
                if trained.pop(id(parameter), None) is not None:
                    shown = name if owner is owners[0] else f"{type(owner).__name__}.{name}"
                    found[shown] = _described(parameter)
        for at, other in enumerate(trained.values()):
            found[f"{type(optimizer).__name__}.{at}"] = _described(other)
        if owners and "model" not in self._facts:
            self._facts["model"] = type(owners[0]).__name__
            self._model = owners[0]
            dtypes: dict[str, int] = {}
            for parameter in owners[0].parameters():
                name = str(parameter.dtype).removeprefix("torch.")
                dtypes[name] = dtypes.get(name, 0) + parameter.numel() * parameter.element_size()
            self._facts["param_bytes"] = dtypes
        if self._model is not None:
            frozen = (p.numel() for p in self._model.parameters() if not p.requires_grad)
            self._facts["frozen_params"] = sum(frozen)

    @property
    def _event_at(self) -> int | None:
        """The steps before the event that was asked for; None before it, and without one."""
        until = self._request.until
        return None if until is None else self._horizon.steps_before.get(until)

    def _has_seen_all(self) -> bool:
        last = self._request.steps
        if self._request.until is not None:
            if self._event_at is None:
                return False
            last = max(last, self._event_at + STEPS_BESIDE)
        return self._horizon.steps >= last

    def _end(self) -> None:
        self._is_over = True
        self._write(is_over=True)
        # A script may catch everything, or train in a thread: it has a moment to end by itself.
        timer = threading.Timer(_SECONDS_TO_END, os._exit, (0,))
        timer.daemon = True
        timer.start()
        raise WatchEnded

    def write(self, ended: BaseException | None = None) -> None:
        """Write what has been seen of a script that came to its own end."""
        failure = None
        if ended is not None and not isinstance(ended, SystemExit):
            message = told(ended).removeprefix(f"{type(ended).__name__}: ")
            failure = Failure(type=type(ended).__name__, message=message)
        is_over = failure is None and self._horizon.steps >= self._request.steps
        if is_over:
            self._horizon.note("epoch")
        is_over = is_over and (self._request.until is None or self._event_at is not None)
        self._write(is_over=is_over, ended=failure)

    def _write(
        self, *, is_over: bool = False, is_final: bool = True, ended: Failure | None = None
    ) -> None:
        """Write what has been seen; before the end without what takes long to find out."""
        steps = (*self._steps, *self._later)
        found = seen.WatchedScript(
            steps=steps,
            optimizers=tuple(self._optimizers.values()),
            failed=self._failed,
            notes=tuple(self._notes),
            unseen=tuple(self._horizon.unseen(steps, self._main)) if is_final else (),
            steps_before=self._horizon.steps_before,
            less_precision="" if self._float64 is None else self._float64.left,
            is_over=is_over,
            ended=ended,
            packages=imported_packages() if is_final else {},
            loaded=frozenset(loaded_packages()) if is_final else frozenset(),
            **self._facts,
        )
        # Not JSON, which has no infinity. Whole at any moment: the script may be killed.
        answer = Path(self._request.answer)
        written = answer.with_suffix(f".{os.getpid()}")
        written.write_bytes(msgspec.msgpack.encode(found))
        written.replace(answer)


def digest_of(tensor: Tensor) -> str:
    """Return a digest of dtype, shape and values."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _named_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield parameters by their name without peft's prefix, as costs are named."""
    for owner, prefix in module_names(module).items():
        for name, parameter in owner.named_parameters(recurse=False):
            yield f"{prefix}.{name}" if prefix else name, parameter


def _described(parameter: Tensor) -> seen.Parameter:
    shape, dtype = tuple(parameter.shape), str(parameter.dtype).removeprefix("torch.")
    return seen.Parameter(shape=shape, dtype=dtype, itemsize=parameter.element_size())


def _norms(parameters: Iterable[Tensor], scale: float) -> dict[int, float]:
    """Return the norm of the gradient of each parameter that has one, by its id."""
    found: dict[int, float] = {}
    for parameter in parameters:
        gradient = None if id(parameter) in found else parameter.grad
        if gradient is not None and gradient.numel():
            values = gradient.coalesce().values() if gradient.is_sparse else gradient
            values = torch.view_as_real(values) if values.is_complex() else values
            norm = torch.linalg.vector_norm(values.detach(), dtype=torch.float64)
            found[id(parameter)] = float(norm) / scale
    return found
