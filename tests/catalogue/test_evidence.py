"""evidence.json: whole studies of networks that have learned, and repeatable."""

from itertools import combinations

import accuracy_study
import pytest
from accuracy_tasks import ROOT, TASKS

from peft_regress.catalogue.evidence import read_evidence, why_not_learned
from peft_regress.choosing.ranking import difference
from peft_regress.choosing.study import RATES

STUDIES = {
    f"{task}-{network}": study
    for task, studies in read_evidence().studies.items()
    for network, study in studies.items()
}
each_study = pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)


@each_study
def test_each_study_has_learned_and_each_method_every_seed(study):
    assert why_not_learned(study) == ""
    assert "full" in study.methods
    assert study.untrained < study.curve[study.steps]
    for name, found in study.methods.items():
        assert len(found.early) == len(found.final) == accuracy_study.SEEDS, name
        assert len(found.longer) in {0, accuracy_study.LONGER_SEEDS}, name
        assert all(0 < score <= 1 for score in (*found.early, *found.final, *found.longer)), name
        assert found.rate in RATES, name


def test_three_times_the_steps_give_the_same_order():
    """Of each two methods whose intervals separate at both horizons."""
    separated = 0
    for name, study in STUDIES.items():
        longer = {method: one for method, one in study.methods.items() if one.longer}
        for (method, one), (other, two) in combinations(longer.items(), 2):
            late = difference(one.longer, two.longer)
            final = difference(one.final, two.final)
            if abs(late.mean) > late.half and abs(final.mean) > final.half:
                assert (late.mean > 0) == (final.mean > 0), (name, method, other)
                separated += 1
    assert separated > 0


def test_longer_training_ruins_what_the_page_names():
    page = " ".join((ROOT / "docs" / "evidence.md").read_text().split())
    assert "`lora-r16` falls to guessing on mobilenet_v3_small with two seeds" in page
    ruined = {
        (name, method): sum(score < min(one.final) - 0.1 for score in one.longer)
        for name, study in STUDIES.items()
        for method, one in study.methods.items()
    }
    assert {name: count for name, count in ruined.items() if count} == {
        ("unseen-mobilenet_v3_small", "lora-r16"): 2
    }


def test_the_severities_of_a_shift_average_to_its_score():
    for study in read_evidence().studies["shift"].values():
        for found in study.methods.values():
            mean = sum(found.final) / len(found.final)
            assert sum(found.parts.values()) / len(found.parts) == pytest.approx(mean, abs=1e-6)


@pytest.mark.nightly
def test_a_training_gives_the_accuracy_of_the_file():
    """A seed on another processor; the head is far from full fine-tuning."""
    task, network = TASKS[0], "shufflenet_v2_x0_5"
    study = read_evidence().studies[task.name][network]
    head, full = study.methods["head"], study.methods["full"]
    points = task.trainer(network).points("head", seed=0, at=[study.steps], rate=head.rate)
    assert abs(points[-1].score - head.final[0]) < 0.04
    assert points[-1].score < min(full.final) - 0.04
