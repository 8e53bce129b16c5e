"""tools/docs/choices.py: the tables of docs/choosing.md, and the rules that rest on them."""

import choices as tool
import pytest

from peft_regress.catalogue.evidence import Evidence, Study, Trained
from peft_regress.choosing.candidates import Answer, Limits
from peft_regress.choosing.ranking import Candidate, Costs


def candidate(name, update, memory, ship):
    method, _, rank = name.partition("-r")
    costs = Costs(update=update, memory=memory, ship=ship, storage=0)
    return Candidate(method=method, rank=int(rank) if rank else None, costs=costs)


@pytest.fixture
def made(monkeypatch):
    """A network with three methods, of which the best takes the most."""
    every = [
        candidate("full", 100, 100, 100), candidate("lora-r4", 70, 90, 5),
        candidate("head", 20, 15, 1),
    ]  # fmt: skip
    priced = Answer(subject=None, limits=Limits(), candidates=every, refused={}, untried=[])
    accuracies = {"full": (0.90, 0.91, 0.92), "lora-r4": (0.85, 0.86, 0.87), "head": (0.6,) * 3}
    study = Study(
        images="x", batch=1, steps=10, chance=0.1, untrained=0.1, curve={5: 0.9, 10: 0.9},
        methods={name: Trained(rate=1, early=of, final=of) for name, of in accuracies.items()},
    )  # fmt: skip
    monkeypatch.setattr(tool, "priced", lambda *_: priced)
    evidence = Evidence(packages={}, studies={"unseen": {"net": study}})
    monkeypatch.setattr(tool, "read_evidence", lambda: evidence)


@pytest.mark.usefixtures("made")
def test_each_cell_is_the_answer_under_its_limit():
    _, _, row = tool.choices("unseen").splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Half of the memory leaves the head, as does a fifth; 3/4 of the FLOPs and a tenth, LoRA.
    assert cells == ["net", "full", *["head (-31.0)"] * 2, *["lora-r4 (-5.0)"] * 2]


@pytest.mark.nightly
@pytest.mark.parametrize("name", tool.TABLES)
def test_each_table_is_on_the_page_as_it_is_made_now(name, monkeypatch):
    """Of the smallest network alone, which stands for the others."""
    monkeypatch.setattr(tool, "networks", lambda _: ["shufflenet_v2_x0_5"])
    page = tool.PAGE.read_text()
    start, end = f"<!-- choices:{name} -->", f"<!-- /choices:{name} -->"
    (shown,) = page.split(start)[1:]
    rows = shown.split(end)[0]
    for line in tool.TABLES[name]().splitlines():
        assert line in rows
