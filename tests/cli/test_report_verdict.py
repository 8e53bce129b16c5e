"""`peft-regress report` judges the newest entry or run as `compare` does."""

import json

import msgspec
import pytest
from builders import FULL, LORA, UNSEEN_LORA, VALUES, make_record, make_run

from peft_regress.project.budgets import Budget
from peft_regress.runs.schema import Selection

BOTH = [make_record(LORA), make_record(FULL)]
SLOWER = make_record(LORA, {**VALUES, "forward_flops": 2 * VALUES["forward_flops"]})
LORAS = [make_record(LORA), make_record(UNSEEN_LORA)]
NARROWED = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[FULL])
PART = make_run(make_record(LORA), selection=NARROWED)
EMPTY = msgspec.structs.replace(make_run(), cases={})


@pytest.fixture
def verdict(project):
    """Call `report --format json`; return the verdict and the verdicts by case."""

    def call(*words):
        code, out, err = project.run("report", "--format", "json", *words)
        assert (code, err) == (0, "")
        data = json.loads(out)
        return data["verdict"], {case["id"]: case.get("verdict") for case in data["cases"]}

    return call


@pytest.mark.parametrize("cases", [(), ("--cases", "*/lora-*")], ids=["all", "some"])
@pytest.mark.parametrize(
    ("run", "codes"),
    [
        (BOTH, (0, 0)),
        ([SLOWER, BOTH[1]], (1, 1)),
        (BOTH[:1], (3, 0)),
        (PART, (3, 0)),
        ([make_record(LORA, budget=Budget(peak=1)), BOTH[1]], (1, 1)),
    ],
    ids=["unchanged", "worse", "missing", "narrowed", "over budget"],
)
def test_a_run_gets_the_verdict_of_compare(project, verdict, run, codes, cases):
    project.store(1, *BOTH)
    project.write({"run.json": run})
    found, _ = verdict("run.json", *cases)
    assert found["exit_code"] == codes[bool(cases)]
    code, out, _ = project.run("compare", "baselines", "run.json", "--stored-only", *cases)
    assert (code, out.splitlines()[-1]) == (found["exit_code"], found["outcome"])


def grown(size, **how):
    return [make_record(LORA, {**VALUES, "peak_bytes": size})], how


ENTRY = (BOTH, {})
OLD_AND_NEW = [ENTRY, ([SLOWER, BOTH[1]], {})]
SCENARIOS = {
    "a verdict on some cases counts the others": ([ENTRY], BOTH, "run.json --cases */lora-*"),
    "a run without a case is incomplete though the newest entry is good": (
        [ENTRY, ENTRY],
        EMPTY,
        "run.json",
    ),
    "so is a run without a case that was asked for": (
        [ENTRY, ENTRY],
        BOTH[:1],
        "run.json --cases */full/*",
    ),
    "a run without a baseline is incomplete": ([], BOTH[:1], "run.json"),
    "the first entry with its cases has no verdict": ([(BOTH[:1], {})], None, ""),
    "nor has the first one with others": ([(BOTH[:1], {}), (BOTH[1:], {})], None, ""),
    "a later one has, though some cases are new": (
        [(BOTH[:1], {}), (BOTH[1:], {}), (LORAS, {})],
        None,
        "",
    ),
    "a case may be retired after the newest entry that holds another": (
        [(LORAS, {}), (LORAS, {}), (BOTH[1:], {"retired": [LORA]})],
        None,
        "--cases */lora-*",
    ),
    "the newest entry is judged by what was accepted before it": (OLD_AND_NEW, None, ""),
    "the newest is the last that holds a case": (
        [*OLD_AND_NEW, (BOTH[1:], {})],
        None,
        f"--cases {LORA}",
    ),
    "what was accepted is no regression": (
        [*OLD_AND_NEW, (BOTH[1:], {}), OLD_AND_NEW[1]],
        None,
        "",
    ),
    "the newest entry is judged by drift, and a retired case is not missing": (
        [ENTRY, grown(120_000_000, retired=[FULL]), grown(120_108_000), grown(120_216_000)],
        None,
        "",
    ),
    "an entry of some cases leaves the others to older ones": (
        [ENTRY, (BOTH[:1], {"selection": NARROWED})],
        None,
        "",
    ),
}


@pytest.mark.parametrize(("entries", "run", "words"), SCENARIOS.values(), ids=SCENARIOS.keys())
def test_the_verdict_on(project, verdict, snapshot, *, entries, run, words):
    for number, (records, how) in enumerate(entries, start=1):
        project.store(number, *records, **how)
    if run is not None:
        project.write({"run.json": run})
    found, cases = verdict(*words.split())
    # What the verdict shows of each case has tests of its own.
    facts = ("new", "exit_code", "style", "outcome", "counts", "command")
    shown = {name: found[name] for name in facts} if found else None
    assert (shown, cases) == snapshot
