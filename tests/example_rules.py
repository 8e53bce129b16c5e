"""How the test of the examples runs each command of the documents."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a command whose whole text matches `pattern` runs."""

    pattern: str
    how: str = "shell"
    """`here`: in this process. `replayed`: in this process, with the recorded releases of peft.
    `shell`: by bash, which is slow. `live`: by bash, with releases from the package index.
    `elsewhere`: see `ELSEWHERE`."""
    instead: str | None = None
    """The command that runs if this one would take too long or change this machine."""
    codes: frozenset[int] = frozenset({0})
    """The right exit codes."""
    some: bool = False
    """Whether the page shows a choice of the printed lines, in their order."""

    @property
    def is_slow(self):
        """Whether the command starts a process."""
        return self.how in {"shell", "live"}


TOX = r"(?:python -m )?tox run -e"
ONE_CASE = " --cases shift/lora-r4/shufflenet_v2_x0_5"
EITHER = frozenset({0, 1})
ELSEWHERE = {
    "tests/baselines/test_current.py": (
        r"git (?:merge|worktree|restore) .*|git commit --no-edit|git diff --word-diff .*"
        r"|peft-regress accept \.\./theirs/.*"
    ),
    # The tutorial and the reference of own cases.
    "tests/docs/test_own_model.py": (
        r"pytest gates( .*)?|peft-regress init|sed -i .*|peft-regress watch .*"
        r"|peft-regress (accept runs/(first|own|wider)\.json|explain 0002 runs/wider\.json) .*"
        r"|python -m pip install .peft-regress @ .*"
    ),
    # The search takes minutes; tests run it on workers in memory.
    "fuzz/tests/test_fuzz_command.py": r"peft-fuzz (search|replay)( .*)?",
    "fuzz/tests/test_fuzz_findings.py": r"peft-fuzz accept runs/fuzz.*",
    "fuzz/tests/checklist/test_checklist_command.py": r"peft-fuzz checklist .*",
    "tests/dask_clusters.py": (
        r"peft-regress (?:measure|upgrade|bisect) .*--on tcp.*|dask (?:scheduler|worker .*)"
        r"|export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False"
    ),
    "tests/workers/test_cluster.py": r"python -m pip install '\.\[cluster\]'",
    "tests/cli/test_measure.py": (
        r"peft-regress measure .*|peft-regress compare baselines runs/new\.json"
    ),
    "tests/report/test_overview.py": r"peft-regress report --html .*",
    "tests/measure/test_edge_case.py": (r"python -m pip install '\.\[executorch\]'"),
    # The tool of the paper renews what its page shows of each.
    "tests/tools/test_paper_tool.py": (
        r"peft-regress cost .*--loss sum .*|python tools/docs/paper\.py --check"
    ),
    "tests/overlay/test_requirements.py": (
        r"peft-regress upgrade 'peft @ git\+https://github\.com/huggingface/peft@main'"
    ),
    "tests/overlay/test_overlay.py": r"peft-regress upgrade \.\./peft",
    "tests/overlay/test_commits.py": r"peft-regress upgrade \. --base merge-base .*",
    "tests/cli/test_compat.py": r"peft-regress compat .*",
    "tests/cli/test_time.py": r"peft-regress time old/bin/python new/bin/python .*",
    # CI runs the environments of tox.
    ".ci/run": r"python -m pip install tox|pre-commit .*|rm -f runs/\w+\.json",
    "tox.ini": (
        rf"{TOX} bench(?:-edge)?(?: -- -n 2)?|python -m pip install \./fuzz"
        rf"|{TOX} (?:[a-z]+,)*(?:py|slow|nightly|selfbench|faults|coverage)"
    ),
    ".github/workflows/bench.yml": rf"{TOX} bench-(?:extended|language)",
    ".github/workflows/release.yml": r"git (?:tag|push) .*",
    ".github/actions/gate/action.yml": r"gh pr comment .*",
    "tests/tools/test_written_files.py": r"python tools/docs/evidence_tables\.py --write",
    "tests/tools/test_choices.py": r"python tools/docs/choices\.py --check",
    "tests/tools/test_faults.py": rf"{TOX} faults -- (?:--only 'dora-\*'|--write)",
    "fuzz/tests/tools/test_fuzz_control.py": r"python fuzz/tools/control\.py",
    "fuzz/tests/tools/test_fuzz_power.py": r"python fuzz/tools/power\.py(?: --only 'dora-\*')?",
    "tests/tools/test_release_check.py": r"python tools/ci/release_check\.py .*",
    "tests/docs/test_examples.py": (
        r"(?:python -m )?pytest (?:benchmarks/test_paper\.py|tests/\S+|\S+::\S+)(?: .*)?"
    ),
    "tests/stranger/test_wheel.py": r"python -m pip install \.",
    "tests/plugin/test_benchmark_options.py": r"pytest benchmarks --benchmark-compare",
}
"""What runs a command elsewhere, or has it for people: the file, and the text of the commands."""
RULES = (
    *(Rule(pattern=pattern, how="elsewhere") for pattern in ELSEWHERE.values()),
    Rule(pattern=r"peft-regress compare 0004 0007.*", how="here", codes=frozenset({1})),
    Rule(pattern=r"peft-regress (list|compare|explain|history|accept|report) .*", how="here"),
    Rule(pattern=r"peft-regress history", how="here"),
    Rule(pattern=r"peft-regress cost --architecture (?:resnet50|swin_t) .*"),
    Rule(pattern=r"peft-regress cost .*", how="here"),
    Rule(pattern=r"peft-regress choose .*", how="here", codes=EITHER),
    Rule(pattern=r"peft-regress sources --check", how="here"),
    # Releases: two live searches, one live upgrade. The others replay.
    Rule(
        pattern=r"peft-regress bisect peft --good 0\.1[04]\.0 .*/dora-r4/.*(v2_x0_5|_flops)",
        how="live",
    ),
    Rule(
        pattern=r"peft-regress upgrade peft==0\.14\.0 --cases .*", how="live", codes=frozenset({1})
    ),
    Rule(pattern=r"peft-regress bisect peft .*", how="replayed"),
    Rule(
        pattern=r"peft-regress upgrade (?:--yes .*)?(peft(==0\.\d+\.0)?( transformers==\S+)?)",
        how="replayed",
        instead=rf"peft-regress upgrade \1{ONE_CASE}",
        # The entry that is replayed may be of a version that measured less.
        codes=EITHER | {3},
    ),
    # A narrowed environment of tox only collects its tests here.
    Rule(pattern=rf"{TOX} bench -- (.+)", instead=r"pytest benchmarks --collect-only -q \1"),
    # Tools.
    Rule(pattern=r"python (?:tools/studies/variation\.py|-m pip download) .*"),
    Rule(pattern=r"python (tools/studies/\w+\.py).*", instead=r"python \1 --help"),
    # The shell's own, and other programs.
    Rule(pattern=r"export PIP_EXTRA_INDEX_URL=https://\S+"),
    Rule(pattern=r"git add baselines", instead="git init -q && git add baselines"),
    Rule(pattern=r"git commit", instead="git commit --quiet --message 'Accept a baseline'"),
    Rule(pattern=r"pytest-benchmark .*"),
)


def find_rule(command):
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, command.typed)), None)


VARIES = r"compared with:|environment:|which package:"
"""How lines begin that depend on what else is installed."""


def constant(lines):
    """Leave out the lines that depend on what else is installed, and the lines below them."""
    varies = re.compile(rf" *({VARIES})")
    kept, depth = [], None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if depth is not None and indent > depth and line.strip():
            continue
        depth = indent if varies.match(line) else None
        if depth is None:
            kept.append(line)
    return kept
