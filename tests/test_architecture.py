"""The rules of docs/architecture.md, read from the source: who imports whom, where a module is tested, how large a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "anomaly_suite"
FILES = sorted(PACKAGE.rglob("*.py"))

BOTTOM = {"errors", "options", "codes", "tracing"}
ALLOWED = {
    "errors": set(),
    "codes": set(),
    "annotations": {"errors"},
    "options": {"annotations", "errors", "ranges"},
    "ranges": {"errors"},
    "tensor_files": {"io", "errors"},
    "tracing": set(),
    "io": {"io", "errors"},
    "contract": {"contract", "io", "tensor_files", *BOTTOM},
    "nn": {"nn", "io", "tensor_files", *BOTTOM},
    "losses": {"nn", *BOTTOM},
    "augment": {"augment", *BOTTOM},
    "methods": {"methods", "nn", "losses", "augment", "contract", *BOTTOM},
    "data": {"data", "contract", "augment", "io", *BOTTOM},
    "metrics": {"metrics", *BOTTOM},
    "callbacks": {"callbacks", "metrics", "contract", "nn", "io", *BOTTOM},
    "__init__": {"deploy"},  # when it is asked
    "deploy": {"deploy", "callbacks", "methods", "data", "contract", "nn", "io", "__version__", *BOTTOM},
    "testing": {"testing", "methods", "data", "callbacks", "metrics", "contract", *BOTTOM},
    "adapters": {"adapters", "contract", *BOTTOM},
    "benchmark": {"benchmark", "contract", "io", *BOTTOM},
    "features": {"features", "nn", "io", "contract", "__version__", *BOTTOM},
    "report": {"report", "callbacks", "io", "errors"},  # callbacks where it looks for original videos
    "cli": {
        "adapters",
        "cli",
        "benchmark",
        "deploy",
        "methods",
        "data",
        "callbacks",
        "features",
        "metrics",
        "report",
        "contract",
        "io",
        "ranges",
        "tensor_files",
        "__version__",
        *BOTTOM,
    },
}
LATE = {"anomalib", "h5py", "matplotlib", "onnx", "onnxruntime", "pandas", "pyarrow", "ray", "tensorboard"}
FOREIGN = {  # what a part does without
    "io": {"torch", "lightning", "torchvision", "timm"},
    "nn": {"lightning"},
    "losses": {"lightning"},
    "augment": {"lightning"},
    "metrics": {"lightning"},
    "methods": {"torchmetrics", "cv2", "albumentations"},
}
LONGEST = 400  # lines of a file
MOST = 60  # of a function
OPEN_CONSTRUCTORS = {"NewPicturesCLI", "SuiteCLI", "SuiteParser"}  # they pass on what Lightning's own classes take

TESTED_ELSEWHERE = {  # modules without a test file at the mirrored path, and where they are tested
    "adapters/anomalib_views.py": "adapters/test_anomalib_model.py",
    "benchmark/cells.py": "benchmark/test_grid.py",
    "benchmark/folder.py": "benchmark/test_driver.py",
    "benchmark/outcome.py": "benchmark/test_tables.py",
    "benchmark/plots.py": "benchmark/test_ranks.py",
    "benchmark/progress.py": "benchmark/test_driver.py",
    "benchmark/settings.py": "benchmark/test_grid.py",
    "callbacks/drawing.py": "callbacks/test_overlay.py",
    "callbacks/metrics/image.py": "callbacks/metrics/test_anomaly_metrics.py",
    "callbacks/metrics/level.py": "callbacks/metrics/test_anomaly_metrics.py",
    "callbacks/metrics/pixel.py": "callbacks/metrics/test_anomaly_metrics.py",
    "callbacks/metrics/scene.py": "callbacks/metrics/test_anomaly_metrics.py",
    "callbacks/metrics/video.py": "callbacks/metrics/test_anomaly_metrics.py",
    "callbacks/passes.py": "callbacks/metrics/test_components.py",
    "callbacks/processes.py": "callbacks/test_table.py",
    "callbacks/values.py": "callbacks/test_writing.py",
    "cli/options.py": "cli/verbs/test_benchmark.py",
    "cli/run_config.py": "cli/test_lightning.py",
    "cli/placed.py": "cli/test_run_folders.py",
    "cli/planned.py": "cli/verbs/test_chain.py",
    "codes.py": "contract/test_scenes.py",
    "contract/monitors.py": "callbacks/test_monitors.py",
    "data/images/cifar10.py": "data/images/test_torchvision_sets.py",
    "data/images/drawn_masks.py": "data/images/test_folder.py",
    "data/images/fashion_mnist.py": "data/images/test_torchvision_sets.py",
    "data/images/item.py": "data/images/test_folder.py",
    "deploy/graph.py": "deploy/test_export.py",
    "deploy/onnx_predictor.py": "deploy/test_export.py",
    "deploy/streams.py": "deploy/test_predictor.py",
    "data/preparation.py": "data/test_new_pictures.py",
    "data/images/mnist.py": "data/images/test_torchvision_sets.py",
    "testing/data_modules.py": "testing/test_testing.py",
    "testing/foreign.py": "test_contract.py",
    "testing/methods.py": "testing/test_testing.py",
    "testing/report.py": "testing/test_testing.py",
    "methods/few_shot/labelled_scorer.py": "methods/few_shot/test_fsad_net.py",
    "metrics/checks.py": "metrics/test_ranking.py",
    "metrics/levels.py": "callbacks/metrics/test_anomaly_metrics.py",
    "metrics/regions.py": "metrics/test_aupro.py",
}
ACROSS = {  # tests of more than one module
    "cli/test_foreign.py",
    "contract/test_run_ends.py",
    "contract/test_long_videos.py",
    "contract/test_export.py",
    "contract/test_labels.py",
    "contract/test_state_dict.py",
    "contract/test_compile.py",
    "data/test_signatures.py",
    "methods/pretraining/test_ablations.py",
    "methods/test_published_defaults.py",
    "contract/test_unreadable.py",
    "contract/test_values.py",
    "test_architecture.py",
    "test_contract.py",
    "test_dist.py",
    "test_docs.py",
    "test_golden.py",
    "test_notebooks.py",
    "test_readme.py",
    "test_sample_configs.py",
    "testing/test_testing.py",
}


@cache  # of every file: five tests walk all
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of modules, or of what is imported from a top-level package."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if "." in node.module else {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own_imports(file: Path) -> set[str]:
    return {name for name in imported(tree_of(file)) if name.startswith("anomaly_suite.")}


def files_with(found: Callable[[Path], object]) -> dict[str, object]:
    """What was found, by file; nothing for a file without."""
    return {str(file.relative_to(PACKAGE)): what for file in FILES if (what := found(file))}


# Imports -----------------------------------------------------------------------------------------------------------------


def test_every_part_has_its_rule() -> None:
    assert {part_of(file) for file in FILES} == ALLOWED.keys()


def test_imports_run_one_way() -> None:
    def forbidden(file: Path) -> set[str]:
        return {name for name in own_imports(file) if name.split(".")[1] not in ALLOWED.get(part_of(file), set())}

    assert files_with(forbidden) == {}


def test_packages_that_a_part_does_without() -> None:
    def forbidden(file: Path) -> set[str]:
        return {name.split(".")[0] for name in imported(tree_of(file))} & FOREIGN.get(part_of(file), set())

    assert files_with(forbidden) == {}


def test_networks_know_nothing_of_files_but_where_a_run_keeps_its_weights() -> None:
    used = {file.name: own_imports(file) for file in FILES if part_of(file) == "nn"}
    files = {name: {module for module in modules if ".io" in module} for name, modules in used.items()}
    assert {name: modules for name, modules in files.items() if modules} in (
        {},
        {"weights.py": {"anomaly_suite.io.runs"}},
    )


def test_rarely_needed_packages_are_imported_where_used() -> None:
    def early(file: Path) -> set[str]:
        outside = [node for node in tree_of(file).body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
        return {name.split(".")[0] for name in imported(ast.Module(outside, []))} & LATE

    assert files_with(early) == {}


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["list", "methods"], ["fit", "--model.help", "PaDiM"]])
def test_quick_verbs_load_neither_torch_nor_lightning(words: list[str]) -> None:
    code = (
        "import sys\nfrom anomaly_suite.cli import main\n"
        f"main({words!r})\n"
        "print('slow:', sorted({'torch', 'lightning', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "slow: []"


# Tests -------------------------------------------------------------------------------------------------------------------


def mirrored(file: Path) -> Path:
    """Where the tests of a module are: ``nn/gaussian.py`` -> ``tests/nn/test_gaussian.py``."""
    path = file.relative_to(PACKAGE)
    return path.with_name(f"test_{path.name}")


def test_every_module_has_its_test_file() -> None:
    modules = {str(file.relative_to(PACKAGE)): mirrored(file) for file in FILES if file.stem != "__init__"}
    missing = {module for module, test in modules.items() if not (TESTS / test).is_file()}
    assert sorted(missing - TESTED_ELSEWHERE.keys()) == [], (
        "write the file, or say in TESTED_ELSEWHERE where it is tested"
    )
    assert sorted(TESTED_ELSEWHERE.keys() - missing) == [], (
        "these have a test file now, or are no modules: strike them out"
    )
    assert {test for test in TESTED_ELSEWHERE.values() if not (TESTS / test).is_file()} == set()


def test_every_test_file_has_its_module() -> None:
    tests = {file.relative_to(TESTS) for file in TESTS.rglob("test_*.py")}
    folders = {file.parent for file in FILES if file.stem == "__init__"} - {PACKAGE}
    packages = {mirrored(folder.with_suffix(".py")) for folder in folders}
    known = {mirrored(file) for file in FILES} | packages | {Path(name) for name in ACROSS}
    benchmarks = {Path("benchmarks") / f"test_{file.name}" for file in (TESTS.parent / "benchmarks").glob("*.py")}
    assert sorted(map(str, tests - known - benchmarks)) == [], "what these test is gone or moved: move them along"


# Style -------------------------------------------------------------------------------------------------------------------


def test_files_are_read_in_one_sitting() -> None:
    def too_long(file: Path) -> int:
        lines = file.read_text(encoding="utf-8").count("\n")
        return lines if lines > LONGEST else 0

    assert files_with(too_long) == {}, "each knows more than one thing: cut it there"


def test_no_function_is_long() -> None:
    """Less its docstring, for that tells of every option."""

    def too_long(file: Path) -> list[str]:
        found = [node for node in ast.walk(tree_of(file)) if isinstance(node, ast.FunctionDef)]
        lines = [
            (node.name, (node.end_lineno or 0) - node.lineno + 1 - (ast.get_docstring(node) or "").count("\n"))
            for node in found
        ]
        return [name for name, count in lines if count > MOST]

    assert files_with(too_long) == {}, "cut it into parts with names, or pack what is only handed on (# fmt: skip)"


def test_errors_are_raised_not_asserted() -> None:
    def asserted(file: Path) -> list[int]:
        return [node.lineno for node in ast.walk(tree_of(file)) if isinstance(node, ast.Assert)]

    assert files_with(asserted) == {}, "assert vanishes under python -O"


def constructors(file: Path) -> Iterator[tuple[str, ast.arguments]]:
    for cls in tree_of(file).body:
        if isinstance(cls, ast.ClassDef) and not cls.name.startswith("_") and cls.name not in OPEN_CONSTRUCTORS:
            for node in cls.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    yield cls.name, node.args


def test_public_constructors_name_and_type_every_option() -> None:
    def hidden(file: Path) -> dict[str, list[str]]:
        found = {}
        for name, signature in constructors(file):
            options = [
                arg for arg in (*signature.posonlyargs, *signature.args, *signature.kwonlyargs) if arg.arg != "self"
            ]
            untyped = [arg.arg for arg in options if arg.annotation is None]
            found[name] = untyped + ([f"**{signature.kwarg.arg}"] if signature.kwarg else [])
        return {name: options for name, options in found.items() if options}

    assert files_with(hidden) == {}
