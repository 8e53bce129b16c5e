"""The cost of a step, by its log: pure functions over plain values.

Bytes are the requested sizes of storages: a view is free, and an allocator's rounding is not added
(torch's CPU allocator does not round its own accounts; `MemTracker` rounds on CUDA only).
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, Self, get_args

from peft_regress.metrics import COST_METRICS, OPERATOR_SHARE

Phase = Literal["forward", "backward", "optimizer", "projection"]

Loss = Literal["cross-entropy", "sum"]
"""What a step minimizes: cross-entropy with labels, or the sum of the logits."""

Tensors = Literal["fake tensors", "real tensors"]
"""What a step was measured on: tensors without values, or real copies."""

Category = Literal["param", "buffer", "grad", "activation", "temp", "optimizer"]

CATEGORIES: tuple[Category, ...] = get_args(Category)


# A log has these too: a `FlopSite` for each call, and a `ByteSite` for each allocation or, with
# negative bytes, each free. A change of category is two of them, the free first, so that the total
# never counts a tensor twice.


class FlopSite(NamedTuple):
    """FLOPs of one operator in one module and phase of the step; module '' is outside any."""

    phase: Phase
    module: str
    operator: str
    flops: int
    paper_flops: int
    """As torch's FlopCounterMode counts them."""


class ByteSite(NamedTuple):
    """Bytes in one category that one operator allocated for one module.

    Module '' is outside any; operator '' is what existed before the step. The category tells the
    phase of the allocation: activations in the forward pass, temporaries and gradients in the
    backward pass, the optimizer's in `step()`.
    """

    category: Category
    module: str
    operator: str
    bytes: int

    @property
    def what(self) -> str:
        """Return 'activation aten.convolution', or the category if there is no operator."""
        return f"{self.category} {self.operator}".rstrip()


class Use(NamedTuple):
    """A use of a saved tensor in the backward pass, and the bytes that would do for it."""

    module: str
    operator: str
    enough_bytes: int


class Spare(NamedTuple):
    """A storage that the forward pass saves, and of which no gradient needs the values."""

    used: int
    """After how many events of the log the forward pass has used it last."""
    freed: int
    """After how many it is free."""
    bytes: int
    uses: tuple[Use, ...]

    @property
    def spared_bytes(self) -> int:
        """How much less would do."""
        return self.bytes - sum(use.enough_bytes for use in self.uses)

    @property
    def site(self) -> ByteSite:
        """The same by who saved it first, to whom the backward pass comes last."""
        return ByteSite("activation", *self.uses[-1][:2], self.spared_bytes)


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """The cost of one training step, from `zero_grad` to the end of `optimizer.step()`.

    FLOPs count a multiply-add as 2. Bytes are those of storages, unrounded.
    """

    forward_flops: int
    """Matrix work of the forward pass and the loss."""
    backward_flops: int
    """Matrix work of the backward pass."""
    optimizer_flops: int
    """Matrix work of `step()`, plus one FLOP for each element that a pointwise operator writes."""
    projection_flops: int
    """GaLore's SVDs, for one refresh; 0 if `step()` has none."""
    paper_forward_flops: int
    """Matrix work of the forward pass as torch's FlopCounterMode reports it (2.6 to 2.13)."""
    paper_backward_flops: int
    """The same for the backward pass: too large for grouped convolutions."""
    peak_bytes: int
    """The most bytes in use at one moment."""
    first_step_peak_bytes: int
    """The same of the step before it, in which the optimizer makes its state."""
    peak_param_bytes: int
    """Parameters, frozen ones included."""
    peak_buffer_bytes: int
    """Buffers, and tensors that modules keep as plain attributes."""
    peak_grad_bytes: int
    """Gradients of parameters, once accumulated."""
    peak_activation_bytes: int
    """What the forward pass creates, the batch included."""
    peak_temp_bytes: int
    """What the backward pass creates, gradients included until they are accumulated."""
    peak_optimizer_bytes: int
    """What the optimizer has in `step()`: its state and intermediate results."""
    optimizer_state_bytes: int
    """The part of `peak_optimizer_bytes` that stays after the step."""
    attainable_bytes: int
    """`peak_bytes`, if saved tensors that no gradient needs were free after the forward pass had
    used them last, but for a mask or indices where these are needed."""
    aten_ops: int
    """The number of aten operators dispatched in the step."""
    flops_by_site: tuple[FlopSite, ...]
    """The FLOP totals, split. The phase 'projection' has GaLore's SVDs. Sorted."""
    bytes_at_peak: tuple[ByteSite, ...]
    """What `peak_bytes` consists of at the first moment of the peak; adds up to it. Sorted."""
    peak_phase: Phase
    """The phase of the step at that moment."""
    bytes_at_highs: tuple[ByteSite, ...]
    """What each category consists of when it is first highest; adds up to its peak. Sorted."""
    state_bytes: tuple[ByteSite, ...]
    """What `optimizer_state_bytes` consists of; adds up to it. Sorted."""
    spared_at_peak: tuple[ByteSite, ...]
    """What of `bytes_at_peak` no gradient needs; operators as people name them. Sorted."""
    tensors: Tensors = field(compare=False)
    """What the step was measured on; the costs are the same."""

    @property
    def category_sum_bytes(self) -> int:
        """Sum the peaks of the six categories: the paper's total, never in use at one moment."""
        return sum(getattr(self, f"peak_{category}_bytes") for category in CATEGORIES)

    @property
    def metrics(self) -> dict[str, int]:
        """The costs under the names of run files; without GaLore no projection."""
        values = {name: getattr(self, name) for name in COST_METRICS}
        return {name: n for name, n in values.items() if n or name != "projection_flops"}


class Mark(NamedTuple):
    """A position in the log."""

    memory: int
    flops: int
    aten_ops: int


class StepMarks(NamedTuple):
    """The positions in the log where both steps, and the phases of the second, begin and end."""

    first: Mark
    start: Mark
    backward: Mark
    optimizer: Mark
    end: Mark


MANY: Final = 1_000_003
"""A batch whose size tells what grows with it: a prime that no layer has as a size."""


@dataclass(frozen=True)
class StepLog:
    """What two steps allocated and computed, one event after another."""

    memory: Sequence[ByteSite]
    flops: Sequence[FlopSite]
    marks: StepMarks
    tensors: Tensors
    spares: Sequence[Spare] = ()
    copies: Mapping[int, int] = field(default_factory=dict)
    """After how many events an operator has worked on copies of its images, and their bytes."""

    def cost(self) -> StepCost:
        """Return the cost of the second step; of the first, GaLore's SVDs as projection FLOPs."""
        marks, log = self.marks, self.flops
        start, end = marks.start, marks.end
        calls = [call for call in log[: start.flops] if call.phase == "projection"]
        calls += [call for call in log[start.flops : end.flops] if call.phase != "projection"]
        flops: Counter[Phase] = Counter()
        paper_flops: Counter[Phase] = Counter()
        for call in calls:
            flops[call.phase] += call.flops
            paper_flops[call.phase] += call.paper_flops
        first_peak, _ = highest(self.memory[: start.memory], start=marks.first.memory)
        memory = self.memory[: end.memory]
        peak, peak_index = highest(memory, start=start.memory)
        highs = {one: highest(memory, start=start.memory, category=one) for one in CATEGORIES}
        spares = self.spares_of_second
        state = tuple(site for site in sites_after(memory) if site.category == "optimizer")
        return StepCost(
            **{f"{phase}_flops": flops[phase] for phase in get_args(Phase)},
            paper_forward_flops=paper_flops["forward"],
            paper_backward_flops=paper_flops["backward"],
            peak_bytes=peak,
            first_step_peak_bytes=first_peak,
            **{f"peak_{category}_bytes": size for category, (size, _) in highs.items()},
            optimizer_state_bytes=sum(site.bytes for site in state),
            attainable_bytes=min(peak, _highest_without(spares, memory, start=start.memory)),
            aten_ops=end.aten_ops - start.aten_ops,
            flops_by_site=flop_sites(calls),
            bytes_at_peak=sites_after(memory[:peak_index]),
            peak_phase=_phase_at(peak_index, marks),
            bytes_at_highs=sites_after(
                event for at, event in enumerate(memory, 1) if at <= highs[event.category][1]
            ),
            state_bytes=state,
            spared_at_peak=sites_after(
                spare.site for spare in spares if spare.used < peak_index < spare.freed
            ),
            tensors=self.tensors,
        )

    @property
    def spares_of_second(self) -> list[Spare]:
        """Those of the second step of which less would do."""
        start = self.marks.start.memory
        return [one for one in self.spares if one.used >= start and one.spared_bytes > 0]

    def at_batch(self, batch: int) -> Self:
        """Return the log of the same steps on a batch of another size; this one is of `MANY`.

        A tensor grows with the batch if, and only if, the prime divides its size.
        """
        memory = [event._replace(bytes=_at_batch(event.bytes, batch)) for event in self.memory]
        flops = [
            FlopSite(*call[:3], _at_batch(call.flops, batch), _at_batch(call.paper_flops, batch))
            for call in self.flops
        ]
        spares = [
            spare._replace(
                bytes=_at_batch(spare.bytes, batch),
                uses=tuple(Use(*use[:2], _at_batch(use.enough_bytes, batch)) for use in spare.uses),
            )
            for spare in self.spares
        ]
        copies = {at: _at_batch(size, batch) for at, size in self.copies.items()}
        return replace(self, memory=memory, flops=flops, spares=spares, copies=copies)

    @property
    def room(self) -> int:
        """The bytes for which a process needs room in both steps, but for `OPERATOR_SHARE`.

        Those of the tensors, or more where the operators' copies do not fit into their share.
        """
        events = enumerate(itertools.accumulate(event.bytes for event in self.memory), 1)
        return max(
            max(alive, math.ceil((alive + self.copies.get(at, 0)) / (1 + OPERATOR_SHARE)))
            for at, alive in events
            if self.marks.first.memory <= at <= self.marks.end.memory
        )

    def largest_batch(self, room: int) -> int:
        """Return the largest batch of which `room` is within so many bytes, 0 if none.

        This log is of a batch of `MANY`.
        """
        most, fixed, per_item = MANY, 0, 0
        for at, event in enumerate(self.memory[: self.marks.end.memory], 1):
            growing, rest = divmod(event.bytes, MANY)
            fixed += event.bytes if rest else 0
            per_item += 0 if rest else growing
            if at >= self.marks.first.memory:
                copied = per_item + self.copies.get(at, 0) // MANY
                for size, left in ((per_item, room), (copied, room * (1 + OPERATOR_SHARE))):
                    most = min(most, (left - fixed) // size if size else most * (fixed <= left))
        return max(most, 0)


def _at_batch(value: int, batch: int) -> int:
    share, rest = divmod(value, MANY)
    return value if rest else _at_batch(share, batch) * batch if share else 0


def _phase_at(event_count: int, marks: StepMarks) -> Phase:
    """Return the phase in which the last of so many memory events occurred."""
    if event_count <= marks.backward.memory:
        return "forward"
    return "backward" if event_count <= marks.optimizer.memory else "optimizer"


def flop_sites(calls: Iterable[FlopSite]) -> tuple[FlopSite, ...]:
    """Return the FLOPs of each operator in each module and phase; none without any. Sorted."""
    flops: Counter[tuple[Phase, str, str]] = Counter()
    paper_flops: Counter[tuple[Phase, str, str]] = Counter()
    for call in calls:
        flops[call[:3]] += call.flops
        paper_flops[call[:3]] += call.paper_flops
    sites = (FlopSite(*site, flops[site], paper_flops[site]) for site in flops)
    return tuple(sorted(site for site in sites if site.flops or site.paper_flops))


def highest(
    log: Sequence[ByteSite], *, start: int, category: Category | None = None
) -> tuple[int, int]:
    """Return the most bytes alive from the `start`th event on, and after how many events first.

    What is alive at `start` counts. category: count this one alone.
    """
    changes = (event.bytes if category in {None, event.category} else 0 for event in log)
    alive = [*itertools.accumulate(changes, initial=0)][start:]
    most = max(alive)
    return most, start + alive.index(most)


def _highest_without(spares: Iterable[Spare], log: Sequence[ByteSite], *, start: int) -> int:
    """Return the most bytes alive from the `start`th event on, with spares freed after their use.

    >>> log = [ByteSite("activation", "norm", "aten.add", n) for n in (8, 4, 2, -8)]
    >>> spare = Spare(used=2, freed=4, bytes=8, uses=(Use("norm", "BatchNorm", 1),))
    >>> _highest_without([spare], log, start=0)
    12
    """
    less: Counter[int] = Counter()
    for spare in spares:
        less[spare.used + 1] += spare.spared_bytes
        less[spare.freed] -= spare.spared_bytes
    changes = (event.bytes - less[at] for at, event in enumerate(log, 1))
    return max([*itertools.accumulate(changes, initial=0)][start:])


def sites_after(log: Iterable[ByteSite]) -> tuple[ByteSite, ...]:
    """Return what is alive after these events. Sorted."""
    held: Counter[tuple[Category, str, str]] = Counter()
    for category, module, operator, nbytes in log:
        held[category, module, operator] += nbytes
    return tuple(sorted(ByteSite(*site, held[site]) for site in held if held[site]))
