"""The settings of torch that decide how an operator computes, and which kernels it has."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

_PYTHON_KERNEL: Final = re.compile(r"registered at (\S+\.py:|/dev/null)")
_NOT_RUN: Final = frozenset({"Meta", "debug"})
"""`debug` is the schema's place, which stands in the overload."""


def torch_settings() -> dict[str, Any]:
    """Return what is set for the whole process, except the number of threads."""
    backends: Any = torch.backends
    # A product that is denormal: zero where they are flushed.
    tiny = torch.tensor([1e-40]).mul(1.0).item()
    return {
        "default_dtype": str(torch.get_default_dtype()),
        "default_device": str(torch.get_default_device()),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "autocast": {
            device: (torch.is_autocast_enabled(device), str(torch.get_autocast_dtype(device)))
            for device in ("cpu", "cuda")
        },
        "autocast_cache": torch.is_autocast_cache_enabled(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        ),
        "mkldnn": (
            torch._C._get_mkldnn_enabled(),  # noqa: SLF001
            backends.mkldnn.is_available(),
        ),
        "precisions": _precisions(),
        "quick": quick_settings()[2:],
        "nnpack": torch._C._get_nnpack_enabled(),  # noqa: SLF001
        "cudnn": (backends.cudnn.enabled, backends.cudnn.deterministic, backends.cudnn.benchmark),
        "tf32": (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32),
        "attention": (
            backends.mha.get_fastpath_enabled(),
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "flushes_denormals": tiny == 0,
    }


_ONE, _DENORMAL = 1.0, 5e-324


def quick_settings() -> tuple[Any, ...]:
    """Return settings of kernels that torch has no public name for."""
    return (
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch._C._get_mkldnn_enabled(),  # noqa: SLF001
        torch._C._get_deterministic_algorithms(),  # noqa: SLF001
        _DENORMAL * _ONE == 0,  # where they are flushed
        *(get() for get in _GETTERS),
    )


_GETTERS: Final = [
    getattr(torch._C, name)  # noqa: SLF001
    for name in ("_get_mkldnn_deterministic", "_get_onednn_allow_tf32", "_get_math_sdp_enabled",
                 "_get_flash_sdp_enabled", "_get_math_sdp_allow_fp16_bf16_reduction")
    if hasattr(torch._C, name)  # noqa: SLF001
]  # fmt: skip


def _precisions() -> list[str]:
    """Return how float32 may be shortened, by part, where torch tells it."""
    get = getattr(torch._C, "_get_fp32_precision_getter", None)  # noqa: SLF001
    if get is None:
        return []
    general = [get("mkldnn", "all"), get("generic", "all"), "ieee"]
    return [
        next(one for one in (get("mkldnn", part), *general) if one != "none")
        for part in ("matmul", "conv", "rnn")
    ]


def registrations(operators: Iterable[str]) -> tuple[str, list[str]]:
    """Return a digest of the kernels of operators, and the operators with a kernel in Python.

    A kernel in Python is code that its operator's name does not tell. Kernels that only fake
    tensors use, and those that another one replaced, do not count.
    """
    digest = hashlib.sha256()
    in_python = []
    for name in sorted(operators):
        namespace, _, rest = name.partition(".")
        packet, _, overload = rest.partition(".")
        full = f"{namespace}::{packet}" + ("" if overload == "default" else f".{overload}")
        digest.update(full.encode())
        for line in torch._C._dispatch_dump(full).splitlines():  # noqa: SLF001
            key = line.partition(":")[0]
            if "registered at" not in line or key in _NOT_RUN or "(inactive)" in key:
                continue
            digest.update(line.encode())
            if _PYTHON_KERNEL.search(line):
                in_python.append(name)
    return digest.hexdigest(), sorted(set(in_python))
