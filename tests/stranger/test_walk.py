"""What a stranger does on the first day, with the wheel and git alone."""

import shutil

import pytest
from strangers import AVX2, Stranger, make_environment, make_wheel, write_library

CASE = "digits/lora-r4/small"
GLOB = "shift/lora-r4/shufflenet*"
LAYER = "peft/tuners/lora/layer.py"
PRODUCT = "lora_B(lora_A(dropout(x))) * scaling"
STEPS = ("Install the gate", "Gate the candidate")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return make_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    return make_environment(tmp_path_factory.mktemp("environment"), wheel)


@pytest.fixture
def stranger(tmp_path, environment):
    made = Stranger(folder=tmp_path, environment=environment)
    # The action makes its environment here; what it needs was downloaded.
    make_environment(made.temp / "peft-regress")
    made.git("init", "--quiet")
    return made


@pytest.fixture(scope="module")
def accepted(tmp_path_factory, environment):
    """A project with a first suite, accepted on this kind of machine."""
    made = Stranger(folder=tmp_path_factory.mktemp("accepted"), environment=environment)
    made.git("init", "--quiet")
    made.type("peft-regress", "init")
    made.type("pytest", "gates", "-q", "--regress-save", "runs/first.json", code=1)
    made.type("peft-regress", "accept", "runs/first.json", "--reason", "first numbers")
    made.commit()
    return made.repository


@pytest.fixture
def own(request, stranger, accepted):
    """That project, gated on this kind of machine or on another one."""
    shutil.copytree(accepted, stranger.repository, dirs_exist_ok=True)
    stranger.variables |= request.param
    return stranger


NIGHTLY, SLOW = pytest.mark.nightly, pytest.mark.slow
KINDS = {"here": {}, "avx2": AVX2}


def on_kinds(slow):
    """Run a test of an own project on both kinds of machines, on one of them for each push."""
    marks = {name: SLOW if name == slow else NIGHTLY for name in KINDS}
    params = [pytest.param(KINDS[name], id=name, marks=marks[name]) for name in KINDS]
    return pytest.mark.parametrize("own", params, indirect=True)


def edit(stranger, path, old, new):
    file = stranger.repository / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@on_kinds(slow="here")
def test_the_workflow_of_init_fails_in_a_line_until_it_knows_where_the_gate_is(own, wheel):
    (ended,) = (
        one
        for script, one in own.workflow(".github/workflows/gate.yml").items()
        if "pip install" in script
    )
    assert ended.code
    assert "put into GATE of gate.yml where pip can get peft-regress" in ended.errors
    for change, is_red in (("", False), (", bias=False", True)):
        edit(own, "gates/cases.py", "Linear(64, 64)", f"Linear(64, 64{change})")
        ended = own.workflow(".github/workflows/gate.yml", GATE=str(wheel))
        codes = [one.code for one in ended.values()]
        assert codes[0] == 0, next(iter(ended.values())).errors
        assert any(codes) == is_red, "\n".join(one.output for one in ended.values())


@on_kinds(slow="avx2")
def test_the_action_judges_own_cases_by_the_storage_of_its_input(own):
    shutil.move(own.repository / "baselines", own.repository / "elsewhere")
    inputs = {"install": ".", "baselines": "elsewhere", "extra_index_url": "", "strict": "true"}
    ended = own.action(**inputs)
    assert (ended.code, ended.outputs["moved"]) == (0, "false"), ended.output + ended.errors
    edit(own, "gates/cases.py", 'target_modules=["body"]', 'target_modules=["body", "head"]')
    edit(own, "gates/cases.py", '        also_train=["head"],\n', "")
    ended = own.action("Gate the candidate", **inputs)
    assert (ended.code, ended.outputs["moved"]) == (1, "true"), ended.output + ended.errors
    assert CASE in ended.summary


def change_library(stranger, before, after):
    """Make a repository of peft, and a change of it.

    Both compute something else than the stored baseline, as if its main did since long ago.
    """
    write_library(stranger.repository, "peft")
    edit(stranger, LAYER, PRODUCT, before)
    stranger.commit("main")
    stranger.git("update-ref", "refs/remotes/origin/main", "HEAD")
    edit(stranger, LAYER, before, after)
    (stranger.repository / "README").touch()
    stranger.commit("a pull request")
    stranger.variables |= {"GITHUB_BASE_REF": "main"}


PLAIN, WASTEFUL = f"({PRODUCT} * 1.01)", f"(({PRODUCT} + {PRODUCT}) / 2 * 1.01)"
CHANGES = {
    "regresses": (PLAIN, WASTEFUL, 1, "1. regressed in 1 case: forward"),
    "improves": (WASTEFUL, PLAIN, 0, "1. improved in 1 case: forward"),
    "touches-nothing": (PLAIN, PLAIN, 0, "not by this change: regressed in 1 case: first"),
}


@pytest.mark.parametrize(
    "change",
    [pytest.param(name, marks=SLOW if name == "regresses" else NIGHTLY) for name in CHANGES],
)
def test_a_pull_request_of_a_library_is_judged_by_what_it_changes(stranger, change):
    before, after, code, words = CHANGES[change]
    change_library(stranger, before, after)
    ended = stranger.action(requirements=".", cases=GLOB, extra_index_url="")
    assert ended.code == code, ended.output + ended.errors
    assert words in ended.summary.replace("\\", "")
    # A budget comes with the baseline that it belongs to.
    assert "looser" not in ended.summary
