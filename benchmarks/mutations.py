"""Put single faults into a copy of the package, one at a time, run the tests that should notice, and list those that none does.

    python benchmarks/mutations.py
    python benchmarks/mutations.py --jobs 2 --results mutations.jsonl
    python benchmarks/mutations.py --only padim --again --results mutations.jsonl
    python benchmarks/mutations.py --sound

The faults are those of ``mutants.py``. Tests of a fault are, in this order: doctests of its file, the test file at the mirrored path,
those that its entry names, and for a method the published defaults and the contract tests (``tests/contract``,
``tests/test_contract.py``) of its methods. The first failure ends the run of a fault. Processes are forked from one that has imported
torch and Lightning, so that a fault costs the time of its tests alone.

A fault is ``noticed`` if a test fails or takes longer than the time limit, and ``survived`` if all pass; any other end is an error, as is
a piece that does not stand in its file exactly once. With ``--results`` every outcome is appended to a file as a line of JSON, and faults
that have one there are not tried again, except survivors and errors with ``--again``. After a change of the package, begin a new file.
``--sound`` runs the same tests without faults: all must pass, or a failure says nothing.

Ends with 0 if at most 3 in 100 faults survived and there was no error.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import importlib
import json
import multiprocessing
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "anomaly_suite"
ALLOWED = 0.03  # share of the faults that may survive
WARM = (
    "torch",
    "torchvision",
    "timm",
    "lightning.pytorch",
    "torchmetrics",
    "sklearn.metrics",
    "cv2",
    "albumentations",
    "pytest",
)
CONTRACT = ("tests/contract", "tests/test_contract.py")
ENDS = {0: "survived", 1: "noticed"}  # by pytest's exit status
OUTPUT = 4000  # characters of a run's end that are kept where it is not understood


class Fault(NamedTuple):
    """One replacement: a file below the package, what stands there once, what replaces it, and names of more tests."""

    file: str
    old: str
    new: str
    more: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same fault in a file of results."""
        return self.file, self.old, self.new

    def __str__(self) -> str:
        return f"{self.file}: {self.old.strip()!r} -> {self.new.strip()!r}"


class Selection(NamedTuple):
    """Tests of a fault: paths in the order they run, and the methods whose contract tests are kept."""

    paths: tuple[str, ...]
    methods: tuple[str, ...]


def faults(table: Iterable[Sequence[str]] = MUTANTS) -> list[Fault]:
    """The table's entries."""
    return [Fault(file, old, new, tuple(" ".join(more).split())) for file, old, new, *more in table]


def problems(root: Path, found: Iterable[Fault]) -> list[str]:
    """What is wrong with faults, before any is tried."""
    out = []
    for fault in found:
        file = root / PACKAGE / fault.file
        count = file.read_text(encoding="utf-8").count(fault.old) if file.is_file() else 0
        if count != 1:
            out.append(f"{fault}: stands in the file {count} times, not once. Write the piece that is there now.")
        elif fault.old == fault.new:
            out.append(f"{fault}: changes nothing.")
        elif not any(path.startswith("tests/") for path in select(root, fault).paths):
            out.append(f"{fault}: no test file mirrors the file. Name one that tests it.")
        out += [
            f"{fault}: there is no tests/{name}."
            for name in fault.more
            if name.endswith(".py") and not (root / "tests" / name).is_file()
        ]
    return out


def methods_of(root: Path, file: str) -> list[str]:
    """Classes of a file that a family of methods exports."""
    init = (root / PACKAGE / file).parent / "__init__.py"
    if not file.startswith("methods/") or not init.is_file():
        return []
    exported = init.read_text(encoding="utf-8")
    classes = [
        node.name
        for node in ast.parse((root / PACKAGE / file).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    return [name for name in classes if re.search(rf'"{name}"', exported)]


def select(root: Path, fault: Fault) -> Selection:
    """The tests that should notice a fault."""
    relative = Path(fault.file)
    mirrored = Path("tests") / relative.with_name(f"test_{relative.name}")
    named = [f"tests/{name}" for name in fault.more if name.endswith(".py")]
    methods = [*methods_of(root, fault.file), *(name for name in fault.more if not name.endswith(".py"))]
    paths = [f"{PACKAGE}/{fault.file}", str(mirrored), *named]
    if methods:
        paths += ["tests/methods/test_published_defaults.py", *CONTRACT]
    return Selection(
        tuple(dict.fromkeys(path for path in paths if (root / path).exists())), tuple(dict.fromkeys(methods))
    )


# One run of the tests ----------------------------------------------------------------------------------------------------


class Chosen:
    """Plugin of pytest: of tests over all methods, keep those of some methods, and run fast files first."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Keep and sort what was collected."""
        # A fault in one place may be noticed by a test over all methods in a file of its own: those stay whole.
        over_methods = re.compile(
            r"\[(.*-)?(" + "|".join(map(re.escape, self.selection.methods or ("no method",))) + r")([- ].*)?\]"
        )
        shared = ("tests/contract/", "tests/test_contract.py", "tests/methods/test_published_defaults.py")
        mine = self.selection.paths[: -len(CONTRACT) - 1] if self.selection.methods else self.selection.paths
        items[:] = [
            item
            for item in items
            if not item.nodeid.startswith(shared)
            or item.nodeid.split("::")[0] in mine
            or over_methods.search(item.nodeid)
        ]
        items.sort(key=lambda item: item.get_closest_marker("slow") is not None)  # stable: else in the order given


def run_tests(root: Path, selection: Selection, log: Path, limit: float) -> None:
    """Run tests in this process, which is a child made for it, and leave it with pytest's exit status."""
    os.setsid()
    with log.open("w") as out:
        for number in (1, 2):
            os.dup2(out.fileno(), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(root)
    temporary = Path(tempfile.mkdtemp(dir=root.parent))
    tempfile.tempdir = None
    os.environ.update(PYTHONPATH=str(root), PYTHONDONTWRITEBYTECODE="1", TMPDIR=str(temporary))
    sys.dont_write_bytecode = True
    for name in [name for name in sys.modules if name.split(".")[0] in (PACKAGE, "tests", "tiny_runs", "conftest")]:
        del sys.modules[name]
    mine = {ROOT, Path(__file__).resolve().parent}
    sys.path[:] = [str(root), *(path for path in sys.path if path and Path(path).resolve() not in mine)]
    importlib.invalidate_caches()
    import pytest

    with contextlib.suppress(Exception):  # a fault may be found by now: its tests will say so
        for part in (
            "callbacks",
            "data",
            "methods",
        ):  # else pytest imports the file of the doctests a second time, and tests patch the other one
            importlib.import_module(f"{PACKAGE}.{part}")

    words = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--timeout={limit}",
        "--basetemp",
        str(temporary / "pytest"),
    ]
    status = int(pytest.main([*words, *selection.paths], plugins=[Chosen(selection)]))
    shutil.rmtree(temporary, ignore_errors=True)
    sys.stdout.flush()
    os._exit(status)


def first_failure(text: str) -> str:
    """The test that failed, from pytest's output."""
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    return found.group(1) if found else ""


@contextlib.contextmanager
def put_in(root: Path, fault: Fault | None) -> Iterator[None]:
    """A fault in a copy of the package, taken out again; None changes nothing."""
    if fault is None:
        yield
        return
    file = root / PACKAGE / fault.file
    sound = file.read_text(encoding="utf-8")
    file.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(sound, encoding="utf-8")


class Trial:
    """Tests of one fault in a process of their own, in one copy of the tree."""

    def __init__(self, root: Path, fault: Fault | None, selection: Selection, *, limit: float) -> None:
        self.fault, self.selection = fault, selection
        self.log = root.parent / f"{root.name}.log"
        self._fault = put_in(root, fault)
        self._fault.__enter__()
        self.start, self.limit = time.monotonic(), limit
        context = multiprocessing.get_context("fork")
        self.process: BaseProcess = context.Process(target=run_tests, args=(root, selection, self.log, limit))
        self.process.start()

    @property
    def overdue(self) -> bool:
        """Whether the limit is over."""
        return time.monotonic() - self.start > self.limit

    def end(self) -> dict[str, Any]:
        """Wait for the tests, or stop them after the limit; take the fault out again, and say what became of it."""
        late = self.process.is_alive()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(self.process.pid or 0), signal.SIGKILL)  # and what tests may have left
        self.process.join()
        self._fault.__exit__(None, None, None)
        text = self.log.read_text(encoding="utf-8", errors="replace")
        status = self.process.exitcode
        outcome = "noticed" if late else ENDS.get(status if status is not None else -1, "error")
        outcome = "error" if "ERROR collecting" in text else outcome  # no test has run
        by = "time limit" if late else first_failure(text)
        record = {"outcome": outcome, "by": by, "seconds": round(time.monotonic() - self.start, 1)}
        return record if outcome != "error" else {**record, "output": text[-OUTPUT:]}


# All faults --------------------------------------------------------------------------------------------------------------


def copy_tree(root: Path, folder: Path) -> None:
    """Copy what git knows of a tree, and what it does not ignore; compiled files that are checked by content, not by time."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = root / name, folder / name
        if source.is_file() and not name.startswith("shared/"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    compileall.compile_dir(
        str(folder / PACKAGE), quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
    )


def run(
    root: Path, todo: Sequence[tuple[Fault | None, Selection]], *, jobs: int, limit: float
) -> Iterator[tuple[Fault | None, Selection, dict[str, Any]]]:
    """Try faults, several at a time.

    Yields:
        Each fault with its tests and what became of it, in the order they end.
    """
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        free = [Path(folder) / f"copy-{number}" / "tree" for number in range(jobs)]
        for copy in free:
            copy_tree(root, copy)
        waiting, running = list(todo)[::-1], {}
        try:
            while waiting or running:
                while waiting and free:
                    copy = free.pop()
                    running[copy] = Trial(copy, *waiting.pop(), limit=limit)
                wait([trial.process.sentinel for trial in running.values()], timeout=1)
                for copy, trial in list(running.items()):
                    if trial.overdue or not trial.process.is_alive():
                        free.append(copy)
                        yield trial.fault, trial.selection, running.pop(copy).end()
        finally:
            for trial in running.values():
                trial.end()


def known(file: Path, *, again: bool) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Outcomes of a file of results, the last of each fault; only noticed faults if the others are to be tried again."""
    if not file.is_file():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    last = {(record["file"], record["old"], record["new"]): record for record in records}
    return {key: record for key, record in last.items() if not again or record["outcome"] == "noticed"}


def report(outcomes: dict[tuple[str, str, str], dict[str, Any]]) -> int:
    """Print what survived and what failed; the exit status."""
    groups: dict[str, list[dict[str, Any]]] = {"noticed": [], "survived": [], "error": []}
    for record in outcomes.values():
        groups[record["outcome"]].append(record)
    for name in ("survived", "error"):
        for record in groups[name]:
            print(f"{name}: {Fault(record['file'], record['old'], record['new'])}")
            if "output" in record:
                print(record["output"])
    print(", ".join(f"{len(records)} {name}" for name, records in groups.items()) + f" of {len(outcomes)} faults")
    return int(bool(groups["error"]) or len(groups["survived"]) > ALLOWED * len(outcomes))


def check_sound(root: Path, found: Sequence[Fault], *, jobs: int, limit: float) -> int:
    """Run all selections without a fault."""
    todo = [(None, selection) for selection in dict.fromkeys(select(root, fault) for fault in found)]
    broken = 0
    for number, (_, selection, record) in enumerate(run(root, todo, jobs=jobs, limit=limit), 1):
        broken += record["outcome"] != "survived"
        state = "pass" if record["outcome"] == "survived" else f"FAIL {record['by']}"
        print(
            f"{number}/{len(todo)} {record['seconds']:6.1f} s {state}: {' '.join(selection.paths)} {' '.join(selection.methods)}",
            flush=True,
        )
    return int(broken > 0)


def main(words: Sequence[str] | None = None, *, root: Path = ROOT, table: Iterable[Sequence[str]] = MUTANTS) -> int:
    parser = argparse.ArgumentParser(description="Faults that no test notices.")
    parser.add_argument("--only", default="", help="part of a fault's file or text, as a regular expression")
    parser.add_argument("--jobs", type=int, default=1, help="faults tried at a time; each takes one processor core")
    parser.add_argument("--timeout", type=float, default=240, help="seconds for the tests of a fault")
    parser.add_argument("--results", type=Path, help="file of outcomes, read and appended to")
    parser.add_argument("--again", action="store_true", help="try survivors and errors of the file again")
    parser.add_argument("--sound", action="store_true", help="run the tests without faults")
    parser.add_argument("--list", action="store_true", help="print the faults and their tests, and try none")
    options = parser.parse_args(words)
    found = [fault for fault in faults(table) if re.search(options.only, str(fault), re.IGNORECASE)]
    if wrong := problems(root, found):
        print("\n".join(wrong), file=sys.stderr)
        return 2
    if options.list:
        for fault in found:
            print(fault, "|", *select(root, fault).paths, *select(root, fault).methods)
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in WARM:
        importlib.import_module(name)
    if options.sound:
        return check_sound(root, found, jobs=options.jobs, limit=options.timeout)
    outcomes = known(options.results, again=options.again) if options.results else {}
    outcomes = {fault.key: outcomes[fault.key] for fault in found if fault.key in outcomes}
    todo = [(fault, select(root, fault)) for fault in found if fault.key not in outcomes]
    for number, (fault, _, record) in enumerate(run(root, todo, jobs=options.jobs, limit=options.timeout), 1):
        line = {"file": fault.file, "old": fault.old, "new": fault.new, **record} if fault else record
        outcomes[(line["file"], line["old"], line["new"])] = line
        if options.results:
            with options.results.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")
        print(
            f"{number}/{len(todo)} {record['seconds']:6.1f} s {record['outcome']}: {fault} {record['by']}", flush=True
        )
    return report(outcomes)


if __name__ == "__main__":
    sys.exit(main())
