"""Which modules are the user's own: those that a case's code imports, whatever process asks."""

import io
import json
import sys
import zipfile
from unittest.mock import MagicMock

import pytest
from package_index import wheel_bytes

from peft_regress.runs import own_code
from peft_regress.runs.environment import is_from_folder
from peft_regress.runs.own_code import own_modules

FILES = {
    "the_gates/cases.py": "import torch, numpy\nimport peft_regress\nfrom ours import net\n",
    "ours/__init__.py": "from .sizes import WIDE\n",
    "ours/net.py": "def model():\n    from . import late\n",
    "ours/sizes.py": "WIDE = 3\n",
    "ours/late.py": "from ..beyond import it\n",
    "ours/unused.py": "",
    "ours/old.py": "print 'Python 2'",
    "notes.py": "",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in [name for name in sys.modules if name.partition(".")[0] in {"the_gates", "ours"}]:
        monkeypatch.delitem(sys.modules, name)  # another test's project
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_own_modules_are_found_by_imports_also_those_inside_functions(project):
    found = own_modules("the_gates.cases")
    assert list(found) == ["ours", "ours.late", "ours.net", "ours.sizes", "the_gates.cases"]
    (project / "ours" / "sizes.py").write_text("WIDE = 4\n")
    changed = own_modules("the_gates.cases")
    assert [name for name in found if found[name] != changed[name]] == ["ours.sizes"]
    assert not {"the_gates", "ours"} & sys.modules.keys()


def test_code_that_never_runs_may_be_wrong(project):
    assert list(own_modules("ours.old")) == ["ours", "ours.old", "ours.sizes"]


@pytest.mark.parametrize(
    ("url", "installer", "is_ours"),
    [
        ("file:///gone", "pip", True),
        ("file:///candy-1.0-py3-none-any.whl", "uv", True),
        ("file:///where-conda-built-it", "conda", False),
        ("https://example.org/candy-1.0-py3-none-any.whl", "pip", False),
    ],
)
def test_a_package_that_was_installed_from_this_machine_is_own(
    tmp_path, monkeypatch, url, installer, *, is_ours
):
    site = tmp_path / "site-packages"
    zipfile.ZipFile(io.BytesIO(wheel_bytes("candy", "1.0"))).extractall(site)
    info = site / "candy-1.0.dist-info"
    kind = "archive_info" if url.endswith(".whl") else "dir_info"
    (info / "direct_url.json").write_text(json.dumps({"url": url, kind: {}}))
    (info / "INSTALLER").write_text(f"{installer}\n")
    monkeypatch.syspath_prepend(site)
    assert list(own_modules("candy")) == (["candy"] if is_ours else [])
    assert is_from_folder.__wrapped__("candy") == (is_ours and kind == "dir_info")


def test_a_namespace_that_installed_packages_share_makes_no_module_foreign(project):
    (project / "site-packages" / "corp").mkdir(parents=True)
    (project / "site-packages" / "corp" / "library.py").touch()
    (project / "corp").mkdir()
    (project / "corp" / "cases.py").write_text("import corp.library\n")
    sys.path.insert(1, str(project / "site-packages"))  # as `project` does, until the test's end
    assert list(own_modules("corp.cases")) == ["corp.cases"]


def test_what_this_project_depends_on_is_never_own(monkeypatch):
    every = MagicMock()
    every.__contains__.return_value = True
    monkeypatch.setattr(own_code, "files_from_here", lambda **_: every)
    assert own_modules("peft") == own_modules("peft_regress.text") == {}
