"""The matrix: ids, selection, shards."""

from dataclasses import dataclass, field

import pytest

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import (
    case_params,
    matrices_of,
    matrix_cases,
    method_at,
    parse_case_id,
    select_cases,
    shard_of,
)
from peft_regress.errors import InputError, UnknownNameError


@dataclass(frozen=True)
class Thing:
    name: str
    matrices: tuple[str, ...] = ("default",)
    ranks: tuple[int, ...] = field(default=())


@pytest.fixture(autouse=True)
def _own_registry(clean_registry):
    """Leave no trace in the registry of the other tests."""


def test_a_task_that_is_named_has_its_cases_even_if_it_is_no_default():
    """Else a benchmark parametrized by it would be skipped for want of parameters."""
    assert matrix_cases(task="shift") == [case for case in matrix_cases() if case.task == "shift"]
    registry.add("task", Thing("optional", matrices=()))
    assert len(matrix_cases(task="optional")) == len(matrix_cases(task="unseen"))
    with pytest.raises(UnknownNameError, match="unknown task 'shfit'"):
        matrix_cases(task="shfit")


def test_the_edge_matrix_has_what_its_tasks_name():
    ids = [case.id for case in matrix_cases("edge")]
    assert len(ids) == len(set(ids)) == 59
    assert {"edge/lora-r16/mobilenet_v2", "edge/ia3/efficientnet_lite0"} <= {*ids}
    assert matrix_cases("edge", task="edge-b8") == matrix_cases("edge")[-10:]


@pytest.mark.parametrize(
    ("case", "matrices"),
    [
        ("edge/lora-r4/resnet18", {"edge"}),
        ("edge/lora-r16/resnet18", set()),
        ("edge/galore-r4/resnet18", set()),
        ("edge-b8/ia3/mobilenet_v2", set()),
        ("shift/ia3/mobilenet_v2", {"extended"}),
        # Methods for some architectures or tasks only.
        ("shift/lora-grouped-r96/mobilenet_v2", {"extended"}),
        ("shift/lora-grouped-r96/resnet18", set()),
        ("shift/lora-dropout-r4/resnet18", {"default"}),
        ("unseen/lora-dropout-r4/resnet18", set()),
        ("shift/lora-lean-r4/resnet18", {"default"}),
        ("shift/lora-lean-r4/shufflenet_v2_x0_5", {"extended"}),
        ("shift/dora-lean-r4/mobilenet_v2", {"extended"}),
    ],
)
def test_a_case_is_in_the_matrices_of_its_parts_which_may_name_each_other(case, matrices):
    case = parse_case_id(case)
    assert matrices_of(case) == matrices
    for matrix in ("default", "extended", "edge"):
        assert (case in matrix_cases(matrix)) == (matrix in matrices)


def test_params_carry_id_and_marker():
    found = {param.id: param for param in case_params("shift")}
    param = found["shift/lora-r4/resnet18"]
    assert param.values == (Case(task="shift", method="lora", architecture="resnet18", rank=4),)
    (mark,) = param.marks
    assert mark.name == "case"
    assert mark.kwargs == {"task": "shift", "method": "lora", "architecture": "resnet18", "rank": 4}


def test_an_id_reads_back_as_its_case():
    cases = matrix_cases() + matrix_cases("edge")
    assert [parse_case_id(case.id) for case in cases] == cases


NO_IDS = """
    shift shift/lora-r4 shift/lora-r4/resnet18/x // shift//resnet18 shift/lora/resnet18
    shift/full-r4/resnet18 shift/lora-r0/resnet18 shift/lora-r04/resnet18
    shift/lora-r1\u0664/resnet18 shift/lora-r4.0/resnet18 shift/lora-r4/resnet19
    Shift/lora-r4/resnet18
"""


@pytest.mark.parametrize("text", ["", " shift/lora-r4/resnet18", *NO_IDS.split()])
def test_what_is_no_id_is_refused(text):
    with pytest.raises(InputError):
        parse_case_id(text)


@pytest.mark.parametrize(
    ("method", "rank", "message"),
    [
        ("lora", None, "needs a rank"),
        ("full", 4, "has no rank"),
        ("lora", 0, "not a positive"),
        ("lora", -1, "not a positive"),
    ],
)
def test_rank_is_there_exactly_where_the_method_has_one(method, rank, message):
    with pytest.raises(InputError, match=message):
        method_at(method, rank)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("shift/*", 54), ("*/full/*", 8), ("shift/lora-r4/resnet18", 1), ("*/lora-r[14]/resnet18", 4)],
)
def test_pattern_is_a_glob_on_ids(pattern, count):
    assert len(select_cases(pattern)) == count


@pytest.mark.parametrize("pattern", ["", "Shift/*", "shift", "nothing"])
def test_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(UnknownNameError):
        select_cases(pattern)


def test_a_pattern_of_another_matrix_is_told_the_matrix():
    told = (
        r"no case of the matrix 'default' matches 'edge/full/\*', but 5 cases of 'edge': .*--matrix"
    )
    with pytest.raises(InputError, match=told + " edge$"):
        select_cases("edge/full/*")
    with pytest.raises(InputError, match=r"but 54 cases of 'default': .*--matrix default$"):
        select_cases("shift/*", matrix="edge")


CASES = matrix_cases()
ARCHITECTURES = sorted({case.architecture for case in CASES})


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shards_take_each_case_once_keep_architectures_together_and_are_never_empty(count):
    shards = shard_of(CASES, count=count)
    assert shards.keys() == {case.id for case in CASES}
    assert set(shards.values()) == set(range(1, count + 1))
    homes = {(case.architecture, shards[case.id]) for case in CASES}
    assert len(homes) == len(ARCHITECTURES)


def test_more_shards_than_architectures_are_refused():
    with pytest.raises(InputError, match="5 shards for 4 architectures"):
        shard_of(CASES, count=5)
