"""Device classes from TOML tables, and what they leave for the tensors of a training step.

`process_bytes` predicts the most memory that a process has in use, and `room` is its inverse. The
constants are measured by tools/studies/process_peak.py, on x86-64 under Linux.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from peft_regress.cases import NAME_RULE, is_name
from peft_regress.errors import InputError
from peft_regress.files import read_table, read_toml
from peft_regress.metrics import OPERATOR_SHARE
from peft_regress.project.budgets import parse_amount

_TABLE: Final = "devices.toml"
_Text = Annotated[str, msgspec.Meta(min_length=1)]
_MIB: Final = 2**20

Runtime = Literal["eager", "galore", "peft", "executorch"]
"""What takes the step: PyTorch alone, with galore_torch or PEFT imported, or ExecuTorch."""
RUNTIME_BYTES: Final[dict[Runtime, int]] = {
    "eager": 340 * _MIB,
    "galore": 410 * _MIB,
    "peft": 475 * _MIB,
    "executorch": 15 * _MIB,
}
"""What a process has in use beside the tensors: the interpreter, libraries, and code that ran."""
RESERVE_BYTES: Final = 220 * _MIB
"""What firmware and Linux without a desktop keep, where a table has no `reserve`: of the 512 MiB of
a Raspberry Pi Zero 2 W, 291.6 MiB are available after boot
(https://docs.printercow.com/guide/32bit-vs-64bit.html)."""
ALLOCATOR: Final = "MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=0"
"""The environment in which a process takes no more: Linux's allocator gives back what is freed."""
TORCH_ALONE: Final = frozenset({"full", "head", "bn_head", "bitfit", "norm"})
"""Methods of the catalogue that train with PyTorch alone."""


class _Sheet(msgspec.Struct, frozen=True):
    """A table of the file: the amounts have units."""

    title: _Text
    memory: _Text
    compute: _Text
    source: _Text
    storage: _Text | None = None
    reserve: _Text = f"{RESERVE_BYTES} B"


@dataclass(frozen=True, kw_only=True)
class DeviceClass:
    """One kind of device, as its data sheet describes it."""

    name: str
    """As a budget names it, such as `jetson-nano`."""
    title: str
    memory_bytes: int
    """All that is soldered on."""
    reserve_bytes: int = RESERVE_BYTES
    """What the operating system keeps of it."""
    storage_bytes: int | None
    """For weights and code; None if it is a card or a disk of one's choice."""
    compute: str
    """In the words of the data sheet, since no two makers count alike."""
    source: str
    """Where the figures are from."""


def runtime_of(method: str) -> Runtime:
    """Return what takes the step of a method in eager PyTorch; an unknown one may need PEFT."""
    if method.startswith("galore"):
        return "galore"
    return "eager" if method.removesuffix("-bf16") in TORCH_ALONE else "peft"


def process_bytes(peak_bytes: float, runtime: Runtime = "eager") -> int:
    """Return the predicted peak of a process whose tensors take so much: `peak_bytes` of a step.

    Of ExecuTorch they are `edge_train_bytes`.
    """
    share = 0 if runtime == "executorch" else OPERATOR_SHARE
    return RUNTIME_BYTES[runtime] + math.ceil(peak_bytes * (1 + share))


def room(device: DeviceClass, runtime: Runtime = "eager") -> int:
    """Return the bytes that the tensors of a training step may take on a device; 0 for none.

    The process then has what the operating system leaves.
    """
    share = 0 if runtime == "executorch" else OPERATOR_SHARE
    left = device.memory_bytes - device.reserve_bytes - RUNTIME_BYTES[runtime]
    return max(0, int(left / (1 + share)))


def load_devices(more: Path | Mapping[str, Any] | None = None) -> tuple[DeviceClass, ...]:
    """Return the device classes of the package and those of another table, sorted by memory.

    `more` is the path of a TOML file, or its content: a table for each device, which may replace
    one of the package. Raises `InputError` for a file that cannot be read, and for a table with an
    unknown or a missing key, or an amount without a unit.
    """
    own = resources.files("peft_regress.project").joinpath(_TABLE).read_text(encoding="utf-8")
    tables: dict[str, Any] = {f"{_TABLE}: ": tomllib.loads(own)}
    if isinstance(more, Path):
        tables[f"{more}: "] = read_toml(more, remedy="check the path of the device table")
    elif more is not None:
        tables["devices: "] = more
    found = {
        name: _device(name, table, f"{where}{name}")
        for where, devices in tables.items()
        for name, table in devices.items()
    }
    return tuple(sorted(found.values(), key=lambda device: (device.memory_bytes, device.name)))


def _device(name: str, table: Any, where: str) -> DeviceClass:
    if not is_name(name):
        raise InputError(f"{where} is not a name of {NAME_RULE}")
    sheet = msgspec.structs.asdict(read_table(table, _Sheet, where))
    for amount in ("memory", "reserve", "storage"):
        text = sheet.pop(amount)
        try:
            sheet[f"{amount}_bytes"] = None if text is None else parse_amount(text, "byte")
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return DeviceClass(name=name, **sheet)
