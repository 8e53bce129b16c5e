"""Every example of the documents runs here, or its rule names the test that runs it."""

import contextlib
import functools
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import click
import pytest
import yaml
from builders import run_document
from check_jsonschema.builtin_schemas import get_builtin_schema
from example_releases import use_recorded_releases
from example_rules import ELSEWHERE, RULES, Rule, constant, find_rule
from example_sandbox import FIRST, NEWEST, environment, setup_of
from examples import ROOT, Command, blocks, differences, renewed
from jsonschema import validators

from peft_regress.catalogue.budget_file import read_budgets
from peft_regress.cli.main import cli, main
from peft_regress.project.devices import load_devices
from peft_regress.project.settings import read_settings
from peft_regress.runs.run_file import dump_json, read_run_file

BLOCKS = list(blocks())
NO_RULE = Rule(pattern="", how="here")


def rule_of(command):
    rule = find_rule(command)
    if rule is None:
        msg = f"no rule for `{command}`: add one to RULES in tests/example_rules.py"
        pytest.fail(msg, pytrace=False)
    return rule


@pytest.fixture
def sandbox(request, tmp_path, prepared, shared):
    """Return the shared copy, or a copy of its own for a block that changes the baselines."""
    block = request.getfixturevalue("block")
    setup = setup_of(block)
    if setup is None and "$ peft-regress accept" not in block.text:
        return shared
    folder = shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)
    if setup is not None:
        setup(folder)
    return folder


def of_language(language):
    return [block for block in BLOCKS if block.language == language]


def marks_of(block, *, slow):
    """Return `slow`, also for profiles of whole networks; releases are installed at night."""
    words = {word for command in block.commands for word in command.typed.split()}
    if slow:
        return pytest.mark.nightly if words & {"upgrade", "bisect"} else pytest.mark.slow
    return pytest.mark.slow if words & {"choose", "cost"} else ()


def console_blocks(*, slow):
    """Return the blocks that have a command of the kind; one without a rule is not slow."""
    return [
        pytest.param(block, marks=marks_of(block, slow=slow))
        for block in of_language("console")
        if any((find_rule(one) or NO_RULE).is_slow is slow for one in block.commands)
    ]


def command_line(typed):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    with contextlib.redirect_stdout(stream), pytest.raises(SystemExit) as ended:
        main(shlex.split(typed)[1:])
    stream.flush()
    return int(ended.value.code or 0), stream.buffer.getvalue().decode()


def shell(typed, folder):
    done = subprocess.run(
        ["bash", "-c", typed],
        cwd=folder, env=environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, f"{typed}\n{done.stderr}"
    return done.returncode, done.stdout or done.stderr


# Pages repeat commands that take seconds or minutes.
command_line_once = functools.cache(command_line)
shell_once = functools.cache(shell)


def execute(command, rule, folder):
    """Run a command by its rule, check its exit code, and return the lines that it printed."""
    typed = command.typed
    if rule.instead is not None:
        typed = re.fullmatch(rule.pattern, typed).expand(rule.instead)
    if rule.is_slow:
        code, printed = (shell_once if rule.how == "live" else shell)(typed, folder)
    else:
        profiles = typed.startswith(("peft-regress cost", "peft-regress choose"))
        code, printed = (command_line_once if profiles else command_line)(typed)
    assert code in rule.codes, f"{typed}\n{printed}"
    return printed.splitlines()


def check_block(block, folder, *, slow, writes):
    """Run the commands of a kind, and compare what they print with the page, or write it there."""
    outputs = {}
    for command in block.commands:
        rule = rule_of(command)
        if rule.how == "elsewhere" or rule.is_slow is not slow:
            continue
        printed = execute(command, rule, folder)
        if not command.shown:
            continue
        if writes:
            outputs[command] = command.shown if rule.some else renewed(command.shown, printed)
            continue
        shown = command.shown
        if rule.how in {"live", "replayed"}:
            shown, printed = constant(shown), constant(printed)
        wrong = differences(shown, printed, some=rule.some)
        remedy = "`python -m pytest tests/docs/test_examples.py --write-examples` renews the page"
        assert wrong is None, f"`{command}`\n{wrong}\n{remedy}"
    if outputs:
        page = ROOT / block.page
        before = page.read_text()
        assert block.text in before, f"{block}: is indented, so that it must be renewed by hand"
        page.write_text(before.replace(block.text, block.with_outputs(outputs)))


@pytest.fixture
def writes(request):
    return request.config.getoption("--write-examples", default=False)


@pytest.mark.parametrize("block", console_blocks(slow=False), ids=str)
def test_the_commands_of_a_console_block_print_what_it_shows(block, sandbox, writes, monkeypatch):
    monkeypatch.chdir(sandbox)
    monkeypatch.setenv("COLUMNS", "100")
    if any(rule_of(command).how == "replayed" for command in block.commands):
        use_recorded_releases(monkeypatch)
    check_block(block, sandbox, slow=False, writes=writes)


@pytest.mark.parametrize("block", console_blocks(slow=True), ids=str)
def test_the_commands_of_a_shell_print_what_the_block_shows(block, sandbox, writes):
    check_block(block, sandbox, slow=True, writes=writes)


def test_each_rule_has_a_command_and_what_runs_it_elsewhere_exists():
    commands = [command for block in of_language("console") for command in block.commands]
    typed = [command.typed for command in commands]
    typed += [run for block in of_language("yaml") for run in runs_of(block)]
    patterns = [rule.pattern for rule in RULES]
    assert [one for one in patterns if not any(re.fullmatch(one, text) for text in typed)] == []
    assert [name for name in ELSEWHERE if not (ROOT / name).is_file()] == []
    # Two searches and one upgrade use the package index.
    live = {command.typed for command in commands if rule_of(command).how == "live"}
    assert sorted(text.split()[1] for text in live) == ["bisect", "bisect", "upgrade"]


TEXTS = {
    r"case: FineTune": "a picture",
    r"examples drawn by hypothesis": "a picture",
    r"pytest:  plugin/session ->": "a picture",
    r"requirements -> pip": "a picture",
    r"shift/dora-r4/resnet18: regressed": "tests/plugin/test_end_to_end.py",
    r"peft-regress [a-z]+": "tests/tools/test_written_files.py",
    r"case +trained +ship": "test_the_table_of_numbers_is_that_of_a_stored_run",
    r"shift/head/shufflenet\S+: slower": "tests/cli/test_time.py",
    r"\d+\. lora on conv1d": "fuzz/tests/test_fuzz_shown.py",
}
"""What checks a block of text, by its first line."""


def test_every_block_is_of_a_language_that_is_checked():
    for block in BLOCKS:
        assert block.language in {"console", "python", "yaml", "json", "text", "toml"}, str(block)
        if block.language == "text":
            assert any(re.match(start, block.text) for start in TEXTS), str(block)


@pytest.mark.slow
@pytest.mark.parametrize("block", of_language("python"), ids=str)
def test_a_block_of_python_runs(block, sandbox):
    """pytest runs a suite, narrowed to one case; anything else is a script."""
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
    steps = [step for job in document["jobs"].values() for step in (job, *job.get("steps", ()))]
    for step in steps:
        _, ours, name = step.get("uses", "").partition("/.github/")
        if ours:
            inputs = inputs_of(f".github/{name.partition('@')[0]}")
            assert step.get("with", {}).keys() <= inputs, str(block)
    for run in runs_of(block):
        rule_of(Command(typed=run, shown=()))


def runs_of(block):
    jobs = whole_workflow(yaml.safe_load(block.text))["jobs"].values()
    return [step["run"] for job in jobs for step in job.get("steps", ()) if "run" in step]


def whole_workflow(document):
    """Put steps into a job and jobs into a workflow, so that the schema applies."""
    if isinstance(document, list):
        document = {"jobs": {"job": {"runs-on": "ubuntu-24.04", "steps": document}}}
    # YAML 1.1 reads the key `on` as true.
    return {"on": document.pop(True, "push"), **document}


def inputs_of(path):
    if (ROOT / path).is_dir():
        return set(yaml.safe_load((ROOT / path / "action.yml").read_text())["inputs"])
    return set(yaml.safe_load((ROOT / path).read_text())[True]["workflow_call"]["inputs"])


@pytest.mark.parametrize("block", of_language("json"), ids=str)
def test_a_block_of_json_is_in_a_run_file(block):
    file = read_run_file(NEWEST)
    written = dump_json(run_document(file.run, file.document))
    lines = {line.strip() for line in written.splitlines()}
    text = block.text.strip()
    assert text in lines
    json.loads("{" + text.removesuffix(",") + "}")


@pytest.mark.parametrize("block", of_language("toml"), ids=str)
def test_a_block_of_toml_is_a_table_of_settings_of_budgets_of_devices_or_of_indexes(
    block, tmp_path
):
    if "[tool.uv" in block.text:
        settings = tomllib.loads(block.text)["tool"]["uv"]
        named = {index["name"] for index in settings["index"]}
        assert {source["index"] for source in settings["sources"].values()} == named
        return
    if ".cases]" in block.text:
        (tmp_path / "budgets.toml").write_text(block.text)
        read_budgets(tmp_path / "budgets.toml")
        return
    if "[tool.peft_regress]" not in block.text:
        load_devices(tomllib.loads(block.text))
        return
    (tmp_path / "pyproject.toml").write_text(block.text)
    assert read_settings(tmp_path).file is not None


def test_the_table_of_numbers_is_that_of_a_stored_run():
    from peft_regress.report import results_table

    (block,) = [block for block in BLOCKS if re.match(r"case +trained +ship", block.text)]
    rows = results_table(read_run_file(FIRST).run).splitlines()
    *shown, end = block.text.splitlines()
    assert (len(shown), end) == (8, "...")
    assert differences(shown, rows, some=True) is None


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


READERS = ("compare", "explain", "report", "history")


def examples_of_help():
    found = [
        str(getattr(cli.get_command(click.Context(cli), one), "epilog", "")) for one in READERS
    ]
    lines = [line.strip() for text in found for line in text.splitlines()]
    return [
        pytest.param(line, marks=[pytest.mark.slow] * ("--html" in line))  # of the whole storage
        for line in lines
        if line.startswith("peft-regress ")
    ]


@pytest.mark.parametrize("line", examples_of_help())
def test_an_example_of_the_help_works(shared, command, monkeypatch, line):
    monkeypatch.chdir(shared)
    # 1 is a verdict: it regressed.
    assert command(*shlex.split(line)[1:])[0] in {0, 1}
