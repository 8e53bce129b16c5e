"""Checkouts of tiny packages that build without an index: their build backend is in them."""

__all__ = ["write_checkout"]

_PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
_BACKEND = """import sys
import zipfile
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "{module}-{version}.dist-info"
    files = {{
        "{module}.py": Path("{module}.py").read_text(),
        f"{{info}}/METADATA": "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n",
        f"{{info}}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{{info}}/RECORD": "",
    }}
    file = "{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / file, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return file
"""


def write_checkout(folder, name, version):
    """Write a checkout of a package of one module, and return its folder."""
    folder.mkdir(parents=True)
    module = name.replace("-", "_")
    (folder / "pyproject.toml").write_text(_PROJECT)
    (folder / "backend.py").write_text(_BACKEND.format(name=name, module=module, version=version))
    (folder / f"{module}.py").write_text("x = 0\n")
    return folder
