"""A project's own cases: found by import path, listed like built-in ones, refused by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from peft_regress import Bound, Budget, FineTune, case_params
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import (
    check_matrix,
    matrices_of,
    matrix_cases,
    parse_case_id,
    select_cases,
)
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.imports import import_object
from peft_regress.project.project import Project, current_project

GATES = """\
from peft_regress import FineTune

def case(name, **settings):
    return FineTune(name, model=print, data=print, adapter="full", **settings)

PHONE = case("phone/full/net", matrix="phone")
GATES = [case("photos/lora-r4/net"), case("photos/mine/net"), PHONE]
ONE = case("sound/full/net")
NUMBER = 3
"""


pytestmark = pytest.mark.usefixtures("clean_registry")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a project in the working folder; its module is imported anew for each test."""
    monkeypatch.chdir(tmp_path)

    def write(*cases, module=GATES, more=""):
        (tmp_path / "gates.py").write_text(module)
        (tmp_path / "pyproject.toml").write_text(
            f"[tool.peft_regress]\ncases = {list(cases)!r}\n{more}\n"
        )

    yield write
    sys.modules.pop("gates", None)


def _case(name, **settings):
    return FineTune(name, model=print, data=print, adapter="full", **settings)


def test_cases_of_the_settings_are_a_matrix_like_any_other(project):
    project("gates:GATES", "gates:ONE")
    ids = ["photos/lora-r4/net", "photos/mine/net", "sound/full/net"]
    assert current_project().matrix == "own"
    assert [case.id for case in matrix_cases("own")] == ids
    assert [case.id for case in matrix_cases("phone")] == ["phone/full/net"]
    assert [case.id for case in matrix_cases("own", task="photos")] == ids[:2]
    assert [case.id for case in select_cases("*/full/*", matrix="own")] == ids[2:]
    assert [param.id for param in case_params()] == ids
    assert [param.id for param in case_params("sound")] == ids[2:]
    check_matrix("phone")
    assert len(matrix_cases("default")) == 102


def test_an_id_of_an_own_case_is_found_before_the_names_of_the_registry(project):
    project("gates:GATES")
    case = parse_case_id("photos/lora-r4/net")
    assert case == Case(task="photos", method="lora", rank=4, architecture="net")
    assert matrices_of(case) == {"own"}
    assert current_project().cases()[case.id].id == case.id
    with pytest.raises(UnknownNameError, match="unknown task 'photos'"):
        parse_case_id("photos/lora-r8/net")
    assert "shift/full/resnet18" not in current_project().cases()


def test_a_suite_can_give_its_cases_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gates = [_case("photos/full/net"), _case("photos/head/net")]
    assert [param.id for param in case_params(gates)] == ["photos/full/net", "photos/head/net"]
    assert [param.id for param in case_params(iter(gates))] == [gate.id for gate in gates]
    assert current_project().matrix == "own"
    assert [case.id for case in matrix_cases("own")] == [gate.id for gate in gates]
    assert case_params(_case("photos/norm/net"))[0].id == "photos/norm/net"


def test_the_storage_is_that_of_the_settings_from_any_folder(project, tmp_path, monkeypatch):
    project("gates:GATES", more='baselines = "data"')
    assert str(current_project().storage) == "data"
    for folder in (".git", "packages", "packages/one"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "packages" / "one")
    assert Project().storage == tmp_path / "data"


def test_bounds_of_the_settings_hold_where_a_case_has_none_itself(project):
    rule = '{{cases = "{}", metric = "{}", bound = {}, reason = "{}"}}'
    rules = [
        rule.format("photos/*", "peak_bytes", 0.1, "first"),
        rule.format("*/lora-*", "peak_bytes", 0.2, "second"),
        rule.format("*", "accuracy", 0.3, "third"),
    ]
    project("gates:GATES", more=f"bounds = [{', '.join(rules)}]")
    (own,) = current_project().add(_case("photos/full/a", bounds={"accuracy": Bound(0.5, "mine")}))
    assert current_project().bounds_of(own.case) == {
        "peak_bytes": Bound(0.1, "first"),
        "accuracy": Bound(0.5, "mine"),
    }
    other = Case.parse("photos/lora-r4/a")
    assert current_project().bounds_of(other)["peak_bytes"].reason == "second"
    project("gates:GATES", more=f"bounds = [{rule.format('*', 'peek_bytes', 1, 'x')}]")
    with pytest.raises(UnknownNameError, match=r"peek_bytes'. Did you mean 'peak_bytes'"):
        Project().bounds_of(own.case)


def test_the_import_path_of_a_case_is_known(project):
    project("gates:GATES")
    case_params(import_object("gates:GATES", folder=Path.cwd(), is_wanted=bool))  # a test's, too
    assert current_project().source_of(Case.parse("photos/mine/net")) == "gates:GATES"
    case_params(_case("given/full/net"))
    assert current_project().source_of(Case.parse("given/full/net")) is None


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            ["new/full/net", "photos/mine/net"],
            "'photos/mine/net' of case_params has the id of a case of gates:GATES",
        ),
        (["new/full/net"] * 2, "of case_params has the id of a case of case_params"),
        *(
            (["new/full/net", name], f"{name}' of case_params has the id of a built-in case")
            for name in ("shift/lora-r4/resnet18", "shift/lora-r4/vit_b_16")
        ),
    ],
)
def test_an_id_that_two_cases_have_is_refused_with_both_places(project, ids, message):
    project("gates:GATES")
    current_project().cases()
    with pytest.raises(InputError, match=message):
        case_params(list(map(_case, ids)))
    assert "new/full/net" not in current_project().cases()


def test_a_device_of_a_budget_that_no_table_has_is_refused_with_the_closest(project, tmp_path):
    board = 'title = "a"\nmemory = "1 MB"\ncompute = "b"\nsource = "c"\n'
    (tmp_path / "boards.toml").write_text(f"[lab-board]\n{board}")
    project(more='devices = "boards.toml"')
    closest = r"device in the budget of a/full/net 'lab_board'\. Did you mean 'lab-board'\?"
    with pytest.raises(UnknownNameError, match=closest):
        current_project().add(_case("a/full/net", budget=Budget(device="lab_board")))
    assert current_project().add(_case("a/full/net", budget=Budget(device="lab-board")))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["x"], "case_params has 'x', which is not a FineTune"),
        ([], "case_params holds no FineTune"),
        (3, "case_params has 3, which is not a FineTune"),
    ],
)
def test_what_is_no_case_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        case_params(given)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gates", "'gates' is not an import path: it has the form pkg.mod:NAME"),
        ("gates:1", "is not an import path"),
        ("gates:GATE", "unknown name in module gates 'GATE'. Did you mean 'GATES'? Known: GATES, "),
        ("gates:NUMBER", "gates:NUMBER has 3, which is not a FineTune"),
        ("gatez:GATES", "there is no module 'gatez' in {folder} or among the installed packages"),
        ("gates.x:GATES", "there is no module 'gates.x' in"),
    ],
)
def test_an_import_path_that_gives_no_case_is_refused_in_one_line(project, tmp_path, path, message):
    project(path)
    with pytest.raises(InputError) as raised:
        matrix_cases("own")
    assert message.format(folder=tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("import os\nopen('nowhere')\n", "FileNotFoundError: .*gates.py, line 2"),
        ("import nowhere\n", "No module named 'nowhere' .*gates.py, line 1"),
        ("x = (\n", "SyntaxError: .*gates.py, line 1"),
        ("raise SystemExit(3)\n", "SystemExit: 3 .*gates.py, line 1"),
        ("import json\njson.loads('{')\n", "JSONDecodeError: .*gates.py, line 2"),
        (
            "import peft_regress as p\np.FineTune('a/b/c', model=1, data=1, adapter='full')\n",
            "does not import: FineTune 'a/b/c': model=1 is not .*gates.py, line 2",
        ),
    ],
)
def test_an_error_inside_a_module_names_path_error_and_place(project, module, message):
    project("gates:GATES", module=module)
    for _ in range(2):
        with pytest.raises(InputError, match=message) as raised:
            matrix_cases("own")
        assert str(raised.value).startswith("'gates:GATES' does not import: ")


def test_without_a_case_the_own_matrix_says_how_to_get_one():
    with pytest.raises(InputError, match=r"name yours in pyproject.toml.*`peft-regress init`"):
        matrix_cases("own")


def test_listing_own_cases_imports_no_torch_of_its_own(project):
    project("gates:GATES")
    code = (
        "import sys\nfrom peft_regress.catalogue.matrix import matrix_cases\n"
        "assert matrix_cases('own')\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
