"""Files that claim to be checkpoints or weights, and what is said of each."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


UNREADABLE = {  # by kind, how the sentence goes on after the file's name
    "cut": "is cut or damaged",
    "cut in half": "is cut or damaged",
    "empty": "is empty (0 bytes)",
    "text": "is a text",
    "html": "is a web page",
    "lfs": "is a Git LFS pointer",
    "noise": "",
    "folder": "is a folder",
    "pipe": "is a pipe",
    "malicious": "holds",
    "module": "holds the object torch.nn.modules.linear.Linear",
    "absent": "does not exist",
}


def write_unreadable(kind: str, folder: Path, name: str = "model.ckpt", whole: bytes | None = None) -> Path:
    """A file of a kind; unpickling a malicious one makes the folder ``ran``.

    Args:
        kind: See ``UNREADABLE``.
        folder: Where to write.
        name: Name of the file.
        whole: Bytes of a whole file, to be cut.
    """
    file = folder / name
    if whole is None:
        content = io.BytesIO()
        torch.save({"state_dict": {"a": torch.ones(1000)}}, content)
        whole = content.getvalue()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind in ("malicious", "module"):
        value = torch.nn.Linear(1, 1) if kind == "module" else Malicious(folder / "ran")
        torch.save({"state_dict": {"a": torch.ones(1)}, "more": value}, file)
    elif kind != "absent":
        texts = {
            "cut": whole[:-20],
            "cut in half": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"Weights are on request.\n",
            "html": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
            "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "noise": bytes(range(256)) * 4,
        }
        file.write_bytes(texts[kind])
    return file
