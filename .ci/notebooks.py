"""Run the notebooks from top to bottom and store what they print and draw; what differs from one machine or moment to the next is left out.

``python .ci/notebooks.py [NAME...]`` needs ``nbclient`` and ``ipykernel``, which come with the extra ``docs``.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
LARGEST = 400_000  # bytes of a file


def _is_kept(output: dict[str, Any]) -> bool:
    """Whether an output is a picture, a value or printed text, and no warning or progress."""
    if output["output_type"] == "display_data":
        return "image/png" in output["data"]
    return output.get("name") != "stderr"


def run(file: Path) -> None:
    """Execute one notebook in an empty folder and write it back.

    Args:
        file: The notebook.

    Raises:
        SystemExit: it is too large afterwards; the file stays as it was.
    """
    notebook = nbformat.read(file, as_version=4)
    with tempfile.TemporaryDirectory() as desk:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": desk}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _is_kept(output)]
    notebook.metadata.language_info = {"name": "python"}
    text = nbformat.writes(notebook) + "\n"
    if len(text.encode()) > LARGEST:
        raise SystemExit(
            f"{file.name} may have {LARGEST} bytes; got {len(text.encode())}. Draw smaller or fewer pictures."
        )
    part = file.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)
    print(f"{file.name}: {len(text.encode()) // 1000} kB")


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for name in sys.argv[1:] or sorted(each.stem for each in (ROOT / "notebooks").glob("*.ipynb")):
        run(ROOT / "notebooks" / f"{name}.ipynb")
