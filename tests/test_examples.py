"""Every example of the documents is executed, or its rule says what executes it."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import yaml
from builders import make_case
from check_jsonschema.builtin_schemas import get_builtin_schema
from examples import PAGES, ROOT, Block, Command, blocks, differences
from jsonschema import validators

from peft_regress.cli import main
from peft_regress.run_files import read_run_file, write_run_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENTRIES = ROOT / "baselines" / "Linux-CPython-3.11-64bit"
FIRST = ENTRIES / "0001_peft-0.21.2.json"
TIMED = ENTRIES / "0002_peft-0.21.2.json"
NEWEST = ENTRIES / "0004_peft-0.21.2.json"
OLD_PEFT = ENTRIES / "0007_peft-0.14.0.json"
BLOCKS = list(blocks())


# --- The rules: how each command is executed ------------------------------------------------------


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


PYTHON_TOX = r"(?:python -m )?tox run -e"
PAPER = r"peft-regress cost .*--loss sum .*"
RULES = (
    Rule(
        pattern=r"peft-regress (list|compare|export|explain|history|accept|report) .*", how="here"
    ),
    Rule(pattern=PAPER, how="here", some=True),
    Rule(pattern=r"peft-regress cost .*", how="here"),
    Rule(pattern=r"peft-regress sources --check", how="here"),
    # What takes minutes or the package index.
    Rule(pattern=r"peft-regress (bisect peft .*--(case|all) .*)", how="slow", some=True),
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
        "tests/test_requirements.py",
        "peft @ git+https://localhost/peft@main",
    ),
    by(
        r"peft-regress upgrade \.\./peft",
        "tests/test_overlay.py",
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
    by(rf"{PYTHON_TOX} py", ".ci/run", "\nrun py\n"),
    by(rf"{PYTHON_TOX} lint,types,py", ".ci/run", "\nrun lint\nrun types\nrun py\n"),
    by(rf"{PYTHON_TOX} faults", ".ci/run", "\nrun faults\n"),
    by(rf"{PYTHON_TOX} bench-extended", ".github/workflows/ci.yml", "tox run -e bench-extended"),
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
    Rule(pattern=rf"{PYTHON_TOX} faults -- --list", instead="python tools/faults.py --list"),
    by(rf"{PYTHON_TOX} faults -- --only 'dora-\*'", "tests/test_faults.py", '["--only", "dora-*"]'),
    by(rf"{PYTHON_TOX} faults -- --write", "tests/test_faults.py", 'main(["--write"])'),
    # Tools.
    Rule(
        pattern=r"python tools/variants\.py(( \w+)*)", instead=r"python tools/variants.py --list\1"
    ),
    Rule(pattern=r"python tools/variation\.py .*"),
    Rule(pattern=r"python tools/constraints\.py .*"),
    Rule(pattern=r"python tools/publish\.py .* --dry-run"),
    by(r"python tools/paper\.py --check", "tests/test_paper_tool.py", 'main(["--check"])'),
    Rule(pattern=r"python tools/pictures\.py --check", how="slow"),
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
)

VARIES = re.compile(r"^ *(compared with|environment|which package): ")
"""Lines that depend on what else is installed, with the deeper lines below them."""


def find_rule(command: Command) -> Rule | None:
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, command.typed)), None)


def rule_of(command: Command) -> Rule:
    """Return the rule of a command; one that has none fails."""
    rule = find_rule(command)
    if rule is None:
        msg = f"nothing says how `{command}` is executed; if it cannot be as it is, add to RULES"
        pytest.fail(msg, pytrace=False)
    return rule


def is_slow(command: Command) -> bool:
    rule = find_rule(command)
    return rule is not None and rule.how == "slow"


# --- A copy of the repository to run them in ------------------------------------------------------


def prepare(folder: Path) -> Path:
    """Fill a folder with what the examples need, at the names that they use."""
    for name in ("benchmarks", "tests", "tools", "docs", "pyproject.toml", "action.yml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "baselines").mkdir()
    for source in (ROOT / "baselines").iterdir():
        if source.is_dir():
            shutil.copytree(source, folder / "baselines" / source.name)
    for name, source in {
        "runs/bench.json": TIMED,
        "runs/variants/avx2.json": NEWEST,
        "runs/variants/sse.json": NEWEST,
        "results/run.json": OLD_PEFT,
        "old.json": NEWEST,
        "new.json": NEWEST,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / name)
    (folder / "results" / "findings.md").write_text("# upgrade peft==0.14.0: REGRESSED\n")
    programs = {
        "python": "", "pytest": "-m pytest", "peft-regress": "-m peft_regress",
        "pytest-benchmark": "-m pytest_benchmark",
    }  # fmt: skip
    for name, module in programs.items():
        write_program(folder / "bin" / name, f'exec {sys.executable} {module} "$@"')
    for side in ("old", "new"):
        write_program(folder / side / "bin" / "python", f'exec {sys.executable} "$@"')
    return folder


def write_program(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a shell: the programs in front, no worker of pytest-xdist."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    identity = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org"}
    identity |= {k.replace("AUTHOR", "COMMITTER"): v for k, v in identity.items()}
    return (
        outside
        | identity
        | {
            "PATH": os.pathsep.join((str(folder / "bin"), os.environ["PATH"])),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PEFT_REGRESS_CACHE": str(folder / "cache"),
        }
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """The copy for examples that leave the baselines as they are."""
    return prepare(tmp_path_factory.mktemp("examples"))


@pytest.fixture
def sandbox(request, tmp_path, shared) -> Path:
    """Return the shared copy, or one as the block's `SETUPS` wants it."""
    block = request.getfixturevalue("block")
    setup = setup_of(block)
    if setup is None and "accept" not in block.text:
        return shared
    folder = prepare(tmp_path)
    if setup is not None:
        setup(folder)
    return folder


def first_baseline(folder: Path) -> None:
    """No entry is there yet, and the run kept the adapters of one case."""
    for entry in (folder / "baselines").glob("*/0*.json"):
        entry.unlink()
    shutil.rmtree(folder / "baselines" / "adapters")


def without_resnet18(folder: Path) -> None:
    """The run no longer has the cases that the example retires."""
    file = read_run_file(folder / "runs" / "bench.json")
    for name in list(file.run.cases):
        if make_case(name).architecture == "resnet18":
            del file.run.cases[name]
    write_run_file(file.path, file.run, file.document)


SETUPS: dict[str, Callable[[Path], None]] = {
    "First baseline": first_baseline,
    "--retire": without_resnet18,
}
"""What changes the copy first, by words of the block."""


def setup_of(block: Block) -> Callable[[Path], None] | None:
    return next((setup for words, setup in SETUPS.items() if words in block.text), None)


# --- Console blocks -------------------------------------------------------------------------------


def of_language(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def console_blocks(*, slow: bool) -> list[Block]:
    """Return the blocks that have a command of the kind; one that no rule knows is not slow."""
    return [
        block
        for block in of_language("console")
        if any(is_slow(command) is slow for command in block.commands)
    ]


@functools.cache
def cost_output(typed: str) -> tuple[int, str]:
    """Many examples of the paper are the same command."""
    return command_line(typed)


def command_line(typed: str) -> tuple[int, str]:
    """Run `peft-regress ...` in this process; return exit code and standard output."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    with contextlib.redirect_stdout(stream), pytest.raises(SystemExit) as ended:
        main(shlex.split(typed)[1:])
    stream.flush()
    return int(ended.value.code or 0), stream.buffer.getvalue().decode()


def execute(command: Command, rule: Rule, folder: Path) -> None:
    """Run a command by its rule, and hold its exit code and what it printed against the page."""
    typed = command.typed
    if rule.instead is not None:
        typed = re.sub(rule.pattern, rule.instead, typed)
    if rule.how == "here":
        code, printed = (cost_output if typed.startswith("peft-regress cost") else command_line)(
            typed
        )
    else:
        done = subprocess.run(
            ["bash", "-c", typed],
            cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
        )  # fmt: skip
        code, printed = done.returncode, done.stdout
        assert "Traceback" not in done.stderr, f"{typed}\n{done.stderr}"
        assert code in rule.codes, f"{typed}\n{done.stderr}\n{printed}"
    assert code in rule.codes, f"{typed}\n{printed}"
    shown, lines = list(command.shown), printed.splitlines()
    if rule.how == "slow":
        shown, lines = constant(shown), constant(lines)
    if shown:
        wrong = differences(shown, lines, some=rule.some)
        assert wrong is None, f"`{command}`\n{wrong}"


def constant(lines: list[str]) -> list[str]:
    """Leave out the lines that vary, and what is indented below them."""
    kept, depth = [], None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if depth is not None and indent > depth and line.strip():
            continue
        depth = indent if VARIES.match(line) else None
        if depth is None:
            kept.append(line)
    return kept


@pytest.mark.parametrize("block", console_blocks(slow=False), ids=str)
def test_the_commands_of_a_console_block_run_and_print_what_it_shows(block, sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    for command in block.commands:
        rule = rule_of(command)
        if rule.how in {"here", "shell"}:
            execute(command, rule, sandbox)


@pytest.mark.slow
@pytest.mark.xdist_group("examples")
@pytest.mark.parametrize("block", console_blocks(slow=True), ids=str)
def test_the_commands_that_take_minutes_run_and_print_what_the_block_shows(block, sandbox):
    for command in block.commands:
        rule = rule_of(command)
        if rule.how == "slow":
            execute(command, rule, sandbox)


def test_what_executes_a_command_elsewhere_is_there():
    for block, command in itertools.chain.from_iterable(
        ((block, command) for command in block.commands) for block in of_language("console")
    ):
        rule = rule_of(command)
        if rule.how == "by":
            file, *words = rule.by
            text = (ROOT / file).read_text()
            for word in words:
                assert word in text, f"{block}: `{command}` is said to be executed by {file}"


def test_no_rule_is_without_a_command():
    """But for the commands that a page may show at any time."""
    typed = [command.typed for block in of_language("console") for command in block.commands]
    idle = [
        rule.pattern
        for rule in RULES
        if not any(re.fullmatch(rule.pattern, text) for text in typed)
    ]
    assert idle == []


@pytest.mark.parametrize("name", ["bench", "py", "lint", "types", "faults", "bench-extended"])
def test_an_environment_that_an_example_names_is_defined(name):
    assert f"[testenv:{name}]" in (ROOT / "tox.ini").read_text()


# --- Blocks of other languages --------------------------------------------------------------------


TEXTS = {
    r"case \(task, method": "a picture",
    r"requirements -> pip": "a picture",
    r"shift/dora-r4/resnet18: regressed": "tests/test_end_to_end.py",
    r"case +trained +ship": "test_the_table_of_a_clean_run_is_that_of_a_stored_run",
    r"shift/head/shufflenet\S+: slower": "tests/test_time_command.py",
}
"""What shows that a block of text is right, by its first line."""


def test_every_block_is_of_a_language_that_is_executed():
    for block in BLOCKS:
        assert block.language in {"console", "python", "yaml", "json", "text"}, str(block)
        if block.language == "text":
            assert any(re.match(start, block.text) for start in TEXTS), str(block)


@pytest.mark.parametrize("block", of_language("python"), ids=str)
def test_a_block_of_python_runs(block, sandbox):
    """A suite runs by pytest, narrowed to one case; anything else as a script."""
    script = sandbox / "example.py"
    script.write_text(block.text)
    command = [sys.executable, str(script)]
    if "def test_" in block.text:
        command[1:] = [
            "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable", str(script),
            "-k", "shift and head and shufflenet_v2_x0_5 and not bn_head",
        ]  # fmt: skip
    done = subprocess.run(
        command, cwd=sandbox, env=environment(sandbox), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", of_language("yaml"), ids=str)
def test_a_block_of_yaml_is_a_workflow_whose_uses_fit(block):
    document = whole_workflow(yaml.safe_load(block.text))
    schema = get_builtin_schema("vendor.github-workflows")
    validators.validator_for(schema)(schema).validate(document)
    for step in uses_of(document):
        name = step["uses"].rpartition("@")[0].removeprefix("OWNER/peft_regress").strip("/")
        if step["uses"].startswith("OWNER/peft_regress"):
            assert step.get("with", {}).keys() <= inputs_of(name), str(block)
    for run in (step["run"] for job in document["jobs"].values() for step in job.get("steps", ())
                if "run" in step):  # fmt: skip
        rule_of(Command(typed=run, shown=()))


def whole_workflow(document: dict | list) -> dict:
    """Put steps into a job, and jobs into a workflow, so that the schema can be asked."""
    if isinstance(document, list):
        document = {"jobs": {"job": {"runs-on": "ubuntu-24.04", "steps": document}}}
    # YAML 1.1 reads the key `on` as true.
    return {"on": document.pop(True, "push"), **document}


def uses_of(document: dict) -> Iterator[dict]:
    for job in document["jobs"].values():
        yield from (step for step in (job, *job.get("steps", ())) if "uses" in step)


def inputs_of(path: str) -> set[str]:
    """Return the inputs of the action, or of a workflow that is called."""
    if not path:
        return set(yaml.safe_load((ROOT / "action.yml").read_text())["inputs"])
    return set(yaml.safe_load((ROOT / path).read_text())[True]["workflow_call"]["inputs"])


@pytest.mark.parametrize("block", of_language("json"), ids=str)
def test_a_block_of_json_stands_in_a_run_file(block):
    lines = {line.strip() for line in NEWEST.read_text().splitlines()}
    text = block.text.strip()
    assert text in lines
    json.loads("{" + text.removesuffix(",") + "}")


def test_the_table_of_a_clean_run_is_that_of_a_stored_run():
    from peft_regress.report import results_table

    (block,) = [block for block in BLOCKS if re.match(r"case +trained +ship", block.text)]
    rows = results_table(read_run_file(FIRST).run).splitlines()
    shown = block.text.partition("\n...")[0].splitlines()
    assert len(shown) == 7
    for row in shown:
        assert row in rows


# --- The reading ----------------------------------------------------------------------------------


def test_the_pages_have_examples_of_every_kind():
    assert len(PAGES) > 10
    assert {"console", "python", "yaml", "json"} <= {block.language for block in BLOCKS}


def console(text: str) -> list[Command]:
    return Block(page="a.md", line=1, language="console", text=text).commands


def test_a_command_goes_on_after_a_backslash_and_ends_before_its_comment():
    (command,) = console("$ a 'b # c' \\\n      d#e  # a comment\nshown\n")
    assert command == Command(typed="a 'b # c'       d#e", shown=("shown",))


def test_commands_joined_are_two_and_the_last_one_prints():
    first, last = console("$ a && b\nshown\n")
    assert (first.typed, first.shown, last.typed, last.shown) == ("a", (), "b", ("shown",))


def test_a_block_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="starts with a line"):
        console("a\n")


def test_a_command_that_no_rule_knows_fails():
    with pytest.raises(pytest.fail.Exception, match="nothing says how `rm -rf /`"):
        rule_of(Command(typed="rm -rf /", shown=()))


@pytest.mark.parametrize(
    ("shown", "printed", "right"),
    [
        (["a", "b"], ["a", "b"], True),
        (["a"], ["a", "b"], False),
        (["a", "b"], ["a"], False),
        (["a", "c"], ["a", "b"], False),
        (["a", "..."], ["a", "b", "c"], True),
        (["a", "   ...", "c"], ["a", "b", "b", "c"], True),
        (["a", "...", "c"], ["a", "b", "d"], False),
        (["a ... c"], ["a b c"], True),
        (["a ... c"], ["a b d"], False),
        (["b  "], ["b"], True),
    ],
)
def test_what_is_shown_is_what_was_printed(shown, printed, right):
    assert (differences(shown, printed) is None) is right


@pytest.mark.parametrize(
    ("shown", "right"), [(["a", "c"], True), (["c", "a"], False), (["a", "x"], False), ([], True)]
)
def test_chosen_lines_stand_in_their_order(shown, right):
    assert (differences(shown, ["a", "b", "c"], some=True) is None) is right


def test_lines_that_vary_are_left_out_with_what_is_below_them():
    lines = ["x", "  environment: a", "    b", "  y", "    z"]
    assert constant(lines) == ["x", "  y", "    z"]
