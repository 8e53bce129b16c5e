"""What each method costs on a network, from one profile of each."""

import copy
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from peft_regress import registry
from peft_regress.catalogue.evidence import FULL, POINTS, Study, margin_of, why_not_learned
from peft_regress.catalogue.methods.method import Method
from peft_regress.choosing.ranking import Candidate, Costs, Ranking
from peft_regress.cost.batches import RandomTensor, map_batch
from peft_regress.cost.pricing import load_model, loss_of_output, parse_inputs
from peft_regress.cost.profile import loss_of_images, random_images, record_training_step
from peft_regress.cost.stand_ins import on_fake_or_real
from peft_regress.cost.step_cost import MANY, StepCost, StepLog
from peft_regress.errors import InputError, UnknownNameError, UnsupportedCaseError
from peft_regress.imports import current_folder_first, told
from peft_regress.measure.costs import CostSettings, adapted_model
from peft_regress.measure.edge.program import training_program
from peft_regress.measure.recipe import Recipe
from peft_regress.memory.packing import pack_by
from peft_regress.metrics import Unit, format_value
from peft_regress.project.devices import RUNTIME_BYTES, DeviceClass, Runtime, room, runtime_of
from peft_regress.project.fine_tune import FineTune
from peft_regress.project.settings import DEFAULT_MATRIX

_RANKS: Final = tuple(2**power for power in range(13))
_KNOWN: Final = 16
"""Up to this rank there is evidence, which a rank that saves only memory or FLOPs may need."""
_NOTABLY_LESS: Final = 0.9
"""Up to this share of its plain memory a step counts with `lean`."""
_NEAR: Final = 0.9
"""From this share of the memory on, equals are not decided by FLOPs alone."""


class Adapted(NamedTuple):
    """An adapted model in the mode in which it trains."""

    method: Method
    model: nn.Module
    make_optimizer: Callable[[nn.Module], Optimizer]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be fine-tuned, on which batch."""

    name: str
    batch: int
    step: Callable[[Method], Adapted]
    """Returns a fresh step of a method at a rank; raises whatever a library raises."""
    items: Callable[[int], Any]
    """Returns a batch of a size."""
    loss: Callable[[nn.Module, Any], Tensor]
    architecture: str | None = None
    """The registered one, which some methods name; None for a network of one's own."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a device, or its user, has to give; None is no limit."""

    device: DeviceClass | None = None
    memory: int | None = None
    """Bytes that the tensors of a step may take."""
    update: int | None = None
    ship: int | None = None
    storage: int | None = None
    runtime: Runtime = "eager"

    def of(self, method: str) -> Self:
        """Return the limits of a method: those of the device where no other is given."""
        if self.device is None:
            return self
        runtime = runtime_of(method) if self.runtime == "eager" else self.runtime
        memory, storage = room(self.device, runtime), self.device.storage_bytes
        return dataclasses.replace(
            self,
            memory=memory if self.memory is None else self.memory,
            storage=storage if self.storage is None else self.storage,
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What `choose` found."""

    subject: Subject
    limits: Limits
    candidates: Sequence[Candidate]
    refused: Mapping[str, str]
    """Why a method does not work on this network."""
    untried: Sequence[str]
    """Methods for which there was no time."""
    study: Study | None = None
    """The evidence of accuracy, if there is any."""
    points: float = POINTS
    """The margin within which two scores are equal, in points."""
    code: str = ""
    """The recommended case, to paste."""
    untrained: Mapping[str, str] = field(default_factory=dict)
    """Why a candidate could not be trained."""

    @property
    def unit(self) -> Unit:
        """Of the scores."""
        return "ratio" if self.study is not None and self.study.chance is None else "fraction"

    @functools.cached_property
    def problem(self) -> str:
        """Why there is no advice on accuracy; empty if there is."""
        if self.study is None:
            return "there is no study of this network and task"
        return why_not_learned(self.study)

    @functools.cached_property
    def ranking(self) -> Ranking:
        """The candidates with what the evidence can tell apart."""
        if self.study is None or self.problem:
            return Ranking(candidates=self.candidates)
        found = self.study.methods
        scored = [
            dataclasses.replace(one, scores=found[one.name].final) if one.name in found else one
            for one in self.candidates
        ]
        return Ranking(candidates=scored, margin=margin_of(self.study, self.points))

    @functools.cached_property
    def order(self) -> list[Candidate]:
        """What fits, the recommended first."""
        return self.ranking.order

    @property
    def full(self) -> Candidate | None:
        """Full fine-tuning, which the others are compared with."""
        return next((one for one in self.ranking.candidates if one.method == FULL), None)

    @property
    def exit_code(self) -> int:
        """1 if nothing fits; else 3 if not all was tried; else 0."""
        if not self.order:
            return 1
        return 3 if self.untried or self.untrained else 0

    @property
    def hints(self) -> tuple[str, ...]:
        """What may help if nothing fits: a smaller batch, ExecuTorch."""
        least = min(self.candidates, key=lambda one: one.costs.memory, default=None)
        if least is None or self.order:
            return ()
        limits, found = self.limits, []
        if least.largest_batch:
            found.append(f"{least.name} at a batch of {least.largest_batch}")
        if limits.runtime == "eager" and limits.device is not None and limits.memory is None:
            taken = format_value(RUNTIME_BYTES["executorch"], "byte")
            program = "a program of ExecuTorch, whose runtime takes"
            found.append(f"{program} {taken}: --runtime executorch")
        return tuple(found)


def of_architecture(name: str, *, batch: int, resolution: int) -> Subject:
    """Return a registered architecture on random images; `cost` profiles the same step."""
    settings = CostSettings(batch=batch, resolution=resolution)
    architecture = registry.get("architecture", name)

    def step(method: Method) -> Adapted:
        headed = dataclasses.replace(method, heads=(architecture.head,))
        return Adapted(headed, adapted_model(headed, architecture, settings), headed.make_optimizer)

    def items(size: int) -> Any:
        shape = (size, *settings.input_shape[1:])
        return random_images(shape, settings.classes, settings.loss, torch.float32)

    return Subject(
        name=f"{name}, a step on {batch}x3x{resolution}x{resolution}",
        batch=batch,
        step=step,
        items=items,
        loss=loss_of_images(settings.classes),
        architecture=name,
    )


def of_model(path: str, inputs: Sequence[str], *, head: str | None, batch: int) -> Subject:
    """Return a model of one's own, from an import path, on random inputs of these shapes.

    inputs: `3x96x96` or `mask=128:bool`, without the batch. head: the module that trains in full;
    by default the last linear layer. The loss is that of `cost --model`. Raises `InputError` for a
    path or an input that is none, and for a model without such a module.
    """
    call = parse_inputs(inputs)
    with current_folder_first():
        base = load_model(path)
    modules = dict(base.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    heads = (head if head is not None else "".join(linear[-1:]),)
    if not heads[0] or heads[0] not in modules:
        raise InputError(f"--model {path} has no module {head!r} as its head: name one by --head")

    def step(method: Method) -> Adapted:
        headed = dataclasses.replace(method, heads=heads)
        model = headed.adapt(copy.deepcopy(base), seed=0)
        method.set_mode(model)
        return Adapted(headed, model, headed.make_optimizer)

    def items(size: int) -> Any:
        return map_batch(call, lambda one: dataclasses.replace(one, shape=(size, *one.shape)))

    return Subject(
        name=f"{path} with the head {heads[0]}, a step on {batch} of {' and '.join(inputs)}",
        batch=batch,
        step=step,
        items=items,
        loss=loss_of_output,
    )


def of_case(fine_tune: FineTune, storage: Path) -> Subject:
    """Return an own case, on its own first batch, whose adapter each method replaces.

    Its optimizer stays, but for methods that bring one. Raises what `Recipe.of` raises.
    """
    own = Recipe.of(fine_tune, storage)
    data, seed, size = own.load_data(), own.seeds[0], fine_tune.batch
    moving = own.checked(data).adapter.moving
    batch = next(own.batches(data, seed=seed))

    def step(method: Method) -> Adapted:
        recipe = Recipe.of(adapted_by(fine_tune, method), storage)
        adapter = dataclasses.replace(recipe.adapter, moving=moving)
        model = recipe.adapted_model(seed)
        recipe.set_mode(model)
        return Adapted(adapter, model, recipe.make_optimizer)

    def items(wanted: int) -> Any:
        def of_size(leaf: Tensor) -> Tensor | RandomTensor:
            is_of_batch = leaf.ndim > 0 and len(leaf) == size
            return RandomTensor((wanted, *leaf.shape[1:]), leaf.dtype) if is_of_batch else leaf

        return batch if wanted == size else map_batch(batch, of_size)

    return Subject(
        name=f"{fine_tune.id}, a step on its own batch of {size}",
        batch=size,
        step=step,
        items=items,
        loss=own.objective.loss,
    )


def adapted_by(fine_tune: FineTune, method: Method) -> FineTune:
    """Return a case with a method of the catalogue, at its rank, in place of its adapter."""
    case = msgspec.structs.replace(fine_tune.case, method=method.name, rank=method.rank)
    own = None if method.has_own_optimizer else fine_tune.optimizer
    return dataclasses.replace(fine_tune, id=case.id, adapter=case.adapter_name, optimizer=own)


def try_all(
    subject: Subject,
    limits: Limits,
    study: Study | None = None,
    *,
    only: str = "*",
    ends: float = math.inf,
) -> Answer:
    """Price every method of the catalogue with a float32 base, by `lean` where that takes less.

    Methods of the default matrix at ranks 1, 2, 4 ... as long as a rank saves memory and FLOPs over
    full fine-tuning, or up to rank 16 one of the two; the others, of which there is no evidence, at
    the catalogue's ranks. A method that does not fit the network, or take a step, is refused.

    only: a pattern of methods; full fine-tuning is tried in any case, to compare with. ends:
    after that time, as `time.monotonic` counts, no method is tried.
    """
    tried: list[Candidate] = []
    refused: dict[str, str] = {}
    left: list[str] = []
    full: Costs | None = None
    methods = [
        one
        for one in registry.items("method")
        if _is_for(one, subject) and (one.name == FULL or fnmatchcase(one.name, only))
    ]
    if len(methods) == 1 and only != FULL:
        raise UnknownNameError("method", only, registry.names("method"))
    for method in sorted(
        methods, key=lambda one: (one.name != FULL, DEFAULT_MATRIX not in one.matrices)
    ):
        if time.monotonic() > ends:
            left.append(method.name)
            continue
        for rank in _ranks(method):
            try:
                with warnings.catch_warnings(action="ignore"):
                    found = price(subject, method.at(rank), limits)
            except Exception as error:  # noqa: BLE001  (whatever a library raises)
                refused.setdefault(method.name, told(error))
                break
            tried.append(found)
            full = found.costs if method.name == FULL else full
            # A program takes a minute to plan; one of a higher rank is no smaller.
            is_over = limits.runtime == "executorch" and "memory" in found.lacks
            if is_over or full is None or not _may_rise(found, full):
                break
    return Answer(
        subject=subject, limits=limits, candidates=tried, refused=refused, untried=left, study=study
    )


def relimited(answer: Answer, limits: Limits) -> Answer:
    """Return the answer under other limits; the largest batches stay those of its own."""
    candidates = [
        dataclasses.replace(one, **_fit(one.method, one.costs, one.room, limits))
        for one in answer.candidates
    ]
    return dataclasses.replace(answer, limits=limits, candidates=candidates)


def _fit(method: str, costs: Costs, needed: int, limits: Limits) -> dict[str, Any]:
    own = limits.of(method)
    most = {name: getattr(own, name) for name in Costs._fields}
    # A process copies what it convolves; a limit of one's own is for the tensors.
    taken = costs._replace(memory=needed) if limits.memory is None else costs
    over = {name: getattr(taken, name) - one for name, one in most.items() if one is not None}
    return {
        "lacks": {name: size for name, size in over.items() if size > 0},
        "is_near_limit": own.memory is not None and taken.memory > _NEAR * own.memory,
    }


def _is_for(method: Any, subject: Subject) -> bool:
    named = getattr(method, "architectures", ())
    # Dropout is no way to save: whoever wants it adds it to any of the others.
    is_plain = method.base_dtype == "float32" and not (method.trains_with_dropout or method.is_lean)
    return is_plain and (not named or subject.architecture in named)


def _ranks(method: Method) -> Sequence[int | None]:
    if not method.ranks:
        return (None,)
    return _RANKS if DEFAULT_MATRIX in method.matrices else method.ranks


def _may_rise(one: Candidate, full: Costs) -> bool:
    """Return whether a higher rank than this can matter."""
    saves = one.costs.memory < full.memory, one.costs.update < full.update
    return all(saves) or (any(saves) and (one.rank or 0) < _KNOWN)


def price(subject: Subject, method: Method, limits: Limits) -> Candidate:
    """Return what a method at its rank takes, by `lean` where that takes notably less."""
    step = subject.step(method)

    def record(*, fake: bool) -> StepLog:
        batch = subject.items(MANY if fake else subject.batch)
        return record_training_step(
            step.model, step.make_optimizer, batch=batch, loss=subject.loss, fake=fake
        )

    def at_batch(log: StepLog) -> StepLog:
        return log.at_batch(subject.batch) if log.tensors == "fake tensors" else log

    log = on_fake_or_real(record)
    cost, plain_memory = at_batch(log).cost(), None
    is_planned = limits.runtime == "executorch"
    if not is_planned and cost.attainable_bytes <= _NOTABLY_LESS * cost.peak_bytes:
        logs = [log]

        def steps() -> Iterator[StepLog]:
            yield at_batch(log)
            logs.append(on_fake_or_real(record))
            yield at_batch(logs[-1])

        if pack_by(step.model, steps()).packed:
            plain_memory, log = _memory(cost), logs[-1]
            cost = at_batch(log).cost()
    costs = Costs(
        update=_update(cost),
        memory=_memory(cost),
        ship=sum(one.nbytes for one in step.method.shipped_tensors(step.model).values()),
        storage=cost.peak_param_bytes + cost.peak_buffer_bytes,
    )
    needed = at_batch(log).room
    if is_planned:
        costs = _planned(subject, method, costs, state=cost.optimizer_state_bytes)
        needed = costs.memory
    return Candidate(
        method=method.name,
        rank=method.rank,
        costs=costs,
        room=needed,
        plain_memory=plain_memory,
        largest_batch=None if is_planned else _largest_batch(log, method.name, limits),
        **_fit(method.name, costs, needed, limits),
    )


def _planned(subject: Subject, method: Method, costs: Costs, *, state: int) -> Costs:
    """Return the costs of the same step as a program of ExecuTorch, which has one batch size.

    Its optimizer keeps the same state beside the program. Raises `UnsupportedCaseError` for a
    method that lives in its optimizer, and what `training_program` raises.
    """
    if method.has_own_optimizer:
        raise UnsupportedCaseError(f"{method.name} brings an optimizer that ExecuTorch lacks")
    batch = map_batch(
        subject.items(subject.batch),
        lambda leaf: leaf.draw(torch.device("cpu")) if isinstance(leaf, RandomTensor) else leaf,
    )
    program = training_program(subject.step(method).model, batch, loss=subject.loss)
    return costs._replace(memory=program.planned_bytes + state, storage=len(program.content))


def _update(cost: StepCost) -> int:
    return cost.forward_flops + cost.backward_flops + cost.optimizer_flops


def _memory(cost: StepCost) -> int:
    return max(cost.peak_bytes, cost.first_step_peak_bytes)


def _largest_batch(log: StepLog, method: str, limits: Limits) -> int | None:
    if log.tensors != "fake tensors":
        return None
    if limits.memory is not None:
        log = dataclasses.replace(log, copies={})
    most = limits.of(method)
    batch = MANY if most.memory is None else log.largest_batch(most.memory)
    if most.update is not None and batch:
        one, two = (_update(log.at_batch(size).cost()) for size in (1, 2))
        batch = min(batch, 1 + (most.update - one) // (two - one))
    return max(batch, 0)
