"""evidence.json: complete, equal to the stored run where both have a training, and repeatable."""

import statistics

import pytest
import task_study

from peft_regress.baselines.references import read_references
from peft_regress.cases import Case
from peft_regress.catalogue.built_in import BATCH, STEPS
from peft_regress.catalogue.evidence import read_evidence
from peft_regress.gate.policy import DEFAULT_POLICY

EVIDENCE = read_evidence()
BY_CASE = {
    f"{task}/{method}/{network}": accuracies
    for task, networks in EVIDENCE.scores.items()
    for network, methods in networks.items()
    for method, accuracies in methods.items()
}


def test_every_case_has_an_accuracy_for_each_seed_and_both_tasks_have_every_network():
    assert (EVIDENCE.steps, EVIDENCE.batch) == (STEPS, BATCH)
    for case, accuracies in BY_CASE.items():
        assert len(accuracies) == EVIDENCE.seeds, case
        assert all(0.1 < each < 1 for each in accuracies), case
    for task in ("unseen", "shift"):
        for network in task_study.NETWORKS:
            assert {"head", "bn_head", "full", "lora-r4"} <= EVIDENCE.scores[task][network].keys()


def test_the_first_seeds_are_those_of_the_stored_run():
    """Another processor moves the mean of a case by less than the gate's margin."""
    stored = read_references(task_study.ROOT / "baselines")
    compared = BY_CASE.keys() & stored.keys()
    assert len(compared) >= 32
    for case in compared:
        samples = stored[case].record.metrics["accuracy"].samples
        difference = statistics.fmean(BY_CASE[case][: len(samples)]) - statistics.fmean(samples)
        assert abs(difference) < DEFAULT_POLICY.accuracy_margin, case


@pytest.mark.slow
@pytest.mark.parametrize("method", ["head", "lora-r4"])
def test_a_training_gives_the_accuracy_of_the_file(method):
    """One seed on another processor may differ by more than their mean; a method differs by 17."""
    case = Case.parse(f"shift/{method}/shufflenet_v2_x0_5")
    found = task_study.scores(case, seed=EVIDENCE.seeds - 1)["accuracy"]
    assert abs(found - BY_CASE[case.id][-1]) < 0.08


def test_a_higher_severity_moves_pixels_further():
    clean = task_study.load_images("mnist", "test", classes=2)[0][:30]
    moved = [
        (task_study.corrupted(clean, severity) - clean).abs().mean(dim=(1, 2, 3))
        for severity in range(1, 6)
    ]
    for kind in range(3):
        means = [each[kind::3].mean().item() for each in moved]
        assert means == sorted(means)
        assert means[0] > 0
