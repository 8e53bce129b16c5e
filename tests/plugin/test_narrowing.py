"""How a run was narrowed, and where that was written."""

from __future__ import annotations

import pytest

from peft_regress.plugin.selection import COMMAND_LINE, is_ci, narrowing_of


def narrowed(pytester, *words, ini=""):
    pytester.makeini(f"[pytest]\naddopts = {ini}\n")
    return narrowing_of(pytester.parseconfig(*words))


WORDS = {
    "-k a": ("-k", "a"),
    "-m b": ("-mb",),
    "--deselect x.py::t": ("--deselect=x.py::t",),
    "--ignore c": ("--ignore=c",),
    "--ignore-glob *d": ("--ignore-glob", "*d"),
    "--lf": ("--last-failed",),
    "--regress-cases shift/*": ("--regress-cases", "shift/*"),
    "--regress-shard 1/4": ("--regress-shard=1/4",),
    "x.py::test_one": ("x.py::test_one",),
}


@pytest.mark.parametrize(("how", "words"), WORDS.items(), ids=list(WORDS))
def test_each_way_is_found_wherever_it_is_written(pytester, monkeypatch, how, words):
    pytester.makepyfile(x="def test_one(): pass")
    found = narrowed(pytester, *words)
    assert (found.typed, found.places, found.problems()) == ([how], [COMMAND_LINE], [])
    found = narrowed(pytester, ini=" ".join(words))
    assert (found.typed, found.places) == ([how], ["addopts of tox.ini"])
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(words))
    found = narrowed(pytester)
    assert (found.typed, found.places) == ([how], ["PYTEST_ADDOPTS"])
    assert found.problems() == [
        f"{how} of PYTEST_ADDOPTS narrows the run; with CI set only the command line may"
    ]


def test_neither_other_options_nor_what_the_command_line_replaces_narrow(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k env --deselect a -ra")
    found = narrowed(pytester, "-q", "-k", "typed", "--deselect", "b", ini="-k ini --deselect c")
    pairs = dict(zip(found.typed, found.places, strict=True))
    assert pairs == {
        "-k typed": COMMAND_LINE,
        "--deselect a": "PYTEST_ADDOPTS",
        "--deselect b": COMMAND_LINE,
        "--deselect c": "addopts of tox.ini",
    }


@pytest.mark.parametrize(
    ("value", "ci"), [(None, False), ("", False), ("false", False), ("true", True), ("1", True)]
)
def test_ci_is_what_every_service_sets(monkeypatch, value, ci):
    monkeypatch.delenv("CI", raising=False)
    if value is not None:
        monkeypatch.setenv("CI", value)
    assert is_ci() is ci
