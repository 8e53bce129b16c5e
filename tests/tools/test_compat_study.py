"""docs/upgrading.md and the tool that writes its tables: up to date, and each break has a cause."""

from __future__ import annotations

import compat_study as tool
import msgspec
import pytest
from compat_methods import VARIANTS
from compat_tables import Cell, Study, breaks, cause_of, order, stored, summary_of, unbroken

CELL = Cell(
    variant="lokr",
    saved="0.13.2",
    loaded="0.14.0",
    verdict="other_output",
    needs_edit=False,
    difference=0.5,
    merged_difference=None,
    details=[],
)


def cell(**values):
    return msgspec.structs.replace(CELL, **values)


@pytest.fixture(scope="module")
def study():
    return Study.read(tool.RESULT)


def test_the_page_has_the_tables_of_the_stored_study(capsys):
    assert tool.main(["--check"]) == 0, capsys.readouterr().out


def test_every_break_has_a_cause_and_every_variant_was_saved_by_a_release(study):
    assert {one.variant: cause_of(one) for one in study.cells if "not known" in cause_of(one)} == {}
    assert {name for names in study.made.values() for name in names} == set(VARIANTS)
    assert study.refused_by_itself == {}


def test_the_counts_add_up_and_the_bound_lies_between_same_and_other(study):
    assert study.same + len(study.cells) == study.pairs
    assert study.largest_same < 3e-5 / 10
    assert study.smallest_other > 3e-5 * 10


def test_a_study_is_stored_whole(study, tmp_path):
    (tmp_path / "study.json").write_bytes(stored(study))
    assert Study.read(tmp_path / "study.json") == study


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "/pull/2180"),
        ({"saved": "0.14.0", "loaded": "0.13.2"}, "/pull/2180"),
        ({"saved": "0.14.0", "loaded": "0.15.2"}, "not known"),
        ({"variant": "lora"}, "not known"),
        ({"verdict": "loads_otherwise"}, "not known"),
        ({"variant": "oft", "verdict": "refused"}, "/pull/1996"),
        ({"variant": "oft", "saved": "0.15.2", "loaded": "0.16.0"}, "/pull/2575"),
        ({"variant": "oft", "saved": "0.15.2", "loaded": "0.21.2"}, "/pull/3490"),
        ({"variant": "oft", "saved": "0.21.2", "loaded": "0.15.2"}, "/pull/2575"),
        ({"variant": "oft", "saved": "0.16.0", "loaded": "0.21.2"}, "/pull/2805"),
    ],
)
def test_a_cause_lies_between_the_release_that_saved_and_the_one_that_loads(values, words):
    assert words in cause_of(cell(**values))


def test_equal_ranges_of_several_variants_share_a_row():
    releases = ["0.9.0", "0.10.0", "0.13.2", "0.14.0", "0.15.2"]
    cells = [
        *(cell(saved=saved, loaded=loaded, variant=variant)
          for saved in releases[1:3] for loaded in releases[3:] for variant in ("lokr", "lokr, b")),
        cell(verdict="same", difference=1e-9),
        cell(variant="hra", verdict="refused", details=["peft 0.9.0 has no method HRA"]),
    ]  # fmt: skip
    study = summary_of(
        cells,
        releases=releases,
        packages={},
        made={one: ["lora"] if one == "0.10.0" else [] for one in releases},
        refused_by_itself={},
    )
    assert (study.pairs, study.same, len(study.cells)) == (9, 1, 8)
    (row,) = breaks(study).splitlines()[2:]
    assert row.startswith("| lokr; lokr, b | 0.10-0.13 in 0.14-0.15 | other output, by 0.5 |")
    assert unbroken(study).splitlines()[2:] == ["| 0.10 | lora |"]


def test_releases_are_ordered_by_number():
    assert sorted(["0.10.0", "0.9.1"], key=order) == ["0.9.1", "0.10.0"]
    assert list(tool.RELEASES) == sorted(tool.RELEASES, key=order)
