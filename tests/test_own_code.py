"""Which modules are the user's own: those that a case's code imports, whatever process asks."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from package_index import wheel_bytes

from peft_regress import own_code
from peft_regress.own_code import own_modules
from peft_regress.runs import environment

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "gates/cases.py": "import torch, numpy\nimport peft_regress\nfrom ours import net\n",
    "ours/__init__.py": "from .sizes import WIDE\n",
    "ours/net.py": "def model():\n    from . import late\n",
    "ours/sizes.py": "WIDE = 3\n",
    "ours/late.py": "from ..beyond import it\n",
    "ours/unused.py": "",
    "ours/old.py": "print 'Python 2'",
    "notes.py": "",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_own_modules_are_found_by_imports_also_those_inside_functions(project: Path) -> None:
    found = own_modules("gates.cases")
    assert list(found) == ["gates.cases", "ours", "ours.late", "ours.net", "ours.sizes"]
    (project / "ours" / "sizes.py").write_text("WIDE = 4\n")
    changed = own_modules("gates.cases")
    assert [name for name in found if found[name] != changed[name]] == ["ours.sizes"]
    assert not {"gates", "ours"} & sys.modules.keys()


def test_code_that_never_runs_may_be_wrong(project: Path) -> None:
    assert list(own_modules("ours.old")) == ["ours", "ours.old", "ours.sizes"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_package_that_was_installed_from_a_folder_is_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_ours: bool
) -> None:
    site = tmp_path / "site-packages"
    _unpack(site, wheel_bytes("candy", "1.0"))
    source = tmp_path if is_ours else tmp_path / "where-conda-built-it"
    url = json.dumps({"url": source.as_uri(), "dir_info": {}})
    (site / "candy-1.0.dist-info" / "direct_url.json").write_text(url)
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(environment, "_owners", lambda: {"candy": ["candy"]})
    assert list(own_modules("candy")) == (["candy"] if is_ours else [])


def _unpack(folder: Path, wheel: bytes) -> None:
    import io
    import zipfile

    zipfile.ZipFile(io.BytesIO(wheel)).extractall(folder)


def test_what_this_project_depends_on_is_never_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_code, "is_from_folder", lambda _: True)
    assert own_modules("peft") == own_modules("peft_regress.text") == {}
