from typing import Any
import msgspec


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    variant: str
    saved: str
    loaded: str
    verdict: str
    needs_edit: bool
    difference: float | None
    merged_difference: float | None
    details: list[str]


class Study(msgspec.Struct, frozen=True, kw_only=True):
    releases: list[str]
    packages: dict[str, str]
    not_made: dict[str, dict[str, str]]
    refused_by_itself: dict[str, str]
    cells: list[Cell]

    def stored(self):
        return self

    @classmethod
    def read(cls, p):
        return msgspec.json.decode(p.read_bytes(), type=cls)


TABLES = {}
