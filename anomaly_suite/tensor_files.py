"""Files written by ``torch.save``, and safetensors: read without running code from them; what cannot be read is told in one sentence."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_suite.errors import AnomalySuiteError
from anomaly_suite.io.regular import fault_of

_DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
"""Where NumPy 1 and 2 say that single numbers are made."""

_LFS = b"version https://git-lfs"


@contextlib.contextmanager
def numpy_numbers() -> Iterator[None]:
    """Let ``torch.load`` with ``weights_only`` read single NumPy numbers, such as a metric beside released weights, and nothing else."""
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [(scalar, f"{module}.scalar") for module in _NUMPY]
    allowed.append((np.dtype, "numpy.dtype"))
    allowed += [type(np.dtype(name)) for name in _DTYPES]
    with torch.serialization.safe_globals(allowed):
        yield


def read_tensor_file(
    path: str | Path, error: type[AnomalySuiteError], *, instead: str, map_location: Any = "cpu"
) -> Any:
    """What a file holds: tensors, numbers, texts, and mappings and lists of these.

    Args:
        path: Written by ``torch.save``, or a safetensors file with that suffix.
        error: Class of the error.
        instead: What to give instead, as the last sentence of the message.
        map_location: Device, or what else ``torch.load`` takes.

    Raises:
        AnomalySuiteError: of that class; there is no such file, or it cannot be read: names the file and says why.
    """
    file = Path(path)
    fault = fault_of(file) or _beginning_fault(file)
    if fault is None:
        try:
            return _read(file, map_location)
        except Exception as problem:  # a damaged pickle raises errors of any kind
            fault, cause = _reading_fault(problem), problem
            raise error(f"{path} must hold plain tensors, but it {fault}. {instead}") from cause
    raise error(f"{path} must hold plain tensors, but it {fault}. {instead}")


def _read(file: Path, map_location: Any) -> Any:
    if file.suffix == ".safetensors":
        return importlib.import_module("safetensors.torch").load_file(file)
    with numpy_numbers():
        return torch.load(file, map_location=map_location, weights_only=True)


def _beginning_fault(file: Path) -> str | None:
    """What is wrong with a file by its first bytes; None where they may be those of tensors."""
    try:
        with file.open("rb") as opened:
            head = opened.read(512)
    except OSError as error:
        return f"cannot be opened ({error.strerror})"
    if not head:
        return "is empty (0 bytes)"
    if head.startswith(_LFS):
        return "is a Git LFS pointer, not the file ('git lfs pull' fetches it)"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, as a failed download leaves it"
    printable = all(byte >= 32 or byte in b"\t\n\r" for byte in head)
    return (
        "is a text" if printable and file.suffix != ".safetensors" and not head.startswith((b"PK", b"\x80")) else None
    )


def _reading_fault(problem: Exception) -> str:
    """Why ``torch.load`` could not read a file, without its advice to switch the check off."""
    text = " ".join(str(problem).split())
    if "Weights only load failed" in text or "Unsupported" in text or "unrecognized" in text:
        named = next((part.split(" was ")[0].split(" ")[0] for part in text.split("GLOBAL ")[1:]), "")
        return f"holds {f'the object {named}' if named else 'objects'} beside tensors and plain values, which could run code, or is damaged"
    return f"is cut or damaged ({text.split('. ')[0][:120] or type(problem).__name__})"
