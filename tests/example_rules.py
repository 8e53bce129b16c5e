"""How the test of the examples runs each command of the documents."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["RULES", "Rule", "constant", "find_rule"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a command whose whole text matches `pattern` runs."""

    pattern: str
    how: str = "shell"
    """`here`: in this process. `replayed`: in this process, with the recorded releases of peft.
    `shell`: by bash, which is slow. `live`: by bash, with releases from the package index."""
    instead: str | None = None
    """The command that runs if this one would take too long or change this machine."""
    by: tuple[str, ...] = ()
    """What runs the command elsewhere: a file, and words that it must contain."""
    codes: frozenset[int] = frozenset({0})
    """The right exit codes."""
    some: bool = False
    """Whether the page shows a choice of the printed lines, in their order."""

    @property
    def is_slow(self):
        """Whether the command starts a process."""
        return self.how in {"shell", "live"}


def by(pattern, file, *words):
    return Rule(pattern=pattern, how="by", by=(file, *words))


TOX = r"(?:python -m )?tox run -e"
ONE_CASE = " --cases shift/lora-r4/shufflenet_v2_x0_5"
EITHER = frozenset({0, 1})
RULES = (
    by(
        r"git (?:merge|worktree|restore) .*|git commit --no-edit|git diff --word-diff .*"
        r"|peft-regress accept \.\./theirs/.*",
        "tests/baselines/test_current.py",
        "run(commands_of_the_docs())",
    ),
    by(
        r"python -m pip install '\.\[executorch\]'",
        "tox.ini",
        "[testenv:edge]",
        "extras = executorch",
    ),
    by(
        r"peft-regress cost .* --runtime executorch",
        "tests/cli/test_cost_runtime.py",
        '"--runtime", "executorch"',
    ),
    # The tutorial and the reference of own cases have tests of their own.
    by(
        r"pytest gates( .*)?|peft-regress init|sed -i .*"
        r"|peft-regress accept runs/(first|own|wider)\.json .*"
        r"|python -m pip install .peft-regress @ .*",
        "tests/docs/test_own_model.py",
        "whole_page_runs",
    ),
    # The search takes minutes; tests run it on workers in memory.
    by(r"peft-fuzz (search|replay)( .*)?", "fuzz/tests/test_fuzz_command.py", 'main(["search"'),
    by(
        r"peft-fuzz accept runs/fuzz.*",
        "fuzz/tests/test_fuzz_findings.py",
        '["accept", str(path), "--reason", "known"',
    ),
    by(r"python -m pip install \./fuzz", "tox.ini", "pip install --quiet {toxinidir}/fuzz"),
    Rule(pattern=r"peft-regress compare 0004 0007 --only .*", how="here"),
    Rule(pattern=r"peft-regress compare 0004 0007.*", how="here", codes=frozenset({1})),
    Rule(pattern=r"peft-regress compare baselines shards .* > verdict/comment\.md"),
    Rule(
        pattern=r"peft-regress compare baselines runs/bench\.json .* > findings\.json", codes=EITHER
    ),
    by(
        r"peft-regress (?:measure|upgrade|bisect) .*--on tcp.*|dask (?:scheduler|worker .*)"
        r"|export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",
        "tests/dask_clusters.py",
        '"scheduler", "--port"',
        '"worker", "--scheduler-file"',
    ),
    by(
        r"python -m pip install '\.\[cluster\]'",
        "tests/cli/test_cluster.py",
        "pip install 'peft-regress[cluster]'",
    ),
    by(
        r"peft-regress measure .*|peft-regress compare baselines runs/new\.json",
        "tests/cli/test_measure.py",
        '"measure", "--cases"',
        '"compare", base',
    ),
    by(r"peft-regress report --html .*", "tests/report/test_overview.py", '"--html"'),
    Rule(
        pattern=r"peft-regress (list|compare|export|explain|history|accept|report) .*", how="here"
    ),
    Rule(pattern=r"peft-regress history", how="here"),
    # The paper's tool renews what its page shows of each.
    by(
        r"python -m pip install '\.\[executorch\]'",
        "tests/cli/test_cost_runtime.py",
        "pip install 'peft-regress[executorch]'",
    ),
    by(
        r"peft-regress cost .*--runtime executorch",
        "tests/cli/test_cost_runtime.py",
        "command(*HEAD, *RUNTIME",
    ),
    by(r"peft-regress cost .*--loss sum .*", "tests/tools/test_paper_tool.py", '"commands"'),
    Rule(pattern=r"peft-regress cost --architecture (?:resnet50|swin_t|vit_b_16) .*"),
    Rule(pattern=r"peft-regress cost .*", how="here"),
    Rule(pattern=r"peft-regress sources --check", how="here"),
    # Releases: one live search, one live upgrade. The others replay.
    Rule(
        pattern=r"peft-regress bisect peft --good 0\.10\.0 .*/dora-r4/shufflenet_v2_x0_5",
        how="live",
    ),
    Rule(
        pattern=r"peft-regress upgrade peft==0\.14\.0 --cases .*", how="live", codes=frozenset({1})
    ),
    Rule(pattern=r"peft-regress bisect peft .*", how="replayed"),
    Rule(
        pattern=r"peft-regress upgrade (?:--yes .*)?"
        r"(peft(==0\.\d+\.0)?( transformers==\S+)?)",
        how="replayed",
        instead=rf"peft-regress upgrade \1{ONE_CASE}",
        # The entry that is replayed may be of a version that measured less.
        codes=EITHER | {3},
    ),
    by(
        r"peft-regress upgrade 'peft @ git\+https://github\.com/huggingface/peft@main'",
        "tests/upgrades/test_requirements.py",
        "peft @ git+https://localhost/peft@main",
    ),
    by(
        r"peft-regress upgrade \.\./peft",
        "tests/upgrades/test_overlay.py",
        'write_checkout(tmp_path / "check out", "candy", "9.0")',
    ),
    by(
        r"peft-fuzz checklist .*",
        "fuzz/tests/checklist/test_live_checklist.py",
        '"checklist", "ln_tuning"',
        '"--base"',
    ),
    by(
        r"peft-regress compat .*",
        "tests/cli/test_compat.py",
        '"compat", "lokr"',
        '"compat", "lora", "--check"',
        '"--certificate", "lora"',
    ),
    by(r"peft-regress time old/bin/python new/bin/python .*", "tests/cli/test_time.py", '"time"'),
    # CI runs the environments of tox. A narrowed one only collects its tests here.
    by(r"python -m pip install tox|pre-commit .*", ".ci/run", "pip install --quiet tox"),
    by(r"rm -f runs/\w+\.json", ".ci/run", "rm -f runs/bench.json"),
    by(rf"{TOX} bench(?: -- -n 2)?", "tox.ini", "[testenv:bench]", "-n 2"),
    by(rf"{TOX} (?:[a-z]+,)*(?:py|slow|nightly|selfbench|faults|coverage)", "tox.ini", "[testenv"),
    by(rf"{TOX} bench-edge(?: -- -n 2)?", "tox.ini", "[testenv:bench-edge]", "matrix=edge"),
    by(rf"{TOX} bench-extended", ".github/workflows/bench.yml", "tox run -e bench-extended"),
    Rule(pattern=rf"{TOX} bench -- (.+)", instead=r"pytest benchmarks --collect-only -q \1"),
    Rule(
        pattern=rf"{TOX} bench-peft014 -- (.*)",
        how="replayed",
        instead=r"peft-regress upgrade peft==0.14.0 \1",
        codes=frozenset({1}),
        some=True,
    ),
    Rule(pattern=rf"{TOX} faults -- --list", instead="python tools/faults/faults.py --list"),
    by(rf"{TOX} faults -- --only 'dora-\*'", "tests/tools/test_faults.py", '["--only", "dora-*"]'),
    by(rf"{TOX} faults -- --full", "tests/tools/test_faults.py", '"--full"'),
    by(rf"{TOX} faults -- --write", "tests/tools/test_faults.py", 'main(["--write"])'),
    # Tools.
    Rule(
        pattern=r"python (tools/studies/variants\.py)((?: \w+)*)",
        instead=r"python \1 --list\2",
    ),
    Rule(pattern=r"python tools/studies/variation\.py .*"),
    by(
        r"python fuzz/tools/upstream_rows\.py .*|pip download --no-deps .*",
        "fuzz/tests/tools/test_upstream_rows.py",
        "main([str(checkout)",
        'main(["--write", *source])',
    ),
    by(
        r"python fuzz/tools/rediscovery\.py(?: --list| --write)?",
        "fuzz/tests/tools/test_rediscovery.py",
        'main(["--list"])',
        'main(["--write", *',
    ),
    by(
        r"python fuzz/tools/control\.py(?: --write)?",
        "fuzz/tests/tools/test_fuzz_control.py",
        "control.main",
        "--write",
    ),
    by(
        r"python fuzz/tools/power\.py(?: --only 'dora-\*'| --write)?",
        "fuzz/tests/tools/test_fuzz_power.py",
        '["--only", "dora-*"',
        'main(["--write", *',
    ),
    Rule(pattern=r"python tools/ci/constraints\.py .*"),
    Rule(pattern=r"python tools/ci/(?:prepare\.py .*|publish\.py .* --dry-run)"),
    Rule(pattern=r"python tools/ci/badge\.py .*"),
    by(
        r"python tools/ci/release_check\.py .*",
        "tests/tools/test_release_check.py",
        "release_check.main",
    ),
    by(
        r"python tools/docs/edge_page\.py --(?:only savings|plot savings\.png)",
        "tests/tools/test_edge_page.py",
        "tool.savings(",
        "tool.draw(",
    ),
    by(
        r"python tools/docs/paper\.py --check",
        "tests/tools/test_paper_tool.py",
        'main(["--check"])',
    ),
    by(
        r"python tools/docs/pictures\.py --check",
        "tests/tools/test_pictures.py",
        'main(["--check", "--only", name])',
        'main(["--check", "--only", *MEASURED])',
    ),
    by(
        r"(?:python -m )?pytest (?:benchmarks/test_paper\.py|tests/\S+|\S+::\S+)(?: .*)?",
        "tests/docs/test_examples.py",
        "--write-examples",
    ),
    by(r"python -m pip install \.", "tests/tools/test_wheel.py", '"install"'),
    by(
        r"python -m pip install --constraint constraints\.txt \.",
        "tests/tools/test_workflows.py",
        "constraints.txt",
    ),
    # The shell's own, and other programs.
    Rule(pattern=r"export PIP_EXTRA_INDEX_URL=https://\S+"),
    Rule(pattern=r"git add baselines", instead="git init -q && git add baselines"),
    by(r"git (?:tag|push) .*", ".github/workflows/release.yml", "tags:"),
    Rule(pattern=r"git commit", instead="git commit --quiet --message 'Accept a baseline'"),
    Rule(pattern=r"echo \$\? > results/exit-code; (.*)", instead=r"(exit 1); \g<0>"),
    Rule(pattern=r"pytest-benchmark .*"),
    by(
        r"pytest benchmarks --benchmark-compare",
        "tests/runs/test_pytest_benchmark_compare.py",
        'project.run("--benchmark-compare")',
    ),
    by(r"gh pr comment .*", ".github/actions/gate/action.yml", "findings.md", "moved="),
    by(r"gh run download .* --name verdict .*", ".github/workflows/bench.yml", "name: verdict"),
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
