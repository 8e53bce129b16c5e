"""The search: it finds, makes smaller, goes on after a finding, and ends in time."""

import itertools

import pytest
from fuzz_examples import Library, drawn, example, failure, layer, loses_bias, reflects

from peft_fuzz.acts import Disable, Enable, Fill, Merge
from peft_fuzz.example import Outcome
from peft_fuzz.search.causes import cause_of
from peft_fuzz.search.search import Search, shrink


def sought(library, known=(), *, seconds=20.0, run=None, **options):
    """Search; each example takes a hundredth of a second."""
    ticks = itertools.count()
    search = Search(run=run or library.run, known=known, clock=lambda: 0.01 * next(ticks))
    return search.seek(drawn(), **{"seed": 3, "seconds": seconds, "shrink_seconds": 9.0, **options})


@pytest.mark.parametrize("seed", range(3))
def test_the_smallest_example_of_a_defect_is_found(seed):
    found = sought(Library({"merged": reflects}), seed=seed).found
    assert found.cause.traits == ("convolution", "padding mode")
    (only,) = found.example.network.layers
    assert only.kind == "conv1d"
    assert [type(act) for act in found.example.acts] == [Fill, Merge]
    assert found.example.adapters[0].settings == {"target_modules": ["layer0"]}
    assert found.failure.check == "merged"


def test_after_one_finding_the_search_finds_the_other():
    library = Library({"merged": lambda one, act: reflects(one, act) or loses_bias(one, act)})
    known = []
    for _ in range(2):
        known.append(sought(library, known).found.cause)
    traits = {("convolution", "padding mode"), ("setting lora_bias",)}
    assert {one.traits for one in known} == traits
    last = sought(library, known, seconds=2.0)
    assert last.found is None
    assert last.counts.known["lora"] > 0


def test_shrinking_does_not_slip_into_another_failure():
    plain = Library({"merged": reflects, "disabled": lambda _, act: isinstance(act, Disable)})
    known = [cause_of(example(acts=(Disable(),)), failure("disabled", 0))]
    found = sought(plain, known).found
    assert found.failure.check == "merged"
    assert not any(isinstance(act, Disable) for act in found.example.acts)


def test_a_search_without_a_finding_ends_in_time_and_counts_its_lives():
    library = Library()
    result = sought(library, seconds=2.0)
    assert result.found is None
    assert result.counts.lives == {"lora": len(library.lived)}
    assert 150 < len(library.lived) <= 200
    ends = itertools.cycle([Outcome(refused="no"), Outcome(absent="no"), Outcome()])
    counts = sought(Library(), seconds=1.0, run=lambda _: next(ends)).counts
    assert counts.refused["lora"] + counts.absent["lora"] > counts.lives["lora"] // 2 > 0


def test_the_same_seed_draws_the_same_examples():
    one, two, other = Library(), Library(), Library()
    for library, seed in ((one, 3), (two, 3), (other, 4)):
        sought(library, seconds=0.3, seed=seed)
    assert one.lived == two.lived
    assert one.lived != other.lived


def test_a_failure_that_does_not_come_again_is_counted_and_is_no_finding():
    library, failed = Library({"merged": reflects}), []

    def run(one):
        outcome = library.run(one)
        if outcome.failure is not None:
            failed.append(one)
        return outcome if len(failed) == 1 else Outcome()

    result = sought(library, run=run)
    assert result.found is None
    assert result.counts.unsteady == {"lora": 1}


def test_an_example_that_cannot_be_judged_ends_no_search_and_is_told():
    library = Library({"merged": reflects})

    def run(one):
        if one.network.batch == 3:
            raise KeyError("no such tensor")
        return library.run(one)

    result = sought(library, run=run)
    assert result.found is not None
    assert result.counts.unjudged["lora"] > 0
    assert "KeyError" in result.problem
    assert '"batch":3' in result.problem


def test_an_edit_that_leads_to_no_valid_example_is_left_out():
    large = example(
        layer("conv2d", groups=2, stride=(2, 2)), layer(name="layer1"),
        acts=(Fill(seed=2), Disable(), Enable(), Merge(safe=True)),
        settings={"r": 8, "use_dora": True, "target_modules": ".*0"},
        network={"sizes": (9, 9), "batch": 3},
    )  # fmt: skip
    tried = []

    def still_fails(one):
        tried.append(one)
        return any(each.groups > 1 for each in one.network.layers)

    small = shrink(large, still_fails)
    assert small.acts == ()
    assert small.adapters[0].settings == {"target_modules": ".*0"}
    (only,) = small.network.layers
    assert (only.kind, only.groups, only.stride) == ("conv2d", 2, ())
    assert len(tried) < 100
