"""What a program, and what its run shows, depend on: a digest that says whether both are known.

It covers the exported graph, in which the weights are, and all that turns it into a program: the
files of torch and ExecuTorch, torch's settings and kernels, and this package's own code. Whatever
cannot be told by it, such as a library that is patched while it runs, has no key.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import platform
import sys
import sysconfig
import types
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node

import peft_regress
from peft_regress.measure.edge.contents import Digest, bytes_digest, form_of
from peft_regress.measure.edge.settings import registrations, torch_settings
from peft_regress.runs.environment import describe_machine, installed_packages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from peft_regress.measure.edge.export import Exported

_LIBRARIES: Final = ("executorch", "torch", "torchao")
_CODE: Final = (".py", ".so", ".yaml", ".json", ".fbs")
_OWN_CODE: Final = (
    "cost/batches.py",
    "cost/module_trail.py",
    "cost/refusals.py",
    "cost/storages.py",
    "measure/edge/contents.py",
    "measure/edge/settings.py",
    "measure/edge/costs.py",
    "measure/edge/eager.py",
    "measure/edge/errors.py",
    "measure/edge/export.py",
    "measure/edge/kept.py",
    "measure/edge/key.py",
    "measure/edge/names.py",
    "measure/edge/package.py",
    "measure/edge/plan.py",
    "measure/edge/program.py",
    "measure/edge/runtime.py",
    "measure/edge/runtime_process.py",
    "measure/invariants/facts.py",
    "measure/invariants/outputs.py",
    "measure/trees.py",
)
"""What of this project exports, plans, runs and compares. A test walks the imports."""
_CONFIGURATIONS: Final = ("torch._functorch.config", "torch.fx.experimental._config")
_VARIABLES: Final = ("ATEN_", "EXECUTORCH", "FLATC", "MKL", "OMP_", "PYTORCH", "TORCH")


def program_key(exported: Exported) -> str | None:
    """Return the key of a program; None if it may depend on what no key covers."""
    if _is_patched():
        return None
    digest = Digest()
    for part in (libraries(), torch_settings(), _variables(), _kernels(), _configurations()):
        digest.add(part)
    digest.add((exported.trains, sorted(exported.labels.items())))
    graph = exported.graph
    digest.add((str(graph.graph_signature), str(graph.call_spec), str(graph.range_constraints)))
    for name, module in graph.graph_module.named_modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                digest.add((name, *_node(node)))
    storages: dict[int, int] = {}
    for name, value in (*graph.state_dict.items(), *graph.constants.items()):
        digest.add((name, *_content(value, storages)))
    return digest.hexdigest()


def run_key(program: str, values: Iterable[object]) -> str:
    """Return the key of a run of a program on this machine.

    values: all that the run and its comparison use: trees of tensors, and plain values.
    """
    digest = Digest()
    digest.add((program, describe_machine().digest))
    for value in values:
        digest.add(_value(value))
    return digest.hexdigest()


def _node(node: Node) -> Iterator[object]:
    yield node.op
    yield node.name
    yield str(node.target)
    yield node.args
    yield sorted(node.kwargs.items())
    yield _value(node.meta.get("val"))
    # The plan is split by these.
    yield [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def _content(value: object, storages: dict[int, int]) -> tuple[object, ...]:
    if not isinstance(value, Tensor):
        return type(value).__name__, repr(value)
    storage = storages.setdefault(value.untyped_storage().data_ptr(), len(storages))
    return storage, value.storage_offset(), form_of(value), bytes_digest(value)


def _value(value: object) -> object:
    """Return what tells a value apart: of a fake tensor its form, of a real one its bytes too."""
    if isinstance(value, Tensor):
        form = (*form_of(value), str(value.device))
        return form if isinstance(value, FakeTensor) else (*form, bytes_digest(value))
    if isinstance(value, tuple | list):
        return [_value(each) for each in value]
    if isinstance(value, dict):
        return [(name, _value(each)) for name, each in value.items()]
    return repr(value)


@functools.cache
def libraries() -> tuple[object, ...]:
    """Return what is installed of all that exports, plans and runs; files that change are seen."""
    found: list[object] = [
        platform.python_version(),
        sorted(installed_packages("executorch").items()),
    ]
    for name in _LIBRARIES:
        found += [(name, _files_digest(Path(folder))) for folder in _folders(name)]
    code = hashlib.sha256()
    package = Path(next(iter(peft_regress.__path__)))
    for path in _OWN_CODE:
        code.update(path.encode() + (package / path).read_bytes())
    return (*found, code.hexdigest())


def _folders(package: str) -> list[str]:
    spec = find_spec(package)
    return list(spec.submodule_search_locations or ()) if spec else []


def _files_digest(folder: Path) -> str:
    """Digest the names, sizes and times of the code in a folder: 7,000 files take 0.3 s."""
    lines = []
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(_CODE) or ".so." in name:
                path = os.path.join(parent, name)  # noqa: PTH118  (much faster here)
                status = os.stat(path)  # noqa: PTH116
                lines.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


def _variables() -> list[tuple[str, str]]:
    return sorted(each for each in os.environ.items() if each[0].startswith(_VARIABLES))


def _kernels() -> str:
    names = (name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aten::"))  # noqa: SLF001
    digest, _ = registrations(
        name.replace("::", ".") + ("" if "." in name else ".default") for name in names
    )
    return digest


def _configurations() -> list[bytes]:
    return [importlib.import_module(name).get_hash() for name in _CONFIGURATIONS]


def _is_patched() -> bool:
    """Return whether a function of the libraries is one that neither they nor Python brought."""
    homes = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    homes |= {str(Path(folder).parent) for name in _LIBRARIES for folder in _folders(name)}
    own = {str(Path(folder)) for folder in peft_regress.__path__}
    return any(
        not file.startswith("<") and (not _is_below(file, homes) or _is_below(file, own))
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in _LIBRARIES and isinstance(module, types.ModuleType)
        for file in _files_of_functions(name, vars(module))
    )


def _files_of_functions(module: str, content: Mapping[str, Any]) -> Iterator[str]:
    for value in list(content.values()):
        if type(value) is types.FunctionType:
            yield value.__code__.co_filename
        elif issubclass(type(value), type) and value.__module__ == module:
            for each in list(vars(value).values()):
                if type(each) is types.FunctionType:
                    yield each.__code__.co_filename


def _is_below(file: str, folders: Iterable[str]) -> bool:
    return file.startswith(tuple(f"{folder}{os.sep}" for folder in folders))
