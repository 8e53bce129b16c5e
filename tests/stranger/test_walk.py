"""What a stranger does on the first day, with the wheel and git alone."""

import shutil

import pytest
from strangers import AVX2, Stranger, write_library

CASE = "digits/lora-r4/small"
GLOB = "shift/lora-r4/shufflenet*"
LAYER = "peft/tuners/lora/layer.py"
PRODUCT = "lora_B(lora_A(dropout(x))) * scaling"


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


def on_kinds(slow=None):
    """Run a test of an own project on both kinds of machines, on at most one for each push."""
    marks = {name: SLOW if name == slow else NIGHTLY for name in KINDS}
    params = [pytest.param(KINDS[name], id=name, marks=marks[name]) for name in KINDS]
    return pytest.mark.parametrize("own", params, indirect=True)


def edit(stranger, path, old, new):
    file = stranger.repository / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@on_kinds()
def test_the_workflow_of_init_fails_in_a_line_until_it_knows_where_the_gate_is(own, wheel):
    (ended,) = (
        one
        for script, one in own.workflow(".github/workflows/gate.yml").items()
        if "pip install" in script
    )
    assert ended.code
    assert "put into GATE of gate.yml where pip can get peft-regress" in ended.errors
    for change, is_red in (("", False), (", bias=False", True)):
        edit(own, "gates/cases.py", "Linear(64, 16)", f"Linear(64, 16{change})")
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


@on_kinds(slow="avx2")
def test_a_person_reads_in_a_diff_what_an_accept_changes(own):
    """Also on another kind of machine, where the same training rounds otherwise."""
    edit(own, "gates/cases.py", "r=4", "r=8")
    own.type("pytest", "gates", "-q", "--regress-save", "runs/second.json", code=1)
    own.type("peft-regress", "accept", "runs/second.json", "--reason", "a higher rank")
    own.git("add", "--all")
    shown = own.git("diff", "--staged", "--word-diff", "-U0", "--", "baselines")
    for words in ("settings", "trained 4 tensors", "forward_flops", "first_losses", "accuracy"):
        assert f"{CASE} {words}" in shown
    assert len(shown.splitlines()) < 100, shown
    assert "0002_" in own.type("pytest-benchmark", "--storage", "baselines", "list")
    own.type("pytest-benchmark", "--storage", "baselines", "compare", "0001", "0002")


UNSEEDED = """
import pathlib
import peft
import torch

net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
net = peft.get_peft_model(net, peft.LoraConfig(r=4, target_modules=["0"]))
optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
pathlib.Path("out").mkdir(exist_ok=True)
for step in range(6):
    net(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    pathlib.Path("out", f"{step}.txt").write_text("a checkpoint")
"""
SCRIPT = """
from peft_regress import Script

GATES = [Script("toy/lora-r4/mlp", "train.py")]
"""


@on_kinds(slow="here")
def test_a_script_without_a_seed_is_judged_by_what_repeats(own):
    (own.repository / "train.py").write_text(UNSEEDED)
    (own.repository / "gates" / "cases.py").write_text(SCRIPT)
    assert "files that the script wrote: out/" in own.type("peft-regress", "watch", "train.py")
    own.type("pytest", "gates", "-q", "--regress-save", "runs/script.json", code=1)
    retired = ("--retire", CASE)
    own.type("peft-regress", "accept", "runs/script.json", "--reason", "a script", *retired)
    assert "no regression (1 unchanged)" in own.type("pytest", "gates", "-q")
    edit(own, "train.py", "r=4", "r=8")
    assert "forward_flops" in own.type("pytest", "gates", "-q", code=1)


def check_out_pull_request(stranger, before, after):
    """Check out a pull request of peft as GitHub does: its merge into main, of one commit.

    main computes something else than the stored baseline, as if since long ago.
    """
    origin = stranger.folder / "origin"
    layer = origin / LAYER
    # A file of another kind, which has the name of this project's budgets.
    (origin / "benchmarks").mkdir(parents=True)
    (origin / "benchmarks" / "budgets.toml").write_text("seconds = 3\n")
    write_library(origin, "peft")
    text = layer.read_text()

    def git(*words):
        stranger.git("-C", str(origin), *words)

    git("init", "--quiet", "--initial-branch=main")
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    for branch, product in (("main", before), ("change", after)):
        git("switch", "--quiet", "--force-create", branch)
        assert PRODUCT in text
        layer.write_text(text.replace(PRODUCT, product))
        (origin / branch).touch()
        git("add", "--all")
        git("commit", "--quiet", "--message", branch)
    git("switch", "--quiet", "main")
    git("merge", "--quiet", "--no-ff", "--message", "merged", "change")
    git("update-ref", "refs/pull/7/merge", "HEAD")
    git("reset", "--quiet", "--hard", "HEAD~1")
    stranger.git("remote", "add", "origin", origin.as_uri())
    stranger.git("fetch", "--quiet", "--depth=1", "origin", "refs/pull/7/merge")
    stranger.git("checkout", "--quiet", "--detach", "FETCH_HEAD")
    stranger.variables |= {
        "GITHUB_BASE_REF": "main",
        "GITHUB_REF": "refs/pull/7/merge",
        "GITHUB_SHA": stranger.git("rev-parse", "HEAD"),
    }


PLAIN, WASTEFUL = f"({PRODUCT} * 1.01)", f"(({PRODUCT} + {PRODUCT}) / 2 * 1.01)"
CHANGES = {
    "regresses": (PLAIN, WASTEFUL, 1, "1. regressed in 1 case: forward"),
    "improves": (WASTEFUL, PLAIN, 0, "1. improved in 1 case: forward"),
    "touches-nothing": (PLAIN, PLAIN, 0, "not by this change: regressed in 1 case: filled"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("change", CHANGES)
def test_a_pull_request_of_a_library_is_judged_by_what_it_changes(stranger, change):
    before, after, code, words = CHANGES[change]
    check_out_pull_request(stranger, before, after)
    ended = stranger.action(requirements=".", cases=GLOB, extra_index_url="")
    assert ended.code == code, ended.output + ended.errors
    assert words in ended.summary.replace("\\", "")
    # A budget comes with the baseline that it belongs to.
    assert "looser" not in ended.summary
