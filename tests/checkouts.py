"""Checkouts of packages that build without an index: their build backend is in them."""

_PROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
_BACKEND = """import zipfile
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    info = "{module}-{version}.dist-info"
    file = "{module}-{version}-py3-none-any.whl"
    wheel = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(Path(folder) / file, "w") as archive:
        for path in sorted([*Path().glob("{module}.py"), *Path("{module}").rglob("*.py")]):
            archive.write(path)
        archive.write("METADATA", f"{{info}}/METADATA")
        archive.writestr(f"{{info}}/WHEEL", wheel)
        archive.writestr(f"{{info}}/RECORD", "")
    return file
"""


def write_backend(folder, name, version, *, metadata):
    """Write what builds a wheel of the modules of a folder; return the name of the module."""
    module = name.replace("-", "_")
    (folder / "pyproject.toml").write_text(_PROJECT)
    (folder / "backend.py").write_text(_BACKEND.format(module=module, version=version))
    (folder / "METADATA").write_text(metadata)
    return module


def write_checkout(folder, name, version):
    """Write a checkout of a package of one module, and return its folder."""
    folder.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    module = write_backend(folder, name, version, metadata=metadata)
    (folder / f"{module}.py").write_text("x = 0\n")
    return folder
