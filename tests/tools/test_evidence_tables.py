"""tools/docs/evidence_tables.py: the page has the tables of evidence.json."""

import statistics

import evidence_tables as tool
import pytest
from page_tables import put

from peft_regress.catalogue.evidence import read_evidence
from peft_regress.choosing.ranking import difference


@pytest.mark.parametrize("name", tool.TABLES)
def test_each_table_is_on_the_page_as_it_is_made_now(name):
    page = tool.PAGE.read_text()
    assert put(page, "evidence", name, tool.TABLES[name]()) == page


def test_a_cell_has_the_mean_and_the_paired_interval():
    """Differences of 1, 2 and 3 points: 2 +- 4.303 x 1 / sqrt(3)."""
    scores = {"full": (0.5, 0.6, 0.7), "head": (0.51, 0.62, 0.73)}
    assert tool.cell(scores, "head") == "+2.0 ± 2.5"
    assert tool.cell(scores, "full") == "60.0 %"
    assert tool.cell(scores, "lora-r4") == "-"


def test_the_sentences_below_the_tables_hold():
    evidence = read_evidence().scores

    def above(task, method, other="full"):
        return {
            network: difference(scores[method], scores[other])
            for network, scores in evidence[task].items()
            if method in scores
        }

    def below(task, method):
        found = above(task, method)
        return {name for name in found if found[name].mean < -found[name].margin}

    networks = {"mobilenet_v2", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5"}
    others = networks - {"mobilenet_v3_small"}
    small = networks - {"resnet18"}
    assert below("shift", "head") == below("shift", "bn_head") == networks
    assert below("unseen", "head") == below("unseen", "bn_head") == others
    assert (below("unseen", "lora-r4"), below("shift", "lora-r4")) == ({"resnet18"}, set())
    rank_16 = above("unseen", "lora-r16", "lora-r1")
    assert {name for name, each in rank_16.items() if each.mean > each.margin} == {
        *networks,
        "efficientnet_lite0",
    }
    for task in ("unseen", "shift"):
        ranks = {rank: above(task, f"dora-r{rank}", f"lora-r{rank}") for rank in (1, 16)}
        assert {name for name, each in ranks[1].items() if each.mean > each.margin} == small
        assert not any(each.mean > each.margin for each in ranks[16].values())
    assert all(networks <= below("unseen", f"galore-r{rank}") for rank in (1, 2, 4))
    lite = evidence["unseen"]["efficientnet_lite0"].keys() - {"full"}
    found = {one: above("unseen", one)["efficientnet_lite0"] for one in lite}
    beyond = {one: found[one].mean > 0 for one in lite if not found[one].is_noise}
    higher = dict.fromkeys(("lora-r16", "dora-r8", "dora-r16"), True)
    assert beyond == {**higher, "galore-r1": False}
    severities = [task for task in evidence if task.startswith("shift-")]
    assert all(len(below(task, "bn_head")) == 2 for task in severities)
    lost = [-each.mean for task in severities for each in above(task, "lora-r4").values()]
    assert f"LoRA r=4 is at most {100 * max(lost):.1f} points below" in tool.PAGE.read_text()


def test_the_animals_tell_methods_apart_as_the_page_says():
    evidence = read_evidence().scores
    animals = evidence["animals"]

    def told_apart(task, network):
        scores = evidence[task][network]
        methods = animals[network].keys() - {"full"}
        return sum(not difference(scores[one], scores["full"]).is_noise for one in methods)

    networks = ("mobilenet_v2", "shufflenet_v2_x0_5")
    assert [told_apart("animals", network) for network in networks] == [4, 4]
    assert [told_apart("unseen", network) for network in networks] == [3, 4]
    means = [statistics.fmean(one) for network in networks for one in animals[network].values()]
    assert max(means) < 0.3
