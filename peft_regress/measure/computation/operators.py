"""Record the operators of a training step as a straight-line program over storages.

Names of storages follow their first use, so that they are the same in every process. An operator
stands with its overload, the tensors that it takes and returns (storage, offset, shape, strides,
type), and every other argument. Aliasing and in-place writes follow from that.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from peft_regress.cost.storages import has_parts
from peft_regress.measure.computation.contents import bytes_digest
from peft_regress.measure.computation.named import is_of_torch
from peft_regress.measure.computation.settings import quick_settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import CodeType

    from torch import UntypedStorage

    _Names = dict[int, tuple[weakref.ref[UntypedStorage], "_Name"]]

_OWN: Final = str(Path(__file__).parents[2]) + "/"
_version_of: Final[Any] = vars(torch._C.TensorBase)["_version"].__get__  # noqa: SLF001
_storage_of: Final = torch._C.TensorBase.untyped_storage  # noqa: SLF001  (the class's is watched)

_READS: Final = ("numpy", "__array__", "tolist", "data_ptr", "storage", "untyped_storage",
                 "__dlpack__")  # fmt: skip
"""Methods that hand a tensor's memory to code outside torch."""

_VALUE_TAGS: Final = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_READ_ONE: Final = frozenset(
    {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default}  # noqa: SLF001
)
"""Both read one number; in inference mode the second arrives undivided."""
_NAMESPACES: Final = frozenset(
    ("aten", "prim", "prims", "mkldnn", "mkldnn_prepacked", "quantized", "onednn")
)
"""Of operators that come with torch, so that its version tells what they do."""
_INDEX: Final = torch.ops.aten.index.Tensor
_BATCH: Final = "batch "
_A_TENSOR: Final = "a tensor"
_PLAIN: Final = (int, float, str, complex, type(None))
_NAMED: Final = (torch.dtype, torch.device, torch.layout, torch.memory_format)


class Line(NamedTuple):
    """One call of an operator."""

    operator: str
    tensors: tuple[Any, ...]
    """What it takes and returns, as far as these are tensors."""
    numbers: tuple[Any, ...]
    """Its other arguments, with a mark in the place of each tensor."""


@dataclass
class Program:
    """The operators of one step, in their order."""

    lines: list[Line] = field(default_factory=list)
    of_optimizer: set[int] = field(default_factory=set)
    """The lines whose numbers follow from the settings of torch's optimizer and the step count."""

    def has_structure_of(self, other: Program) -> bool:
        """Return whether both are the same but for the numbers of an optimizer of torch's own."""
        if len(self.lines) != len(other.lines) or self.of_optimizer != other.of_optimizer:
            return False
        return all(
            one[:2] == two[:2]
            and (index in self.of_optimizer or repr(one.numbers) == repr(two.numbers))
            for index, (one, two) in enumerate(zip(self.lines, other.lines, strict=True))
        )


@dataclass(frozen=True)
class _Name:
    """What a storage is called."""

    text: str
    step: int = -1
    """Of a result: the step that made it, counted from 0."""


class OperatorTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record operators while it is the innermost dispatch mode, one program a step.

    It raises nothing: why a computation cannot be certified is kept in `problem`.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.problem: str | None = None
        self.leaves: list[str] = []
        """The names of the model's tensors, in the order of their first use."""
        self.operators: dict[Any, str] = {}
        self.in_optimizer = False
        """Whether the numbers of operators follow from an optimizer of torch's own."""
        self.loss: Tensor | None = None
        """The loss of this step, whose value the loop reads."""
        self.may_read = False
        """Whether code in `readers` may read a number, as a score does at its end."""
        self.readers: set[CodeType | None] = {None}
        """Code that is digested; None stands for this package's."""
        self._program = Program()
        self._step = -1
        self._made = self._constants = 0
        self._names: _Names = {}
        self._of_model: _Names = {}
        self._watched: dict[int, list[_Watched]] = {}
        """The model's tensors by the ids of their storages, which they keep alive."""
        self._is_mutable: dict[Any, bool] = {}
        self._set: tuple[Any, ...] = ()

    def follow(self, tensors: Mapping[str, Tensor]) -> None:
        """Know the model's tensors, by name; whichever name comes first stands for a storage."""
        for name, tensor in tensors.items():
            storage = _storage_of(tensor)
            _know(self._of_model, storage, _Name(name))
            self._watched.setdefault(id(storage), []).append(_Watched(tensor))

    def look_again(self) -> None:
        """Take what was written to the model so far as seen, after steps that are not recorded."""
        for watched in self._all_watched():
            watched.was_written()

    def _all_watched(self) -> Iterator[_Watched]:
        return (one for watched in self._watched.values() for one in watched)

    @contextlib.contextmanager
    def step(self, inputs: Iterable[tuple[str, Tensor]]) -> Iterator[Program]:
        """Record one step; `inputs` are the tensors of its batch, with their paths."""
        self._program, self._made, self._constants = Program(), 0, 0
        self._step += 1
        for key in [key for key, (_, name) in self._names.items() if name.text.startswith(_BATCH)]:
            del self._names[key]
        for path, tensor in inputs:
            _know(self._names, _storage_of(tensor), _Name(_BATCH + path))
        self._set = quick_settings()
        self._check_unseen(self._all_watched())
        with _watched_reads(self), self:
            yield self._program
        self._check_unseen(self._all_watched())
        self.loss = None

    def refuse(self, problem: str) -> None:
        """Keep the first reason why the computation cannot be certified."""
        self.problem = self.problem or problem

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and record it."""
        if any(has_parts(kind) for kind in types):
            return NotImplemented  # its parts arrive one by one
        kwargs = kwargs or {}
        if getattr(func, "namespace", "") == "profiler":
            return func(*args, **kwargs)  # it marks a range for a profiler
        name = self.operators.get(func)
        if name is None:
            name = self._described(func)
        line = _LineParts([], [], [])
        for value in args:
            self._take(value, line)
        for key in sorted(kwargs):
            line.numbers.append(key)
            self._take(kwargs[key], line)
        self._check_values(func, args)
        self._check_unseen(line.of_model)
        out = func(*args, **kwargs)
        for watched in line.of_model:
            watched.expected = int(self._is_mutable[func])
        line.tensors.append("->")
        if func not in _READ_ONE:
            # A number that is read shows where it is used.
            self._take(out, line, is_result=True)
        if self.in_optimizer:
            self._program.of_optimizer.add(len(self._program.lines))
        self._program.lines.append(Line(name, tuple(line.tensors), tuple(line.numbers)))
        return out

    def _described(self, func: Any) -> str:
        """Return an operator's name, and refuse one whose work is not its name's."""
        name = str(func)
        self.operators[func] = name
        schema = getattr(func, "_schema", None)
        self._is_mutable[func] = schema is not None and schema.is_mutable
        if not isinstance(func, torch._ops.OpOverload):  # noqa: SLF001
            self.refuse(f"{name} hides its parts")
        elif func.namespace not in _NAMESPACES:
            self.refuse(f"{name} is not an operator of torch's own")
        elif func not in {*_READ_ONE, _INDEX} and any(tag in func.tags for tag in _VALUE_TAGS):
            self.refuse(f"{name} depends on values")
        return name

    def _check_values(self, func: Any, args: tuple[Any, ...]) -> None:
        """Refuse a path that values may decide."""
        if func in _READ_ONE:
            self._check_read(args[0])
        elif func is _INDEX and any(
            one is not None and one.dtype in {torch.bool, torch.uint8} for one in args[1]
        ):
            self.refuse("a mask selects elements, so that their number depends on values")

    def _check_read(self, tensor: Tensor) -> None:
        """Refuse a number that decides what is computed next."""
        if tensor is self.loss:
            self.loss = None  # the loop reads it once
            return
        if not (self.in_optimizer or (self.may_read and _caller() in self.readers)):
            self.refuse("it reads a number of a tensor, on which what it does next may depend")

    def _check_unseen(self, watched: Iterable[_Watched]) -> None:
        """Refuse a write to the model that no operator shows: of another thread, between steps."""
        if any(one.was_written() for one in watched):
            self.refuse("a tensor of the model is written to where no operator shows it")
        if quick_settings() != self._set:
            self.refuse("a setting of torch changes in a step")

    # --- Arguments ---

    def _take(self, value: Any, line: _LineParts, *, is_result: bool = False) -> None:
        if isinstance(value, Tensor):
            if not is_result and value.layout is torch.strided:
                line.of_model.extend(self._watched.get(id(_storage_of(value)), ()))
            line.tensors.append(self._described_tensor(value, is_result=is_result))
            line.numbers.append(_A_TENSOR)
        elif isinstance(value, _PLAIN):
            line.numbers.append(value)
        elif isinstance(value, list | tuple):
            line.numbers.append(f"list of {len(value)}")
            for item in value:
                self._take(item, line, is_result=is_result)
        elif isinstance(value, _NAMED):
            line.numbers.append(str(value))
        elif isinstance(value, torch.Generator):
            is_default = value is torch.default_generator
            state = "default" if is_default else bytes_digest(value.get_state())
            line.numbers.append(f"generator {state}")
        else:
            self.refuse(f"an operator takes a {type(value).__name__}")

    def _described_tensor(self, tensor: Tensor, *, is_result: bool) -> tuple[Any, ...]:
        if tensor.layout is not torch.strided:
            self.refuse(f"a tensor is {tensor.layout}")
            return (str(tensor.layout),)
        is_turned = tensor.is_neg() or tensor.is_conj()
        return (
            self._name_of(tensor, is_result=is_result),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            str(tensor.dtype),
            tensor.device.type,
            *((tensor.is_neg(), tensor.is_conj()) if is_turned else ()),
        )

    def _name_of(self, tensor: Tensor, *, is_result: bool) -> str:
        """Return the name of a tensor's storage, which gets one at its first use."""
        storage = _storage_of(tensor)
        known = self._names.get(id(storage))
        if known is not None:
            name = known[1]
            if name.step in {-1, self._step}:
                return name.text
            return f"{name.text} of step {name.step}"
        of_model = self._of_model.get(id(storage))
        if of_model is not None:
            name = _Name(f"model {len(self.leaves)}")
            self.leaves.append(of_model[1].text)
        elif is_result:
            name = _Name(f"result {self._made}", self._step)
            self._made += 1
        else:
            # Numbered too: two with the same bytes may be written to.
            name = _Name(f"constant {self._constants} {bytes_digest(tensor)}", self._step)
            self._constants += 1
        _know(self._names, storage, name)
        return name.text


class _LineParts(NamedTuple):
    """A line while it is made."""

    tensors: list[Any]
    numbers: list[Any]
    of_model: list[_Watched]


class _Watched:
    """A tensor of the model, and how often torch wrote to it as far as operators show."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.expected = 0
        """The most writes since the last look, of an operator: they count when it has returned."""
        self._writes = self._count()

    def was_written(self) -> bool:
        """Return whether something else wrote to it since the last look."""
        before, self._writes = self._writes, self._count()
        expected, self.expected = self.expected, 0
        return self._writes - before > expected

    def _count(self) -> int:
        return -1 if self.tensor.is_inference() else int(_version_of(self.tensor))


def _caller() -> CodeType | None:
    """Return the code outside torch that called an operator; None for this package's."""
    frame = sys._getframe(1)  # noqa: SLF001
    while frame.f_back is not None and is_of_torch(frame.f_code.co_filename):
        if frame.f_code.co_filename.startswith(_OWN) and frame.f_code.co_filename != __file__:
            return None
        frame = frame.f_back
    return frame.f_code


def _know(names: _Names, storage: UntypedStorage, name: _Name) -> None:
    """Name a storage for as long as it lives, unless it has a name."""
    key = id(storage)
    if key not in names:
        names[key] = weakref.ref(storage, lambda _: names.pop(key, None)), name


@contextlib.contextmanager
def _watched_reads(trace: OperatorTrace) -> Iterator[None]:
    """Refuse a step in which a tensor's memory is handed to code outside torch."""

    def watched(name: str, read: Any, why: str) -> Any:
        def refused(*args: Any, **kwargs: Any) -> Any:
            trace.refuse(why.format(name))
            return read(*args, **kwargs)

        return refused

    reads: dict[tuple[Any, str], Any] = {
        (Tensor, name): watched(
            name, getattr(Tensor, name), "it reads a tensor by {}, outside torch"
        )
        for name in _READS
    }
    reads[Tensor, "_version"] = property(
        watched("", _version_of, "it counts the writes to a tensor")
    )
    for module in (torch, torch.random):
        reads[module, "initial_seed"] = watched("", torch.initial_seed, "it asks for the seed")
    before = {(owner, name): vars(owner).get(name) for owner, name in reads}
    for (owner, name), read in reads.items():
        setattr(owner, name, read)
    try:
        yield
    finally:
        for (owner, name), own in before.items():
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)
