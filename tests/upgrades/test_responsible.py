"""Which of several packages is responsible: each is tried alone in the good environment."""

import pytest
from package_world import SETUP, World, set_world
from packaging.version import Version

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.errors import InputError
from peft_regress.gate.findings import find_causes
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import observations_of
from peft_regress.overlay.pip import Planned
from peft_regress.upgrades.responsible import ResponsiblePackages, find_responsible

IDS = ("shift/dora-r4/resnet18", "unseen/dora-r4/resnet18")
OLD = {"galore-torch": "1.0", "peft": "0.18.1", "torch": "2.0", "transformers": "4.0"}
NEW = {"peft": Version("0.20.0"), "transformers": Version("5.0")}


@pytest.fixture
def world(monkeypatch):
    index = {"peft": ["0.18.1", "0.20.0"], "transformers": ["4.0", "5.0"]}
    return set_world(monkeypatch, World(installed=dict(OLD), index=index))


def planned(**versions):
    return tuple(Planned(name=n, version=v, source=f"{n}=={v}") for n, v in versions.items())


def responsible(
    world, candidate=("peft", "transformers"), base=(), *, progress=lambda _: None, **options
):
    """Measure both sides, and ask which of the packages does what differs."""
    cases = [parse_case_id(name) for name in IDS]
    new = {name: str(NEW[name]) for name in candidate}
    sides = []
    for versions in (dict(base), new):
        with world.opened_overlay([f"{n}=={v}" for n, v in versions.items()]) as overlay:
            loaded = {}
            run = world.measure_cases(cases, python=overlay.python, setup=SETUP, loaded=loaded)
            sides.append(observations_of(run, "a side"))
    old, observed = sides
    verdicts = [judge_case(name, old[name], observed[name]) for name in IDS]
    findings = find_causes(verdicts, old, observed)
    world.runs.clear()
    before, after = (planned(**versions) for versions in (dict(base), new))
    options |= {"loaded": loaded, "setup": SETUP, "progress": progress}
    return find_responsible(findings, before, after, old, **options)


def without_new_transformers(packages):
    """Say that the new peft does not import with an old transformers."""
    is_broken = packages["peft"] >= NEW["peft"] and packages["transformers"] < NEW["transformers"]
    return InputError("ImportError: HybridCache") if is_broken else None


def moves(*needed, **moved):
    """Return what moves where all of these packages are new."""
    return lambda packages, _: moved if all(packages[name] >= NEW[name] for name in needed) else {}


def test_one_of_two_does_it(world):
    world.moved = moves("transformers", forward_flops=2000)
    steps = []
    (found,) = responsible(world, progress=steps.append)
    assert (found.alone, found.without_effect, found.untried) == (("transformers",), ("peft",), ())
    assert found.sentence == "transformers alone does it"
    assert steps == ["trying peft 0.20.0 alone", "trying transformers 5.0 alone"]
    # One of the two cases that show it is enough, and costs need no training.
    assert [(cases, trains) for _, cases, trains in world.runs] == [([IDS[0]], False)] * 2


def either(packages, _):
    return {"forward_flops": 2000} if any(packages[n] >= v for n, v in NEW.items()) else {}


PEFT_MOVES = moves("peft", forward_flops=2000)
BOTH_MOVE = moves("peft", "transformers", forward_flops=2000)


NEWER_ALONE = "transformers alone does it"
UNKNOWN = (
    "unknown, since peft cannot be tried alone (ImportError: HybridCache); "
    "transformers does not do it"
)
IMPORTS = {"broken": without_new_transformers}


@pytest.mark.parametrize(
    ("moved", "changes", "asked", "sentence"),
    [
        (either, {}, {}, "peft and transformers alone do it"),
        (BOTH_MOVE, {}, {}, "no package alone does it, only with others: peft, transformers"),
        (moves("peft", status="error"), {}, {}, "peft alone does it"),
        (
            PEFT_MOVES, IMPORTS, {}, UNKNOWN,
        ),
        # What pip takes with a package may do what is looked for, or hide it.
        (
            moves("transformers", forward_flops=2000),
            {**IMPORTS, "extra": {"peft==0.20.0": ["transformers==6.0"]}}, {"asked": ["peft"]},
            f"{NEWER_ALONE}; peft cannot be tried alone: pip changes transformers to 6.0 with it",
        ),
        # Or make it the candidate: measured again, it would only repeat itself.
        (
            PEFT_MOVES, {**IMPORTS, "extra": {"peft==0.20.0": ["transformers==5.0"]}}, {}, UNKNOWN,
        ),

    ],
)  # fmt: skip
def test_the_sentence_says_who_does_it(world, moved, changes, asked, sentence):
    world.index["transformers"].append("6.0")
    for name, value in {"moved": moved, **changes}.items():
        setattr(world, name, value)
    (found,) = responsible(world, **asked)
    assert found.sentence == sentence
    assert "6.0" not in world.versions_tried("transformers")


def test_a_package_that_goes_back_to_what_is_installed_is_tried_too(world):
    """The good environment is an overlay: its transformers is not that of the running one."""
    world.installed["transformers"] = "5.0"
    world.moved = moves("transformers", forward_flops=2000)
    (found,) = responsible(world, ("peft",), base=[("transformers", "4.0")])
    assert (found.alone, found.without_effect) == (("transformers",), ("peft",))


def test_each_finding_has_its_own_package(world):
    one = moves("peft", forward_flops=2000)
    other = moves("transformers", invariants={"frozen_unchanged": False})
    world.moved = lambda packages, name: {**one(packages, name), **other(packages, name)}
    sentences = {found.sentence for found in responsible(world)}
    assert sentences == {"peft alone does it", "transformers alone does it"}
    assert all(trains for _, _, trains in world.runs)


def test_a_package_that_needs_another_is_tried_with_it(world, monkeypatch):
    """Of three that changed, one needs a second one and not the third."""
    world.installed["tokenizers"] = "1.0"
    world.index["tokenizers"] = ["1.0", "2.0"]
    world.extra["transformers==5.0"] = ["tokenizers==2.0"]
    monkeypatch.setitem(NEW, "tokenizers", Version("2.0"))
    world.broken = lambda packages: (
        InputError("ImportError: tokenizers")
        if packages["transformers"] >= NEW["transformers"]
        and packages["tokenizers"] < NEW["tokenizers"]
        else None
    )
    world.moved = moves("transformers", forward_flops=2000)
    (found,) = responsible(world, ("peft", "transformers", "tokenizers"), asked=["peft"])
    assert (found.alone, found.without_effect) == ((), ("peft", "tokenizers"))
    assert found.together == ("transformers with tokenizers",)
    assert found.sentence == "transformers with tokenizers does it; peft alone: no"


@pytest.mark.parametrize("candidate", [("peft",), (), ("peft", "transformers")])
def test_if_one_package_changed_or_nothing_was_found_nothing_is_tried(world, candidate):
    if len(candidate) < 2:
        world.moved = moves("peft", forward_flops=2000)
    assert responsible(world, candidate) == ()
    assert world.runs == []


def test_a_package_that_the_case_does_not_import_is_not_tried(world):
    world.loaded = {"peft", "torch"}
    world.moved = moves("peft", forward_flops=2000)
    (found,) = responsible(world)
    assert (found.sentence, found.untried) == ("peft alone does it", ())
    assert world.versions_tried() == []
    world.loaded = {"peft", "torch", "transformers"}
    (found,) = responsible(world)
    assert found.without_effect == ("transformers",)


def test_the_sentence_has_at_most_two_lines():
    names = tuple(f"a-rather-long-name-{number}" for number in range(9))
    why = "ImportError: cannot import name 'HybridCache' from 'transformers' (/a/long/path)"
    for alone in ((), names):
        found = ResponsiblePackages(
            alone=alone,
            without_effect=tuple(f"{name} with {names[0]}" for name in names),
            untried=tuple((name, why) for name in names),
            asked=names,
        )
        assert len(found.sentence) <= 170
    assert found.sentence.startswith("a-rather-long-name-0, a-rather")


def test_of_many_packages_the_most_likely_are_tried_and_the_rest_is_listed(world, monkeypatch):
    extra = [f"cuda-part-{number}" for number in range(10)]
    for name in extra:
        world.installed[name] = "1.0"
        world.index[name] = ["1.0", "2.0"]
        monkeypatch.setitem(NEW, name, Version("2.0"))
    world.moved = moves("peft", forward_flops=2000)
    (found,) = responsible(world, ("peft", *extra))
    assert found.alone == ("peft",)
    assert len(found.without_effect) == 7
    assert {why for _, why in found.untried} == {"only the first 8 packages are tried"}
