"""Device classes: how much memory and storage real devices have, read from TOML tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from peft_regress.budgets import parse_amount
from peft_regress.cases import NAME_RULE, is_name
from peft_regress.errors import InputError
from peft_regress.files import read_table, read_toml

_TABLE: Final = "devices.toml"
_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Sheet(msgspec.Struct, frozen=True):
    """A table of the file: the amounts have units."""

    title: _Text
    memory: _Text
    compute: _Text
    source: _Text
    storage: _Text | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceClass:
    """One kind of device, as its data sheet describes it."""

    name: str
    """As a budget names it, such as `jetson-nano`."""
    title: str
    memory_bytes: int
    """Of which the operating system and the runtime take a part, too."""
    storage_bytes: int | None
    """For weights and code; None if it is a card or a disk of one's choice."""
    compute: str
    """In the words of the data sheet, since no two makers count alike."""
    source: str
    """Where the figures are from."""


def load_devices(more: Path | Mapping[str, Any] | None = None) -> tuple[DeviceClass, ...]:
    """Return the device classes of the package and those of another table, sorted by memory.

    `more` is the path of a TOML file, or its content: a table for each device, which may replace
    one of the package. Raises `InputError` for a file that cannot be read, and for a table with an
    unknown or a missing key, or an amount without a unit.
    """
    own = resources.files("peft_regress").joinpath(_TABLE).read_text(encoding="utf-8")
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
    sheet = read_table(table, _Sheet, where)
    try:
        memory = parse_amount(sheet.memory, "byte")
        storage = None if sheet.storage is None else parse_amount(sheet.storage, "byte")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return DeviceClass(
        name=name,
        title=sheet.title,
        memory_bytes=memory,
        storage_bytes=storage,
        compute=sheet.compute,
        source=sheet.source,
    )
