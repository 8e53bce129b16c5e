"""The pytest options: parsed once, wrong values refused; how a run was narrowed."""

import dataclasses

import pytest

from peft_regress.errors import InputError
from peft_regress.plugin.collection import (
    Collected,
    Coverage,
    chosen_from_collected,
    kept_from_collection,
)
from peft_regress.plugin.options import RegressOptions, parse_shard
from peft_regress.project.project import current_project


@pytest.mark.parametrize(
    "text", ["", "1", "/", "a/b", "1/4/2", "-1/4", " 1/4", "\u00b2/4", "0/4", "5/4", "0/0"]
)
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InputError, match="I/N is wanted, for instance 1/4"):
        parse_shard(text)


@pytest.mark.parametrize("option", ["--regress-save", "--regress-summary"])
def test_a_name_that_no_file_can_have_is_refused_before_anything_runs(pytester, option):
    with pytest.raises(InputError, match=f"{option} .*Choose another path"):
        options_of(pytester, f"{option}={'x' * 300}")


def options_of(pytester, *arguments):
    return RegressOptions.of(pytester.parseconfig(*arguments))


def test_every_option_is_read_and_off_without_it(pytester, monkeypatch):
    text = '[tool.peft_regress]\nbaselines = "history/of ours"\n[tool.pytest.ini_options]\n'
    pytester.makepyprojecttoml(text)
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)
    usual = RegressOptions(
        project=current_project(),
        typed_matrix=None,
        baselines=pytester.path / "history" / "of ours",
        baseline=None,
        judged_by=None,
        cases=None,
        full=False,
        off=False,
        resume=None,
        save=None,
        shard=None,
        strict=False,
        summary=None,
    )
    assert options_of(pytester) == usual
    options = options_of(
        pytester,
        "--regress-baseline=0003",
        "--regress-cases=shift/*",
        "--regress-full",
        "--regress-save=a run.json",
        "--regress-shard=2/3",
        "--regress-strict",
        f"--regress-summary={pytester.path / 'summary.md'}",
    )
    assert options == dataclasses.replace(
        usual,
        baseline="0003",
        judged_by="0003",
        cases="shift/*",
        full=True,
        # Relative to where the command was typed.
        save=below / "a run.json",
        shard=(2, 3),
        strict=True,
        summary=pytester.path / "summary.md",
    )


def test_options_stand_in_a_group_of_their_own_with_one_prefix(pytester):
    group = pytester.parseconfig()._parser.getgroup("peft_regress")
    names = {name for option in group.options for name in option.names()}
    known = "baseline cases full matrix off resume save shard strict summary"
    assert names == {f"--regress-{name}" for name in known.split()}


def narrowed(pytester, *words, ini=""):
    pytester.makeini(f"[pytest]\naddopts = {ini}\n")
    option = pytester.parseconfig(*words).option
    return [*kept_from_collection(option), *chosen_from_collected(option)]


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
    assert narrowed(pytester, *words) == [how]
    assert narrowed(pytester, ini=" ".join(words)) == [how]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(words))
    assert narrowed(pytester, "-q") == [how]


def test_a_path_that_is_not_utf_8_can_stand_in_a_run_file():
    coverage = Coverage(
        known=frozenset({"shift/lora-r4/tiny"}),
        measured=frozenset(),
        collected=Collected(),
        before_collection=["tests/\udcff"],
        after_collection=[],
    )
    assert coverage.selection.narrowed_by == [r"tests/\udcff"]
