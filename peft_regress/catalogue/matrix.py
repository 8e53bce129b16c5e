"""The matrices: all cases to measure.

A matrix combines all tasks, methods, their ranks, and architectures that name it in `matrices`; a
method may name the `tasks` and `architectures` that it is for, and a task the `adaptations` that it
is measured with, in place of all. The `default` matrix is the gate; `extended` has the other
methods of the libraries; the cases of `edge` run in ExecuTorch. After these come a project's own
cases, those of `current_project()`, each of which names its matrix, usually `own`.

Imports no torch, so that listing and collecting stay fast.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, get_args

import msgspec

from peft_regress import registry
from peft_regress.cases import Adaptation, Case
from peft_regress.catalogue.methods.method import Method
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.project.budgets import OWN_MATRIX
from peft_regress.project.project import current_project
from peft_regress.project.script import OwnCase
from peft_regress.project.settings import DEFAULT_MATRIX
from peft_regress.registry import RegistryName
from peft_regress.text import count_of


def matrix_cases(matrix: str = DEFAULT_MATRIX, *, task: str | None = None) -> list[Case]:
    """List the cases of a matrix, or those of one task, in a stable order.

    The task itself need not belong to the matrix. Raises `UnknownNameError` for a task or a matrix
    that is not registered, `InputError` for own cases that cannot be imported.
    """
    check_matrix(matrix)
    own = [one.case for one in current_project().cases().values() if one.matrix == matrix]
    if task is None:
        tasks = registry.items("task")
    else:
        own = [case for case in own if case.task == task]
        known = task in registry.names("task") or not own
        tasks = (registry.get("task", task),) if known else ()
    built_in = [
        Case(task=item.name, method=names.method, architecture=names.architecture, rank=names.rank)
        for item in tasks
        if matrix in item.matrices or task is not None
        for names in getattr(item, "adaptations", ()) or _all_adaptations(matrix, item.name)
    ]
    return built_in + own


def all_cases() -> list[Case]:
    """List the cases of every matrix. Raises `InputError` for own cases that cannot be imported."""
    return [case for matrix in sorted(_matrices()) for case in matrix_cases(matrix)]


def _all_adaptations(matrix: str, task: str) -> list[Adaptation]:
    return [
        Adaptation(method=method.name, architecture=architecture.name, rank=rank)
        for architecture in registry.items("architecture")
        if matrix in architecture.matrices
        for method in registry.items("method")
        if matrix in _matrices_of(method, task, architecture.name)
        for rank in (method.ranks or (None,))
    ]


def _matrices_of(method: Any, task: str, architecture: str) -> tuple[str, ...]:
    """Return the matrices that pair a method with both: with all, if it names none."""
    tasks, architectures = (getattr(method, name, ()) for name in ("tasks", "architectures"))
    if task not in (tasks or (task,)) or architecture not in (architectures or (architecture,)):
        return ()
    return ("extended",) if architecture in getattr(method, "extended_on", ()) else method.matrices


def check_matrix(matrix: str) -> None:
    """Raise `UnknownNameError` for a matrix that no method, task and so on, or own case names."""
    known = _matrices()
    if matrix == OWN_MATRIX and matrix not in known:
        raise InputError(
            "there is no case of the matrix 'own': name yours in pyproject.toml, as in "
            '[tool.peft_regress] cases = ["pkg.gates:GATES"], or write a first suite with '
            "`peft-regress init`"
        )
    if matrix not in known:
        raise UnknownNameError("matrix", matrix, known)


def _matrices() -> set[str]:
    items = (item for name in get_args(RegistryName) for item in registry.items(name))
    built_in = {matrix for item in items for matrix in item.matrices}
    return built_in | {fine_tune.matrix for fine_tune in current_project().cases().values()}


def matrices_of(case: Case) -> frozenset[str]:
    """Return the matrices that a case belongs to; none if one of its names is not registered."""
    own = current_project().cases().get(case.id)
    return built_in_matrices(case) if own is None else frozenset({own.matrix})


def built_in_matrices(case: Case) -> frozenset[str]:
    """Return the matrices of a built-in case; none for any other. Imports no own case."""
    # Items of a family belong to no matrix, and asking the family would import torch.
    if any(getattr(case, name) not in registry.names(name) for name in get_args(RegistryName)):
        return frozenset()
    task = registry.get("task", case.task)
    method = registry.get("method", case.method)
    architecture = registry.get("architecture", case.architecture)
    if adaptations := getattr(task, "adaptations", ()):
        return frozenset(task.matrices if case.adaptation in adaptations else ())
    of_method = _matrices_of(method, case.task, case.architecture)
    return frozenset({*task.matrices} & {*of_method} & {*architecture.matrices})


def case_params(
    chosen: str | OwnCase | Iterable[OwnCase] | None = None, /, *, matrix: str | None = None
) -> list[Any]:
    """Return cases as `pytest.param`s, each with its id and its `case(...)` marker.

    Use it as `@pytest.mark.parametrize("case", case_params())`.

    chosen: a task, whose cases are taken; or cases of your own, which it registers; None for every
    case of the matrix. matrix: by default that of `[tool.peft_regress]` in pyproject.toml. Raises
    `InputError` for own cases that cannot be imported or whose id is taken.
    """
    import pytest

    if chosen is None or isinstance(chosen, str):
        cases = matrix_cases(current_project().matrix if matrix is None else matrix, task=chosen)
    else:
        cases = [fine_tune.case for fine_tune in current_project().add(chosen)]
    return [
        pytest.param(case, id=case.id, marks=pytest.mark.case(**msgspec.structs.asdict(case)))
        for case in cases
    ]


def parse_case_id(text: str) -> Case:
    """Parse a case id such as `shift/lora-r4/resnet18`; an own case comes before the registry."""
    case = Case.parse(text)
    if case.id not in current_project().cases():
        registry.get("task", case.task)
        method_at(case.method, case.rank)
        registry.get("architecture", case.architecture)
    return case


def method_at(name: str, rank: int | None, *, heads: tuple[str, ...] = ()) -> Method:
    """Return a registered method at a rank, with the heads that train beside it.

    Raises `UnknownNameError`, `InputError` for a rank that is missing, superfluous or not positive.
    """
    method: Method = registry.get("method", name)
    if method.ranks and rank is None:
        raise InputError(f"method {name!r} needs a rank, for instance {method.ranks[0]}")
    if not method.ranks and rank is not None:
        raise InputError(f"method {name!r} has no rank, but rank {rank} was given")
    if rank is not None and rank < 1:
        raise InputError(f"rank {rank} is not a positive whole number")
    return method.at(rank, heads=heads)


def select_cases(pattern: str | None, *, matrix: str = DEFAULT_MATRIX) -> list[Case]:
    """Return the cases of a matrix whose id matches a glob."""
    cases = matrix_cases(matrix)
    if pattern is None:
        return cases
    found = _matching(cases, pattern)
    if not found:
        check_other_matrices(pattern, matrix=matrix, option="--matrix")
        raise UnknownNameError("case pattern", pattern, [case.id for case in cases[:3]])
    return found


def check_other_matrices(pattern: str, *, matrix: str, option: str) -> None:
    """Raise `InputError` if a glob matches cases of another matrix, which `option` would choose."""
    for other in sorted(_matrices() - {matrix}):
        if found := _matching(matrix_cases(other), pattern):
            raise InputError(
                f"no case of the matrix {matrix!r} matches {pattern!r}, but "
                f"{count_of(len(found), 'case')} of {other!r}: choose it with {option} {other}"
            )


def _matching(cases: Iterable[Case], pattern: str) -> list[Case]:
    return [case for case in cases if fnmatchcase(case.id, pattern)]


def shard_of(cases: Iterable[Case], *, count: int) -> dict[str, int]:
    """Assign each case id to a shard 1..count, evenly, without splitting architectures.

    An architecture stays in one shard, which then measures its relative times and its profiles
    once. Raises `InputError` if there are more shards than architectures: one would be empty.
    """
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case.architecture, []).append(case.id)
    if count > len(groups):
        raise InputError(
            f"{count} shards for {len(groups)} architectures: an architecture is never split, so "
            f"at most {len(groups)} shards have work"
        )
    sizes = [0] * count
    shards: dict[str, int] = {}
    # The largest group goes to the smallest shard.
    for name in sorted(groups, key=lambda name: (-len(groups[name]), name)):
        smallest = sizes.index(min(sizes))
        sizes[smallest] += len(groups[name])
        shards.update(dict.fromkeys(groups[name], smallest + 1))
    return shards
