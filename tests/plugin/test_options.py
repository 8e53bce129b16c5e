"""The pytest options: parsed once, wrong values refused."""

from __future__ import annotations

import dataclasses

import pytest

from peft_regress.errors import InputError
from peft_regress.plugin.options import RegressOptions, Shard


@pytest.mark.parametrize(
    ("text", "index", "count"), [("1/1", 1, 1), ("2/4", 2, 4), ("12/12", 12, 12)]
)
def test_shard_is_part_of_a_count(text, index, count):
    assert Shard.parse(text) == Shard(index=index, count=count)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "/",
        "1/",
        "/4",
        "a/b",
        "1/4/2",
        "-1/4",
        "1.0/4",
        " 1/4",
        "1/4 ",
        "\u00b2/4",
        "1\\4",
        "1/" + 5000 * "9",
    ],
    ids=lambda text: repr(text[:10]),
)
def test_what_is_no_shard_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="for instance 1/4"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["0/4", "5/4", "0/0", "1/0"])
def test_a_shard_outside_its_count_is_refused(text):
    with pytest.raises(InputError, match="between 1 and N"):
        Shard.parse(text)


@pytest.mark.parametrize("option", ["--regress-save", "--regress-summary"])
@pytest.mark.parametrize("name", ["x" * 300, "x" * 10_000, "a\0b"], ids=["long", "longer", "nul"])
def test_a_name_that_no_file_can_have_is_refused_before_anything_runs(pytester, option, name):
    with pytest.raises(InputError, match=f"{option} .*; choose another path") as refused:
        options_of(pytester, f"{option}={name}")
    assert str(refused.value).isprintable()


def options_of(pytester, *arguments):
    return RegressOptions.of(pytester.parseconfig(*arguments))


def test_without_options_everything_is_off(pytester):
    assert options_of(pytester) == RegressOptions(
        ascii=False,
        typed_matrix=None,
        baselines=pytester.path / "baselines",
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


def test_every_option_is_read(pytester):
    options = options_of(
        pytester,
        "--regress-ascii",
        "--regress-baseline=0003",
        "--regress-cases=shift/*",
        "--regress-full",
        "--regress-save=a run.json",
        "--regress-shard=2/3",
        "--regress-strict",
        "--regress-summary=summary.md",
    )
    assert options.ascii
    assert options.baseline == "0003"
    assert options.cases == "shift/*"
    assert options.full
    assert options.save == pytester.path / "a run.json"
    assert options.shard == Shard(index=2, count=3)
    assert options.strict
    assert options.summary == pytester.path / "summary.md"


def test_files_are_relative_to_where_the_command_was_typed(pytester, monkeypatch):
    pytester.makeini("[pytest]")
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)
    options = options_of(pytester, "--regress-save=run.json")
    assert options.save == below / "run.json"
    assert options.baselines == pytester.path / "baselines"


def test_an_absolute_path_stays_as_it_is(pytester, tmp_path):
    options = options_of(pytester, f"--regress-save={tmp_path / 'run.json'}")
    assert options.save == tmp_path / "run.json"


def test_the_storage_is_set_in_the_ini_file(pytester):
    pytester.makeini("[pytest]\nregress_baselines = history/of ours\n")
    assert options_of(pytester).baselines == pytester.path / "history" / "of ours"


def test_a_wrong_shard_is_wrong_use_of_pytest(pytester):
    with pytest.raises(pytest.UsageError, match="between 1 and N"):
        pytester.parseconfigure("--regress-shard=5/4")


def test_options_stand_in_a_group_of_their_own_with_one_prefix(pytester):
    config = pytester.parseconfig()
    group = config._parser.getgroup("peft_regress")
    names = [name for option in group.options for name in option.names()]
    known = (
        "ascii",
        "baseline",
        "cases",
        "full",
        "matrix",
        "off",
        "resume",
        "save",
        "shard",
        "strict",
        "summary",
    )
    assert sorted(names) == [f"--regress-{name}" for name in known]


def test_options_are_frozen(pytester):
    with pytest.raises(dataclasses.FrozenInstanceError):
        options_of(pytester).strict = True
