"""Runs: the folder of each, what it says of itself in ``run.json``, which of several is meant, and where its checkpoint is.

A run folder holds ``config.yaml``, ``run.json`` and ``checkpoints``, and what its tests and predictions write. Folders of programs before
``run.json`` are runs, too, where they are called ``version_<number>`` or are named themselves.
"""

from __future__ import annotations

import json
import os
import re
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from anomaly_suite.errors import CheckpointError, DatasetNotFoundError
from anomaly_suite.io.atomic import save_json

CONFIG, RECORD, LATEST = "config.yaml", "run.json", "latest"
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
CALIBRATED = "-calibrated"  # ends the name of a checkpoint with other thresholds
PARTS = ("category", "dataset", "flag", "subset", "variant", "normal_class")
"""Options of data modules that say which part of a data set a run is about, in the order in which its name has them."""

_RUN_LINE = "# run: "
_LONGEST = 60  # letters of a part of a folder's name


def read_record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says of a run; nothing where there is none, or no whole one.

    Keys: ``id``, which its checkpoints hold, too; ``state``, :data:`RUNNING`, :data:`FINISHED`, :data:`INTERRUPTED` or :data:`FAILED`, with
    ``error``; ``method``, ``data`` and ``seed``; ``started`` and ``ended``; ``host`` and ``pid`` of the process; ``checkpoint`` and
    ``calibrated``, a copy with other thresholds, relative to the folder; ``loggers``, their names for the run.
    """
    try:
        content = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def update_record(folder: Path, **changes: Any) -> None:
    """Change what ``run.json`` says.

    Args:
        folder: Of the run.
        changes: Values by key.

    Raises:
        FileWriteError: the file cannot be written.
    """
    save_json(folder / RECORD, {**read_record(folder), **changes})


def state_of(folder: Path) -> str:
    """How the fit of a run ended, see :func:`read_record`; of older runs, whether there is a checkpoint.

    A fit whose process is gone without a word, as after a loss of power, was interrupted.
    """
    record = read_record(folder)
    state = record.get("state")
    if state == RUNNING and record.get("host") == socket.gethostname() and not _lives(record.get("pid")):
        return INTERRUPTED
    if isinstance(state, str):
        return state
    try:
        find_checkpoint(folder)
    except CheckpointError:
        return INTERRUPTED
    return FINISHED


def _lives(pid: Any) -> bool:
    if os.name == "nt":  # where this call would stop it
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, TypeError):
        return False
    except OSError:
        return True  # somebody else's
    return True


def run_line(identity: str, checkpoint: str) -> str:
    """The comment in ``config.yaml`` that says which run it is of, and where its checkpoint is."""
    return f"{_RUN_LINE}{identity} checkpoint: {checkpoint}\n"


def identity_of(config: Path) -> str | None:
    """Which run a ``config.yaml`` is of; None where it does not say."""
    try:
        with config.open(encoding="utf-8") as file:
            lines = [file.readline() for _ in range(2)]
    except (OSError, ValueError):
        return None
    found = [line.removeprefix(_RUN_LINE).split() for line in lines if line.startswith(_RUN_LINE)]
    return found[0][0] if found and found[0] else None


def all_runs(root: Path) -> list[Path]:
    """All run folders in a folder and below it, those without ``config.yaml`` too, the oldest first."""
    files = [file for name in (RECORD, f"version_*/{CONFIG}") for file in root.rglob(name)]
    return sorted({file.parent for file in files}, key=_age)


def _age(folder: Path) -> float:
    for name in (CONFIG, RECORD):
        with suppress(OSError):
            return (folder / name).stat().st_mtime
    return 0.0


def find_run(path: str | Path) -> Path:
    """The run folder meant by ``path``: itself, or the newest below it, of a fit that was finished where there is one.

    Args:
        path: A run folder, a link to one, or a folder that holds runs.

    Raises:
        DatasetNotFoundError: there is none.
    """
    root = Path(path)
    if root.is_symlink():
        root = root.parent / os.readlink(root)
    elif root.name == LATEST and not root.exists():  # where there are no links
        root = root.parent
    if (root / CONFIG).is_file():
        return root
    runs = [folder for folder in all_runs(root) if (folder / CONFIG).is_file()]
    if not runs:
        raise DatasetNotFoundError(
            f"no run (a folder with config.yaml) in {str(path)!r}. Give the folder that fit wrote."
        )
    return ([folder for folder in runs if state_of(folder) == FINISHED] or runs)[-1]


def find_checkpoint(folder: Path, *, calibrated: bool = True) -> Path:
    """The checkpoint of a run: the one that ``calibrate`` wrote, ``checkpoints/model.ckpt``, the one that was named, or the newest.

    Args:
        folder: Of the run.
        calibrated: Whether to take new thresholds where there are some; those of the fit if False.

    Raises:
        CheckpointError: there is none.
    """
    record = read_record(folder)
    named = [record.get("calibrated")] if calibrated else []
    for name in (*named, "checkpoints/model.ckpt", record.get("checkpoint")):
        if isinstance(name, str) and (folder / name).is_file():
            return folder / name
    # Names that begin with a dot are those of files that were cut while they were written.
    found = [file for file in folder.rglob("*.ckpt") if not file.name.startswith(".") and _is_of(folder, file)]
    found = [file for file in found if not file.stem.endswith(CALIBRATED)] or found
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}. Was the fit stopped early? Give one with --ckpt_path.")
    return max(found, key=lambda file: file.stat().st_mtime)


def _is_of(folder: Path, file: Path) -> bool:
    """Whether no other run lies between a folder and a file below it."""
    between = file.relative_to(folder).parents
    return not any((folder / part / CONFIG).is_file() for part in between if part != Path())


def checkpoint_file(path: str | Path) -> Path:
    """The file meant by ``path``: a file itself, or the checkpoint of the newest run in a folder.

    Args:
        path: A checkpoint or file of weights, the folder of a run, or a folder that holds runs.

    Raises:
        DatasetNotFoundError: the folder holds no run.
        CheckpointError: the run has no checkpoint, or there is neither file nor folder.
    """
    given = Path(path)
    if given.is_dir():
        return find_checkpoint(find_run(path))
    if not given.is_file():
        raise CheckpointError(
            f"expected a checkpoint or the folder of a run; {str(path)!r} does not exist. Check the path."
        )
    return given


def data_name(name: str, options: Mapping[str, Any]) -> str:
    """What a data set is called in names of folders and sections: its class, and its category, class or part where it has some.

    Args:
        name: Class of the data module.
        options: Its options.

    Example:
        >>> data_name("MVTecAD", {"category": "bottle"}), data_name("MedMNIST", {"flag": "blood", "normal_class": 1})
        ('MVTecAD/bottle', 'MedMNIST/blood_1')
        >>> data_name("Folder", {"root": "images/screws"}), data_name("Cityscapes", {"root": "data"})
        ('Folder/screws', 'Cityscapes')
    """
    parts = [_plain(options[key]) for key in PARTS if options.get(key) is not None]
    place = options.get("root") or options.get("index")
    if not parts and "Folder" in name and place:  # one's own pictures have no other name
        parts = [_plain(Path(place).absolute().name)]
    return "/".join([name, *(["_".join(parts)] if any(parts) else [])])


def _plain(value: Any) -> str:
    text = "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return re.sub(r"[^\w+-]+", "_", text)[:_LONGEST].strip("_")


def new_folder(parent: Path, *, prefix: str = "", first: int = 1) -> Path:
    """Make the next numbered folder; of processes that ask at once, each gets its own.

    Args:
        parent: It, or the folders above it, may be missing.
        prefix: Before the number.
        first: Number of the first.
    """
    parent.mkdir(parents=True, exist_ok=True)
    names = [path.name.removeprefix(prefix) for path in parent.iterdir() if path.name.startswith(prefix)]
    number = max((int(name) + 1 for name in names if name.isdecimal()), default=first)
    while True:
        folder = parent / f"{prefix}{number}"
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def remove_if_empty(folder: Path, *, above: Path) -> None:
    """Remove a folder and those above it, as far as they are empty, but for ``above``."""
    for path in (folder, *folder.parents):
        if path == above:
            return
        try:
            path.rmdir()
        except OSError:
            return


def link_latest(folder: Path) -> None:
    """Let the link ``latest`` beside a run lead to it; a file system without links has none."""
    temporary = folder.parent / f".{uuid.uuid4().hex}"
    try:
        with suppress(OSError):
            temporary.symlink_to(folder.name, target_is_directory=True)
            os.replace(temporary, folder.parent / LATEST)
    finally:
        with suppress(OSError):
            temporary.unlink()
