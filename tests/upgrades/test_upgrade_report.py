"""The reports of an upgrade and a bisection: short lines, an issue that no string breaks."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from builders import ENVIRONMENT, LEDGER, VALUES, compare, make_record, make_run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from package_world import SETUP
from packaging.version import Version

from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.report import as_markdown, as_text
from peft_regress.report.document import case_set
from peft_regress.report.layout import Layout
from peft_regress.report.markdown import code_span, fenced
from peft_regress.report.upgrades import advice_on, bisection_document, upgrade_document
from peft_regress.runs.schema import Failure
from peft_regress.upgrades.bisect import Bisection, BisectSettings, Transition
from peft_regress.upgrades.reproduction import Reproduction
from peft_regress.upgrades.responsible import ResponsiblePackages
from peft_regress.upgrades.upgrade import Upgrade

HOSTILE = "a|b `c` ``` <img src=x> \x1b[31m\r\n# title\n```\n@x [l](http://e) & *b* ~~~ \\"
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def made(old, new, *, changed=None, **fields):
    """Return what came of an upgrade that measured these records."""
    environment = {**ENVIRONMENT, "peft": "0.20.0"} if changed is None else changed
    candidate = make_run(*new, environment=environment)
    moved = {
        name: (ENVIRONMENT.get(name), environment.get(name))
        for name in sorted(ENVIRONMENT.keys() | environment.keys())
        if ENVIRONMENT.get(name) != environment.get(name)
    }
    usual = {
        "requirements": ("peft==0.20.0",),
        "compared_with": "0001_peft-0.18.1",
        "comparison": compare(old, candidate),
        "changed": moved,
        "installed": (),
        "responsible": (),
        "edited": "",
        "remarks": (),
        "saved": None,
    }
    return Upgrade(**{**usual, **fields})


def bisection(upgrade, *, why):
    """Return a bisection that found what an upgrade did, and skipped a release."""
    old, skipped, new = map(Version, ("0.18.1", "0.19.0", "0.20.0"))
    found = {"comparison": upgrade.comparison, "changed": upgrade.changed, "responsible": ()}
    return Bisection(
        settings=BisectSettings(package="peft", good=str(old), bad=str(new), setup=SETUP),
        versions=(old, new),
        transitions=(Transition(old=old, new=new, between=(skipped,), **found),),
        skipped={skipped: why},
        tried=(old, new),
        cases=tuple(sorted(upgrade.comparison.observed)),
        trained=True,
    )


def scripts(upgrade, text):
    return tuple(
        Reproduction(finding=one, script=f"# {text}\nprint(1)", outputs={text: text})
        for one in upgrade.comparison.findings
    )


def hostile(text):
    """Return an upgrade in which each string that others choose is hostile."""
    name = text.replace("/", " ").replace("\0", " ") or "x"
    ids = [f"{name}/lora-r4/{name}", f"{name}/dora-r4/other", f"shift/head/{name}"]
    new = [
        make_record(ids[0], status="error", error=Failure(type=text, message=text)),
        make_record(ids[1], {**VALUES, "backward_flops": 10**10, "accuracy": [0.1] * 3}),
        make_record(ids[2], invariants={text: False}),
    ]
    old = [make_record(ids[0]), make_record(ids[1]), make_record(ids[2], invariants={text: True})]
    upgrade = made(
        old,
        new,
        changed={**ENVIRONMENT, "peft": text, text: text},
        requirements=(text,),
        compared_with=text,
        remarks=(text,),
        saved=Path(text.replace("\0", "") or "x"),
    )
    packages = ResponsiblePackages(alone=(), without_effect=(text,), untried=((text, text),))
    return replace(upgrade, responsible=(packages,) * len(upgrade.suspected))


def check_issue(document, *, headings, blocks):
    """Hold that a document has the parts that were meant, and nothing that was smuggled in."""
    tokens = MARKDOWN.parse(document)
    tokens += [inner for token in tokens for inner in token.children or ()]
    kinds = [token.type for token in tokens]
    assert not {"html_block", "html_inline", "link_open", "image", "code_block"} & set(kinds)
    assert not {"em_open", "strong_open", "s_open", "hr"} & set(kinds)
    assert kinds.count("heading_open") == headings
    fences = [token for token in tokens if token.type == "fence"]
    assert len(fences) == blocks
    assert {token.info for token in fences} <= {"text", "python"}


@settings(deadline=None, derandomize=True, max_examples=150)
@example(HOSTILE)
@given(st.text(st.sampled_from("`~#|<>*_[]()!&\\ \n\r\t-+=1.:/@ab"), max_size=12))
def test_no_string_breaks_out_of_an_issue_or_commands_a_terminal(text):
    upgrade = hostile(text)
    search = bisection(upgrade, why=text)
    strands = [finding.cause.strand for finding in upgrade.comparison.findings]
    found, shown = len(strands), scripts(upgrade, text)
    blocks = 2 * found
    blocks += sum(one not in {"invariant", "status", "coverage"} for one in strands)
    issue = as_markdown(upgrade_document(upgrade, shown))
    check_issue(issue, headings=1 + found + 1, blocks=blocks)
    issue = as_markdown(bisection_document(search, {0: shown}))
    check_issue(issue, headings=1 + found, blocks=blocks)
    for document in (upgrade_document(upgrade), bisection_document(search)):
        assert as_text(document).replace("\n", "").isprintable()


@given(st.text(st.sampled_from("`~ a\n")))
def test_a_code_block_ends_where_it_is_meant_to(text):
    (token,) = MARKDOWN.parse(fenced(text, "text"))
    assert (token.type, token.content) == ("fence", f"{text}\n")


@given(st.text(st.sampled_from("` a"), min_size=1).filter(str.strip))
def test_a_code_span_is_its_text(text):
    text = text.strip()
    inner = MARKDOWN.parse(f"- {code_span(text)}")[3].children
    assert [(token.type, token.content) for token in inner] == [("code_inline", text)]


def whole_matrix():
    """Return an upgrade in which everything moves in every case of the default matrix."""
    moved = {
        **{name: 3 * value for name, value in VALUES.items() if isinstance(value, int)},
        "first_losses": [[3.0, 2.2, 2.1, 2.0]] * 3,
        "accuracy": [0.2, 0.3, 0.2],
    }
    names = [case.id for case in matrix_cases("default")]
    old = [make_record(name, invariants={"frozen_unchanged": True}) for name in names]
    failure = Failure(type="RuntimeError", message="the size of tensor a must match " * 20)
    new = [
        make_record(name, status="error", error=failure)
        if "mobilenet" in name
        else make_record(name, moved, invariants={"frozen_unchanged": False}, ledger=LEDGER)
        for name in names
    ]
    return made(old, new, remarks=("transformers<5 was added: peft imports HybridCache " * 3,))


@pytest.mark.parametrize("width", [60, 200])
def test_no_line_is_longer_than_the_terminal_is_wide(width):
    upgrade = whole_matrix()
    search = bisection_document(bisection(upgrade, why="no wheel"))
    for document in (upgrade_document(upgrade), search):
        assert max(map(len, as_text(document, Layout(width=width)).splitlines())) <= width


def test_each_finding_has_a_number_its_cases_and_its_numbers():
    text = as_text(upgrade_document(whole_matrix()))
    numbers = [int(one) for one in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert text.count("  cases: ") == len(numbers)
    assert "newly failing in" in text
    assert "(frozen_unchanged: true -> false)" in text
    assert "  for example shift/" in text
    # A state and an invariant say everything in their title.
    assert text.count("for example") == len(numbers) - 2


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        (["a/b/c"], "a/b/c"),
        (["a/b/c", "a/b/d"], "a/b/{c,d}"),
        ([f"{t}/{m}/c" for t in "xy" for m in "mn"], "{x,y}/{m,n}/c"),
        (["x/m/c", "y/n/c"], "x/m/c y/n/c"),
    ],
)
def test_ids_that_form_a_product_are_written_briefly(ids, shown):
    assert case_set(ids) == case_set(list(reversed(ids))) == shown


def commands(upgrade):
    return [part for parts in advice_on(upgrade) for part in parts[1::2]]


def bisections(upgrade):
    return [line for line in commands(upgrade) if line.startswith("peft-regress bisect")]


WORSE = {**VALUES, "backward_flops": 10**10}


@pytest.mark.parametrize(
    ("new", "metric"),
    [
        (make_record(metrics=WORSE), "backward_flops"),
        (make_record(metrics={**VALUES, "peak_bytes_b32": 10**11}), "peak_bytes_b32"),
        (make_record(status="error"), "status"),
        (make_record(invariants={"frozen_unchanged": False}), "frozen_unchanged"),
        (make_record(metrics={**VALUES, "accuracy": [0.1] * 3}), "accuracy"),
        (make_record(metrics={**VALUES, "first_losses": [[9, 9, 9, 9]] * 3}), "first_losses"),
    ],
)
def test_a_bisection_asks_for_what_was_found(new, metric):
    (command,) = bisections(made([make_record()], [new]))
    assert command == (
        "peft-regress bisect peft --good 0.18.1 --bad 0.20.0 --case shift/lora-r4/resnet18 "
        f"--metric {metric}"
    )


@pytest.mark.parametrize(
    ("changed", "alone", "named"),
    [
        ({"filelock": "4.3.2"}, (), "filelock"),
        ({"filelock": "4.3.2", "peft": "0.20.0"}, (), "peft"),
        ({"filelock": "4.3.2", "accelerate": "1.16.0"}, (), "accelerate"),
        ({"filelock": "4.3.2", "peft": "0.20.0"}, ("filelock",), "filelock"),
        ({"python": "3.12.1"}, (), None),
    ],
)
def test_the_advice_names_the_responsible_package_else_a_likely_one(changed, alone, named):
    before = {**ENVIRONMENT, "filelock": "4.3.1", "accelerate": "1.15.0", "python": "3.11.7"}
    found = ResponsiblePackages(alone=alone, without_effect=(), untried=())
    upgrade = made([make_record()], [make_record(metrics=WORSE)])
    moved = {name: (before[name], version) for name, version in changed.items()}
    upgrade = replace(upgrade, changed=moved, responsible=(found,) if alone else ())
    text = " ".join(commands(upgrade)) + " ".join(parts[0] for parts in advice_on(upgrade))
    for name, version in before.items():
        is_named = name == named
        assert (f"stay with {name}=={version} until" in text) == is_named
        assert (f"bisect {name} --good {version} " in text) == is_named


@pytest.mark.parametrize("version", ["0.20.1.dev0", "0.20.0+mine", "<script>"])
def test_a_checkout_is_no_release_to_bisect(version):
    upgrade = made(
        [make_record()], [make_record(metrics=WORSE)], changed={**ENVIRONMENT, "peft": version}
    )
    assert bisections(upgrade) == []
