"""Foreign code: what its errors are told as, and which lines of its log are dropped."""

import importlib
import logging
import subprocess
import sys

import pytest

from peft_regress.errors import InputError
from peft_regress.imports import told


@pytest.fixture
def told_of(tmp_path, monkeypatch):
    """Return a function that writes modules, calls `run` of the first, and returns what is told."""
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(installed)
    monkeypatch.syspath_prepend(tmp_path)

    def tell(sources):
        for name, source in sources.items():
            folder = installed if name.startswith("zoo") else tmp_path
            path = folder / f"{name.replace('.', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
            monkeypatch.delitem(importlib.sys.modules, name, raising=False)
        importlib.invalidate_caches()
        with pytest.raises(Exception) as raised:  # noqa: PT011  (any)
            importlib.import_module(next(iter(sources))).run()
        # Without this frame: whoever tells catches the error in this package.
        return told(raised.value.with_traceback(raised.tb.tb_next))

    return tell


FAILS = "def run(*given):\n    raise ValueError('two\\nlines')\n"
CALLS = "import zoo_inner\ndef run():\n    zoo_inner.run()\n"


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        # The user's line comes before the library's that it calls, without a folder.
        ({"mine": CALLS, "zoo_inner": FAILS}, "ValueError: two lines (mine.py, line 3)"),
        # Without a line of the user it is the innermost of a package.
        ({"zoo_outer": CALLS, "zoo_inner": FAILS}, "ValueError: two lines (zoo_inner.py, line 2)"),
        (
            {"zoo_package.inner.code": FAILS},
            "ValueError: two lines (zoo_package/inner/code.py, line 2)",
        ),
        ({"mine": FAILS}, "ValueError: two lines (mine.py, line 2)"),
        ({"mine": "def run():\n    raise KeyError\n"}, "KeyError (mine.py, line 2)"),
        ({"mine": "import json\ndef run():\n    json.loads('{')\n"}, " (mine.py, line 3)"),
        ({"mine": "x = (\n"}, " (mine.py, line 1)"),
        ({"mine": f"def run():\n    raise ValueError({'x' * 999!r})\n"}, "... (mine.py, line 2)"),
    ],
)  # fmt: skip
def test_an_error_is_told_in_one_short_line_with_a_place(told_of, sources, expected):
    found = told_of(sources)
    assert found == expected if expected.startswith("V") else found.endswith(expected)
    assert len(found) < 300


def test_an_error_of_wrong_use_has_no_type_and_one_of_nowhere_no_place():
    assert told(InputError("the budget is negative")) == "the budget is negative"
    assert told(ValueError("bad")) == "ValueError: bad"


# Noise of bitsandbytes and torchao, which peft and galore_torch import.


@pytest.mark.parametrize(
    ("name", "noise"),
    [
        ("bitsandbytes.backends.cpu.ops", "Failed to load CPU gemm_4bit_forward from x: none"),
        ("bitsandbytes.cextension", "The installed version of bitsandbytes was compiled without x"),
        ("kernels._internals.hf_hub", "Skipping publisher trust check for 'kernels-community/x'"),
        ("torchao", "Failed to load _C_mxfp8.so: Could not load this library"),
        ("torchao.kernel.intmm", "Warning: Detected no triton, on systems without Triton"),
        ("torch.utils._pytree", "%s is an Enum subclass and is now natively supported by"),
    ],
)
def test_of_a_noisy_logger_only_the_known_line_is_dropped(caplog, name, noise):
    logger = logging.getLogger(name)
    logger.warning(noise)
    logger.warning("a real problem")
    assert [record.getMessage() for record in caplog.records] == ["a real problem"]


IMPORTS = "import galore_torch, peft, peft.optimizers\n"
WRAPPING = """\
import peft_regress, peft, torch
layers = torch.nn.Sequential(torch.nn.Linear(4, 4))
peft.get_peft_model(layers, peft.LoraConfig(target_modules=["0"]))
"""
COST = "cost --architecture shufflenet_v2_x0_5 --method galore --rank 4"
WORKER = """\
import json, subprocess, sys
modules = {"modules": ["peft", "galore_torch"]}
lines = [json.dumps({"function": sys.argv[1] + ":import_modules", "request": modules})]
done = subprocess.run([sys.executable, "-m", sys.argv[1]], input="\\n".join([*lines, ""]),
                      capture_output=True, text=True)
assert '"galore_torch":' in done.stdout, done.stdout + done.stderr
print(done.stderr, end="")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["-c", f"import peft_regress\n{IMPORTS}"],
        pytest.param(["-c", WRAPPING], marks=pytest.mark.executorch),
        ["-c", WORKER, "peft_regress.workers.serve"],
        ["-m", "peft_regress", *COST.split()],
        ["-m", "peft_regress", "list"],
    ],
    ids=["script", "torchao", "worker", "cost", "list"],
)
def test_nothing_but_the_result_is_printed(command):
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    assert done.stderr == ""
    if "-c" in command:
        assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["conftest.py", "test_one.py"])
def test_under_pytest_nothing_is_warned_of_wherever_the_libraries_are_imported(tmp_path, where):
    (tmp_path / "test_one.py").write_text("def test_one():\n    import peft\n")
    file = tmp_path / where
    file.write_text(IMPORTS + (file.read_text() if file.exists() else ""))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    assert "bitsandbytes" not in done.stdout
    assert "warning" not in done.stdout
