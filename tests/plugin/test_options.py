"""The pytest options: parsed once, wrong values refused."""

import dataclasses

import pytest

from peft_regress.errors import InputError
from peft_regress.plugin.options import RegressOptions, Shard


def test_shard_is_part_of_a_count():
    assert Shard.parse("12/12") == Shard(index=12, count=12)


@pytest.mark.parametrize(
    "text", ["", "1", "/", "a/b", "1/4/2", "-1/4", " 1/4", "\u00b2/4", "0/4", "5/4", "0/0"]
)
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InputError, match="I/N is wanted, for instance 1/4"):
        Shard.parse(text)


@pytest.mark.parametrize("option", ["--regress-save", "--regress-summary"])
def test_a_name_that_no_file_can_have_is_refused_before_anything_runs(pytester, option):
    with pytest.raises(InputError, match=f"{option} .*Choose another path"):
        options_of(pytester, f"{option}={'x' * 300}")


def options_of(pytester, *arguments):
    return RegressOptions.of(pytester.parseconfig(*arguments))


def test_every_option_is_read_and_off_without_it(pytester, monkeypatch):
    pytester.makeini("[pytest]\nregress_baselines = history/of ours\n")
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)
    usual = RegressOptions(
        typed_matrix=None,
        baselines=pytester.path / "history" / "of ours",
        baseline=None,
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
        cases="shift/*",
        full=True,
        # Relative to where the command was typed.
        save=below / "a run.json",
        shard=Shard(index=2, count=3),
        strict=True,
        summary=pytester.path / "summary.md",
    )


def test_options_stand_in_a_group_of_their_own_with_one_prefix(pytester):
    group = pytester.parseconfig()._parser.getgroup("peft_regress")
    names = {name for option in group.options for name in option.names()}
    known = "baseline cases full matrix off resume save shard strict summary"
    assert names == {f"--regress-{name}" for name in known.split()}
