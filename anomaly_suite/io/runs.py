"""Runs: where a fit left its configuration and its checkpoint."""

from __future__ import annotations

from pathlib import Path

from anomaly_suite.errors import CheckpointError, DatasetNotFoundError


def find_run(path: str | Path) -> Path:
    """The run folder meant by ``path``: itself, or the newest ``version_*`` folder below it that holds a config.yaml.

    Raises:
        DatasetNotFoundError: there is none.
    """
    root = Path(path)
    if (root / "config.yaml").is_file():
        return root
    versions = [file.parent for file in root.rglob("version_*/config.yaml")]
    if not versions:
        raise DatasetNotFoundError(
            f"no run (a folder with config.yaml) in {str(path)!r}. Give the folder that fit wrote."
        )
    return max(versions, key=lambda folder: (folder / "config.yaml").stat().st_mtime)


def find_checkpoint(folder: Path) -> Path:
    """``checkpoints/model.ckpt`` of a run folder, or its newest checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    chosen = folder / "checkpoints" / "model.ckpt"
    # Names that begin with a dot are those of files that were cut while they were written.
    whole = [file for file in folder.rglob("*.ckpt") if not file.name.startswith(".")]
    found = [chosen] if chosen.is_file() else sorted(whole, key=lambda file: file.stat().st_mtime)
    if not found:
        raise CheckpointError(f"no checkpoint in {folder}. Was the fit stopped early? Give one with --ckpt_path.")
    return found[-1]


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
