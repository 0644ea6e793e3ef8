"""The import rules of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "anomaly_suite"
ALLOWED = {
    "nn": {"nn", "errors", "run_folders"},
    "losses": {"nn", "errors"},
    "augment": {"errors"},
    "snippets": {"errors"},
    "metrics": {"metrics", "errors"},
    "methods": {"methods", "nn", "losses", "augment", "snippets", "contract", "errors"},
    "data": {"data", "contract", "errors", "augment", "snippets"},
    "callbacks": {"callbacks", "metrics", "contract", "errors"},
    "contract": {"errors", "snippets"},
    "extraction": {"nn", "data", "callbacks", "snippets", "errors", "__version__"},
    "catalog": set(),
    "run_folders": {"errors"},
    "cli": {"catalog", "errors", "run_folders", "runner", "__version__"},
}
LATE = {"matplotlib", "pandas", "pyarrow", "onnx", "onnxruntime", "ray", "tensorboard"}
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if "." in node.module else {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_one_way(file: Path) -> None:
    part = part_of(file)
    used = {name.split(".")[1] for name in imported(ast.parse(file.read_text())) if name.startswith("anomaly_suite.")}
    if part in ALLOWED:
        assert used <= ALLOWED[part]
    if part != "runner":
        assert "cli" not in used


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_rarely_needed_packages_are_imported_where_used(file: Path) -> None:
    top_level = ast.Module(
        [node for node in ast.parse(file.read_text()).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)], []
    )
    assert not {name.split(".")[0] for name in imported(top_level)} & LATE


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list", "methods"]])
def test_quick_verbs_load_neither_torch_nor_lightning(words: list[str]) -> None:
    code = (
        "import sys\nfrom anomaly_suite.cli import main\n"
        f"main({words!r})\n"
        "print('slow:', sorted({'torch', 'lightning', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "slow: []"
