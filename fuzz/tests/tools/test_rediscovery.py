"""The search of old releases for defects that later ones mended."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import rediscovery
from fuzz_examples import example, failure, finding, layer
from packaging.version import Version
from rediscovery import Sign, read_known

from peft_fuzz.example import Outcome
from peft_fuzz.methods import METHODS
from peft_fuzz.oracle.checks import CHECKS
from peft_fuzz.search.findings import write_finding
from peft_fuzz.search.messages import Counts
from peft_regress.errors import InputError

TEXT = """
schema_version = 1

[environments]
"0.11.0" = ["transformers==4"]

[[issue]]
number = 1
title = "Merging fails"
broken = "0.10.0"
mended = "0.11.0"
kinds = ["merge"]
signs = [{ checks = ["merged"], methods = ["lo*"] }]

[[issue]]
number = 2
part = "DoRA"
title = "Training fails"
broken = "0.10.0"
mended = "0.11.0"
kinds = ["life"]
signs = [{ checks = ["trained"] }]

[[issue]]
number = 3
title = "A cluster fails"
broken = "0.11.0"
mended = "0.12.0"
kinds = ["life"]
beyond = "there is one machine"
"""
MERGED, TRAINED = finding(), finding(failed=failure("trained"))


# --- The list -------------------------------------------------------------------------------------


def test_the_list_has_thirty_defects_that_later_releases_mended():
    known = read_known()
    assert len(known.issue) >= 30
    assert all(Version(one.broken) < Version(one.mended) for one in known.issue)
    later = {"delora", "frod", "peanut"}
    for sign in (sign for one in known.issue for sign in one.signs):
        assert {*sign.checks} <= {*CHECKS}
        assert {*sign.methods} <= {*METHODS} | later


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("number = 2", "number = 2\nnumbers = 3", "unknown field `numbers`"),
        ('number = 2\npart = "DoRA"', "number = 1", "#1 is there twice"),
        ('beyond = "there is one machine"', "", "#3 needs either signs or a reason"),
        ('methods = ["lo*"]', 'message = "["', "unterminated character set"),
        ("schema_version = 1", "schema_version", "list.toml"),
        ('broken = "0.11.0"', 'broken = "v11"', "matching regex"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(old, new, problem, tmp_path):
    path = tmp_path / "list.toml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(InputError, match=problem):
        read_known(path)


OF_A_CONVOLUTION = finding(
    example(layer("conv2d", groups=2)),
    failure("exception", error="RuntimeError", where="tuners.lora.layer:merge"),
)


@pytest.mark.parametrize(
    ("sign", "fits"),
    [
        ({}, True),
        ({"methods": ("ia3", "lo*")}, True),
        ({"methods": ("ia3",)}, False),
        ({"checks": ("merged",)}, False),
        ({"acts": ("merge",), "errors": ("Runtime*",), "where": ("*:merge",)}, True),
        ({"acts": ("wrap",)}, False),
        ({"errors": ("TypeError",)}, False),
        ({"where": ("*:forward",)}, False),
        ({"traits": ("convolution", "groups")}, True),
        ({"traits": ("dilation",)}, False),
        ({"without": ("groups",)}, False),
        ({"message": "differs by"}, True),
        ({"message": "dtype"}, False),
        ({"example": '"groups":2'}, True),
        ({"example": "rank_pattern"}, False),
    ],
)
def test_a_sign_fits_a_finding_that_has_all_it_says(sign, fits):
    assert Sign(**sign).fits(OF_A_CONVOLUTION) is fits


# --- The command ----------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Run the command on the list above; a search finds `finds`, of which `fails` fail later."""
    path, page = tmp_path / "list.toml", tmp_path / "page.md"
    path.write_text(TEXT)
    page.write_text(rediscovery.PAGE.read_text())
    calls: list[str] = []

    def live(one):
        return Outcome(failure=failure() if one in run.fails else None)

    worker = contextlib.nullcontext(SimpleNamespace(begin=lambda: None, live=live))

    def fuzz(requirements, settings, *, progress):
        calls.append(requirements[0])
        for one in run.finds:
            progress(f"found {write_finding(settings.save, one).name}")
        return SimpleNamespace(
            counts=Counts(lives={"lora": 7}),
            seconds=60.0,
            packages={"peft": "0.10.0"},
            problems=run.problems,
        )

    def run(*options):
        places = ["--folder", str(tmp_path / "runs"), "--results", str(tmp_path / "results.json")]
        return rediscovery.main([*options, *places])

    run.finds, run.fails, run.problems, run.calls, run.page = (MERGED,), (), (), calls, page
    overlay = contextlib.nullcontext(SimpleNamespace(python="python"))
    monkeypatch.setattr(rediscovery, "read_known", lambda: read_known(path))
    monkeypatch.setattr(rediscovery, "fuzz", fuzz)
    monkeypatch.setattr(rediscovery, "opened_overlay", lambda *_, **__: overlay)
    monkeypatch.setattr(rediscovery, "LifeWorker", lambda *_: worker)
    monkeypatch.setattr(rediscovery, "PAGE", page)
    return run


def test_a_finding_that_the_next_release_mended_shows_the_defect(command, capsys):
    command.finds = (MERGED, TRAINED)
    command.fails = (TRAINED.example,) if TRAINED.example != MERGED.example else ()
    assert command() == 0
    out = capsys.readouterr().out
    assert "0.10.0  #1              found   Merging fails" in out
    assert "0.11.0  #3              beyond  A cluster fails" in out
    assert command.calls == ["peft==0.10.0", "peft==0.11.0"]


@pytest.mark.parametrize(
    ("finds", "fails"), [((finding(example(method="ia3")),), ()), ((MERGED,), (MERGED.example,))]
)
def test_a_finding_without_a_sign_or_that_still_fails_shows_nothing(command, capsys, finds, fails):
    command.finds, command.fails = finds, fails
    assert command() == 0
    assert "found 0, missed 2, and cannot find 1" in capsys.readouterr().out


def test_a_release_that_was_searched_to_the_end_is_not_searched_again(command, capsys):
    command.problems = ("interrupted",)
    assert command("--releases", "0.10.0") == 3
    assert "#1              open" in capsys.readouterr().out
    command.problems = ()
    assert command("--releases", "0.10.0") == 0
    assert command("--releases", "0.10.0") == 0
    assert command.calls == ["peft==0.10.0"] * 2


def test_the_page_is_written_and_compared(command):
    command()
    assert command("--check") == 1
    assert command("--write") == 0
    assert command("--check") == 0
    page = command.page.read_text()
    assert "the fuzzer found 1, missed 1, and cannot find 1" in page
    assert "| 0.10.0 | 2 | 1 | [#2](" in page
    assert "A cluster fails: there is one machine." in page


def test_list_searches_nothing_and_bad_input_is_one_line(command, capsys):
    assert command("--list") == 0
    assert "0.10.0  #2 (DoRA)" in capsys.readouterr().out
    assert command.calls == []
    with pytest.raises(SystemExit, match=r"no defect is sought in 9; releases: 0\.10\.0, 0\.11\.0"):
        command("--releases", "9")
    with pytest.raises(SystemExit, match=r"Make them with `python fuzz/tools/rediscovery\.py`"):
        command("--write")
