"""How each command of the documents is executed; `test_examples.py` does it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from examples import Command

__all__ = ["RULES", "Rule", "constant", "find_rule"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How a command whose whole text fits `pattern` is executed.

    `here`: by the command line in this process. `shell`: by bash. `slow`: by bash in the slow test.
    `instead` is what is run, with the groups of the pattern, where the command itself would take
    too long or change this machine. `by` names what executes it as it stands: a file, and words
    that must stand there. `codes` are the exit codes that are right. With `some` the page shows
    some lines of what is printed, in their order.
    """

    pattern: str
    how: str = "shell"
    instead: str | None = None
    by: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset({0})
    some: bool = False


def by(pattern: str, file: str, *words: str) -> Rule:
    return Rule(pattern=pattern, how="by", by=(file, *words))


def between(good: str, bad: str, what: str) -> Rule:
    return Rule(
        pattern=rf"(peft-regress bisect peft) --good \S+ --bad \S+ (--case shift/{what})",
        how="slow",
        instead=rf"\1 --good {good} --bad {bad} \2",
        some=True,
    )


PYTHON_TOX = r"(?:python -m )?tox run -e"
PAPER = r"peft-regress cost .*--loss sum .*"
RULES = (
    Rule(pattern=r"peft-regress compare 0004 0007.*", how="here", codes=frozenset({1})),
    Rule(pattern=r"peft-regress compare baselines shards .* > verdict/comment\.md"),
    Rule(
        pattern=r"peft-regress (list|compare|export|explain|history|accept|report) .*", how="here"
    ),
    Rule(pattern=PAPER, how="here", some=True),
    Rule(pattern=r"peft-regress cost .*", how="here"),
    Rule(pattern=r"peft-regress sources --check", how="here"),
    # What takes minutes or the package index. Of bisections README's runs over all releases; the
    # others between the two that they find.
    Rule(
        pattern=r"(peft-regress bisect peft) --good \S+ (.* --all)",
        how="slow",
        instead=r"\1 --good 0.21.0 \2",
        codes=frozenset({3}),
        some=True,
    ),
    between("0.11.1", "0.12.0", "lora-bf16-r4/.* adapter_bytes"),
    between("0.13.2", "0.14.0", "lokr-r4/.* filled_losses"),
    between("0.14.0", "0.15.0", "dora-r4/resnet18"),
    between("0.15.2", "0.16.0", "dora-r4/.* channels_last_kept"),
    between("0.19.1", "0.20.0", "(?:loha|adalora)-r4/.* status"),
    Rule(pattern=r"peft-regress bisect peft .*", how="slow", some=True),
    Rule(
        pattern=r"peft-regress upgrade peft==0\.14\.0 --cases .*",
        how="slow",
        codes=frozenset({1}),
        some=True,
    ),
    Rule(
        pattern=r"(peft-regress upgrade (?:--yes .*)?peft==0\.\d+\.0)( transformers==5\.20\.0)?",
        how="slow",
        instead=r"\1\2 --cases shift/lora-r4/shufflenet_v2_x0_5",
        codes=frozenset({0, 1}),
    ),
    Rule(
        pattern=r"peft-regress upgrade peft",
        how="slow",
        instead=r"peft-regress upgrade peft --cases shift/lora-r4/shufflenet_v2_x0_5",
        codes=frozenset({0, 1}),
    ),
    by(
        r"peft-regress upgrade 'peft @ git\+https://github\.com/huggingface/peft@main'",
        "tests/environments/test_requirements.py",
        "peft @ git+https://localhost/peft@main",
    ),
    by(
        r"peft-regress upgrade \.\./peft",
        "tests/environments/test_overlay.py",
        'write_checkout(tmp_path / "check out", "candy", "9.0")',
    ),
    Rule(
        pattern=r"peft-regress time old/bin/python new/bin/python --cases .*",
        how="slow",
        instead="peft-regress time old/bin/python new/bin/python --pairs 6 "
        "--cases shift/head/shufflenet_v2_x0_5",
        codes=frozenset({0, 1, 3}),
    ),
    # tox: `.ci/run` runs the environments, and what is narrowed is collected here.
    by(r"python -m pip install tox", ".ci/run", "python -m pip install --quiet tox"),
    by(rf"{PYTHON_TOX} bench", ".ci/run", "\nrun bench -- "),
    by(rf"{PYTHON_TOX} bench -- -n 2", ".ci/run", "\nrun bench -- -n 2 "),
    by(rf"{PYTHON_TOX} py", ".ci/run", "\nrun py -- "),
    by(rf"{PYTHON_TOX} lint,types,py", ".ci/run", "\nrun lint\nrun types\n", "\nrun py -- "),
    by(rf"{PYTHON_TOX} faults", ".github/workflows/ci.yml", "slow, faults]"),
    by(rf"{PYTHON_TOX} bench-extended", ".github/workflows/bench.yml", "tox run -e bench-extended"),
    Rule(pattern=rf"{PYTHON_TOX} bench -- (.+)", instead=r"pytest benchmarks --collect-only -q \1"),
    Rule(
        pattern=rf"{PYTHON_TOX} bench-peft014 -- (.*)",
        how="slow",
        instead=r"peft-regress upgrade peft==0.14.0 \1",
        codes=frozenset({1}),
        some=True,
    ),
    Rule(
        pattern=rf"{PYTHON_TOX} bench-peft014",
        how="slow",
        instead="peft-regress upgrade peft==0.14.0 --cases shift/dora-r4/shufflenet_v2_x0_5",
        codes=frozenset({1}),
    ),
    Rule(pattern=rf"{PYTHON_TOX} faults -- --list", instead="python tools/faults/faults.py --list"),
    by(
        rf"{PYTHON_TOX} faults -- --only 'dora-\*'",
        "tests/tools/test_faults.py",
        '["--only", "dora-*"]',
    ),
    by(rf"{PYTHON_TOX} faults -- --write", "tests/tools/test_faults.py", 'main(["--write"])'),
    # Tools.
    Rule(
        pattern=r"python tools/variants\.py(( \w+)*)",
        instead=r"python tools/studies/variants.py --list\1",
    ),
    Rule(pattern=r"python tools/variation\.py .*"),
    Rule(pattern=r"python tools/constraints\.py .*"),
    Rule(pattern=r"python tools/publish\.py .* --dry-run"),
    by(r"python tools/paper\.py --check", "tests/tools/test_paper_tool.py", 'main(["--check"])'),
    by(
        r"python tools/pictures\.py --check",
        "tests/tools/test_pictures.py",
        'main(["--check", "--only", name])',
        'main(["--check", "--only", *MEASURED])',
    ),
    by(r"pytest benchmarks/test_paper\.py", ".ci/run", "\nrun bench -- "),
    by(
        r"python -m pip install --constraint constraints\.txt \.",
        "action.yml",
        'pip install --constraint "$RUNNER_TEMP/constraints.txt"',
    ),
    # The shell's own, and other programs.
    Rule(pattern=r"export PIP_EXTRA_INDEX_URL=https://\S+"),
    Rule(pattern=r"git add baselines", instead="git init -q && git add baselines"),
    Rule(pattern=r"git commit", instead="git commit --quiet --message 'Accept a baseline'"),
    Rule(pattern=r"echo \$\? > results/exit-code; (.*)", instead=r"(exit 1); \g<0>"),
    Rule(pattern=r"pytest-benchmark .*"),
    by(r"gh run download .* --name verdict .*", ".github/workflows/bench.yml", "name: verdict"),
)


def find_rule(command: Command) -> Rule | None:
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, command.typed)), None)


VARIES = r"compared with:|environment:|which package:"
"""How lines begin that depend on what else is installed."""

NARROWED = r"tried \d+ of \d+ releases|no boundary between peft"
"""And one that depends on how much is tried."""


def constant(lines: list[str], *, narrowed: bool = False) -> list[str]:
    """Leave out the lines that vary, and what is indented below them."""
    varies = re.compile(rf" *({VARIES}|{NARROWED})" if narrowed else rf" *({VARIES})")
    kept, depth = [], None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if depth is not None and indent > depth and line.strip():
            continue
        depth = indent if varies.match(line) else None
        if depth is None:
            kept.append(line)
    return kept
