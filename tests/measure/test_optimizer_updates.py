"""The fingerprint of an optimizer: what it sees, what it does not depend on, and whose it is."""

import math
from importlib import import_module

import pytest
import torch
from fault_catalogue import FAULTS
from fault_catalogue.injection import injected
from own_training import fine_tune, measured

from peft_regress import registry
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.measure.inputs import optimizer_updates


def updates(method="galore", *, rank=4):
    its = registry.get("method", method)
    found = updates_by(lambda model: its.at(rank).make_optimizer(model))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def sound():
    return updates()


def updates_by(make_optimizer):
    device = torch.device("cpu")
    return optimizer_updates(make_optimizer, dtype=torch.float32, device=device)


def furthest(found, expected):
    """Return the largest relative change of any update."""
    return max(
        abs(new - old) / old
        for one, other in zip(found, expected, strict=True)
        for new, old in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    "name",
    [
        "galore-moments-reset",
        "galore-never-refreshed",
        "galore-on-the-wrong-side",
        "galore-rank-clamped",
        "galore-scale-ignored",
        "galore-second-group-skipped",
    ],
)
def test_a_fault_of_the_optimizer_is_far_beyond_the_bound(name, sound):
    with injected(FAULTS[name]):
        assert furthest(updates(), sound) > 100 * DEFAULT_POLICY.update_bound


@pytest.mark.parametrize("rate", [1e-5, 1e-2])
def test_adamw_makes_no_step_where_a_gradient_is_zero(rate):
    """Rounding in place of zero would decide the update, by the instructions of the machine."""
    vector, tall, wide = updates_by(lambda m: torch.optim.AdamW(m.parameters(), lr=rate))
    assert vector[0] == pytest.approx(rate / 1e-3, rel=1e-3)
    # 160 of 512 elements are other than zero.
    assert [tall[0], wide[0]] == pytest.approx([vector[0] * (160 / 512) ** 0.5] * 2, rel=1e-3)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_signs_of_singular_vectors_do_not_matter(rank, monkeypatch):
    """LAPACK chooses them; another one may choose others at each refresh."""
    sound = updates(rank=rank)
    import_module("galore_torch")
    projector = import_module("galore_torch.galore_projector").GaLoreProjector
    found = projector.get_orthogonal_matrix
    generator = torch.Generator().manual_seed(1)

    def flipped(self, weights, rank, type):  # noqa: A002
        signs = torch.randint(0, 2, (rank,), generator=generator) * 2 - 1.0
        vectors = found(self, weights, rank, type)
        return vectors * signs if type == "left" else signs[:, None] * vectors

    monkeypatch.setattr(projector, "get_orthogonal_matrix", flipped)
    for _ in range(2):
        assert furthest(updates(rank=rank), sound) < 0.1 * DEFAULT_POLICY.update_bound


def test_two_updates_from_the_start_and_three_about_the_refresh_are_kept(sound):
    """GaLore's first update of rank 4: the rate, 0.25 times, in 4 of 16 directions."""
    vector, tall, wide = sound
    torch.rand(3)
    assert updates() == sound
    assert [len(one) for one in (vector, tall, wide)] == [5] * 3
    assert tall == pytest.approx(wide, rel=1e-5)
    assert tall[0] / vector[0] == pytest.approx(0.25 * (4 / 16) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("gap", [4, 10, 15])
def test_the_refresh_is_where_the_optimizer_says(gap):
    """The gradient keeps its direction until then, and an update without a memory shows it."""

    class Sign(torch.optim.SGD):
        def step(self, closure=None):
            del closure
            for parameter in self.param_groups[0]["params"]:
                seen = self.state[parameter].setdefault("gradients", [])
                seen.append(parameter.grad / parameter.grad.norm())

    made = []

    def make(model):
        made.append(Sign([{"params": list(model.parameters()), "update_proj_gap": gap}], lr=1.0))
        return made[-1]

    assert updates_by(make) == [[0.0] * 5] * 3
    for state in made[0].state.values():
        seen = state["gradients"]
        assert len(seen) == gap + 2
        alike = [torch.allclose(one, seen[0], atol=1e-6) for one in seen]
        assert alike == [True] * gap + [False] * 2


def amsgrad(model):
    return torch.optim.AdamW(model.parameters(), lr=0.01, amsgrad=True, foreach=False)


@pytest.mark.parametrize(
    ("optimizer", "has_it"),
    [(None, True), (amsgrad, True), (lambda model: amsgrad(model[8]), False)],
)
def test_an_optimizer_of_ones_own_has_it_if_it_fits_any_model(optimizer, *, has_it):
    record = measured(fine_tune("full", optimizer=optimizer), timed=False)
    assert record.status == "ok"
    assert ("optimizer_updates" in record.metrics) == has_it
    if has_it:
        metric = record.metrics["optimizer_updates"]
        assert [len(sample) for sample in metric.samples] == [5] * 3
        assert metric.value == pytest.approx(sum(sample[0] for sample in metric.samples) / 3)


def test_an_optimizer_whose_updates_are_no_numbers_is_an_error():
    """No run file could hold such a metric."""

    class Diverging(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                parameter.data *= math.nan if state["steps"] > 10 else 1

    record = measured(fine_tune("full", optimizer=lambda m: Diverging(m.parameters(), lr=0.01)))
    assert record.status == "error"
    assert "'optimizer_updates' is nan" in record.error.message
