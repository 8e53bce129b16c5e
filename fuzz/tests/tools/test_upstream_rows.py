"""The convolution rows of peft's own tests: how they are read, and what the claims say of them."""

from __future__ import annotations

import subprocess
import sys
import tarfile

import pytest
import upstream_claims
import upstream_rows
from upstream_rows import TABLES, TESTS, cases_in, read_tests

from peft_regress.errors import AbsentError, InputError

SOURCE = """
import nowhere
from torch import nn
from .testing import PeftTester

TEST_CASES = [
    # A comment.
    ("Linear", "MLP", LoraConfig, {"target_modules": ["lin0"]}),
    ("Convolution", "Conv2d", LoraConfig, {"target_modules": ["conv2d"], "r": 2}),
    ("Another", "Conv2d", HRAConfig, {"target_modules": ["conv2d"], "r": 2}),
    ("Made by a function", "Conv2d", LoraConfig, {"target_modules": targets()}),
]
OTHER_CASES = [("Not of the list", "Conv2d", LoraConfig, {})]

class MLP(nn.Module):
    pass

class ModelConv2D(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv2d = nn.Conv2d(2, 4, 2)
        self.lin0 = nn.Linear(16, 2)

    def forward(self, X):
        X = self.conv2d(X.reshape(-1, 2, 3, 3))
        return self.lin0(X.flatten(1)).log_softmax(-1)

class Wrapper:
    @classmethod
    def from_pretrained(cls, model_id, dtype=None):
        if dtype is None:
            dtype = 32
        if model_id == "MLP":
            return MLP().to(dtype)
        if model_id == "Conv2d":
            return ModelConv2D().to(dtype)
        raise ValueError(model_id)

class TestAll(PeftTester):
    pass
"""


@pytest.fixture
def checkout(tmp_path):
    file = tmp_path / "checkout" / TESTS
    file.parent.mkdir(parents=True)
    file.write_text(SOURCE.replace("targets()", '["conv2d"]'))
    return tmp_path / "checkout"


# --- Reading --------------------------------------------------------------------------------------


def test_rows_on_convolutions_are_read_and_nothing_else_is_executed():
    cases = cases_in(SOURCE)
    assert [(row.name, row.network, row.config) for row in cases.rows] == [
        ("Convolution", "Conv2d", "LoraConfig"),
        ("Another", "Conv2d", "HRAConfig"),
    ]
    assert cases.rows[0].settings == {"target_modules": ["conv2d"], "r": 2}
    assert cases.unread == ("Made by a function",)
    (network,) = cases.networks.values()
    assert network().conv2d.kernel_size == (2, 2)


@pytest.mark.parametrize("text", ["TEST_CASES = [", "TEST_CASES = []", "ROWS = [(1, 2, 3, 4)]"])
def test_a_file_of_another_form_is_refused(text):
    with pytest.raises(InputError, match=r"test_custom_models\.py (cannot be parsed|has no rows)"):
        cases_in(text)


def test_the_file_is_found_in_a_distribution_and_in_a_checkout(checkout, tmp_path):
    archive = tmp_path / "peft-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(checkout, "peft-1")
    assert read_tests(archive) == read_tests(checkout)


def test_a_source_without_the_file_is_refused(tmp_path):
    empty = tmp_path / "empty.tar.gz"
    with tarfile.open(empty, "w:gz"):
        pass
    text = tmp_path / "text.tar.gz"
    text.write_text("no archive")
    for source in (empty, text, tmp_path, tmp_path / "gone"):
        with pytest.raises(AbsentError, match=f"{source.name} has no {TESTS}"):
            read_tests(source)


# --- Measuring ------------------------------------------------------------------------------------


def test_rows_are_measured_and_the_page_says_why_a_claim_does_not_hold(
    checkout, capsys, monkeypatch, tmp_path
):
    page = tmp_path / "page.md"
    page.write_text(upstream_rows.PAGE.read_text())
    monkeypatch.setattr(upstream_rows, "PAGE", page)
    assert upstream_rows.main(["--check", str(checkout)]) == 1
    assert upstream_rows.main(["--write", str(checkout)]) == 0
    capsys.readouterr()
    assert upstream_rows.main(["--check", str(checkout)]) == 0
    out = capsys.readouterr().out
    assert "page.md is up to date" in out
    assert "Convolution (Conv2d): 18 of 18 claims hold" in out
    assert "raises on weights that are channels last: [finding]" in out
    assert "3 rows on 1 network" in out
    assert all(f"<!-- /upstream-rows:{name} -->" in page.read_text() for name in TABLES)


@pytest.mark.parametrize("claim", ["claimed_flops", "claimed_shapes"])
def test_a_wrong_claim_is_reported_and_fails(claim, checkout, capsys, monkeypatch):
    right = getattr(upstream_claims, claim)

    def wrong(*args):
        found = right(*args)
        return found + 1 if isinstance(found, int) else {**found, "one_more": (1,)}

    monkeypatch.setattr(upstream_claims, claim, wrong)
    assert upstream_rows.main([str(checkout), "--only", "Convolution"]) == 1
    out = capsys.readouterr().out
    assert "by the formula" in out or "by the rule" in out
    assert "NOT EXPLAINED" in out
    assert "1 of the other 1 is without an explanation" in out


def test_a_row_that_cannot_be_read_fails(checkout, capsys):
    (checkout / TESTS).write_text(SOURCE)
    assert upstream_rows.main([str(checkout), "--only", "Convolution"]) == 1
    assert "not read, since they are no literals: Made by a function" in capsys.readouterr().out


def test_what_cannot_be_measured_is_one_line(checkout):
    with pytest.raises(SystemExit, match="no row matches 'nothing'; the first is 'Convolution'"):
        upstream_rows.main([str(checkout), "--only", "nothing"])
    (checkout / TESTS).write_text(SOURCE.replace('"r": 2', '"ranks": 2').replace("targets()", "1"))
    with pytest.raises(SystemExit, match=r"Error: 'Convolution': .* no such configuration"):
        upstream_rows.main([str(checkout)])


# --- The installed release ------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_of_the_installed_release_are_as_claimed(capsys, tmp_path):
    wanted = ["--no-deps", "--no-binary", "peft", f"peft=={upstream_rows.version('peft')}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(tmp_path), *wanted]
    if subprocess.run(pip, check=False).returncode:
        pytest.skip("needs an index with the source of peft")
    source = [str(*tmp_path.glob("*.tar.gz"))]
    for name in ("Conv2d 1 LoRA", "Conv1d LOHA 3", "Conv3d 1 IA3"):
        assert upstream_rows.main([*source, "--only", name]) == 0
    assert "3 of 3" not in (out := capsys.readouterr().out)
    assert out.count("claims hold") == 3
