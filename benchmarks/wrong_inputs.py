"""What users get wrong, one input at a time, as they would give it: how many end in one sentence that says what to do?

    python benchmarks/wrong_inputs.py
    python benchmarks/wrong_inputs.py --results wrong.jsonl          # goes on where it was stopped
    python benchmarks/wrong_inputs.py --only "trainer|FAnoGAN" --list

The inputs are those of ``wrong_inputs_table.py`` and, around new pictures and exported files, of ``wrong_inputs_use.py`` (kind ``use``). Command lines run through ``anomaly_suite.cli.main``, Python lines as they stand, each
in a process forked from one that has imported everything, in an empty folder, on tiny data.

A case ends in a ``sentence`` if it is refused by an error of the package, at the command line with an exit status and without a
traceback. Otherwise it ends in a ``traceback`` (an error of another package, or of Python), is ``accepted`` as if nothing were wrong,
``hangs``, or is ``untidy``: a sentence of several lines or of a few words.

Ends with 0 if all end in a sentence.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import wrong_inputs_table as table
import wrong_inputs_use as use

KINDS = ("sentence", "traceback", "accepted", "hangs", "untidy")
LIMIT = 60  # seconds of a case
SHORTEST = 25  # characters of a sentence that says something
PREFIX = "anomaly-suite: "


class Case(NamedTuple):
    """A command line (``words``) or Python lines (``code``), and the files that lie in its folder."""

    kind: str
    name: str
    words: tuple[str, ...] = ()
    code: str = ""
    files: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """What it is called in a file of results."""
        return f"{self.kind}: {self.name}"


# The cases of the table --------------------------------------------------------------------------------------------------


def cases() -> list[Case]:
    """All cases, in the order of the table, each once."""
    found = [*_command_lines(), *_configurations(), *_folders(), *_options(), *_batches(), *_calls()]
    return list({case.key: case for case in found}.values())


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def _command_lines() -> Iterator[Case]:
    for line in _lines(table.COMMANDS):
        yield Case("command", line, _words(line))
    for line in _lines(table.FIT):
        yield Case("fit", line, ("fit", *_words(table.RUN), *_words(line)))
    for line in _lines(table.LATER):
        verb, _, rest = line.partition(" ")
        yield Case("later", line, (verb, "--run", "{run}", *_words(rest)))
    for line in use.lines():
        words = [word for part in _words(line) for word in (_words(table.RUN) if part == "{fit}" else (part,))]
        yield Case("use", line, tuple(words), files=use.FILES)


def _words(line: str) -> tuple[str, ...]:
    """Words as a shell would split them, in single quotes where they hold spaces."""
    return tuple(word.strip("'") for word in re.findall(r"(?:[^\s']|'[^']*')+", line))


def _configurations() -> Iterator[Case]:
    for text in table.SECOND_FILES:
        words = ("fit", "--config", "first.yaml", "--config", "second.yaml")
        files = (("first.yaml", "text:" + table.FIRST_FILE), ("second.yaml", "text:" + text))
        yield Case("second file", text, words, files=files)
    for text in table.FILES:
        yield Case("file", text, ("fit", "--config", "only.yaml"), files=(("only.yaml", "text:" + text),))


def _folders() -> Iterator[Case]:
    for data, options, files in table.FOLDERS:
        model = table.MODEL_OF.get(data, table.IMAGE_MODEL)
        verb = "test" if "--untrained" in options else "fit"
        words = (verb, *_words(model), "--data", data, *_words(options), *_words(table.SHORT))
        listed = tuple((path, spec) for path, _, spec in (line.partition("=") for line in _lines(files)))
        yield Case("folder", f"{data} {options} {' '.join(_lines(files)) or 'nothing'}", words, files=listed)


def _options() -> Iterator[Case]:
    for owner, wrong in table.OPTIONS.items():
        for line in _lines(wrong):
            yield Case("option", f"{owner}({line})", code=f"{owner}({line})")


def _batches() -> Iterator[Case]:
    for methods, batches in table.BATCHES:
        for method in methods.split():
            for how, wrong in batches.items():
                for line in _lines(wrong):
                    yield Case("batch", f"{method} {how} {line}", code=table.HOW[how].format(method=method, batch=line))


def _calls() -> Iterator[Case]:
    for line in _lines(table.CALLS):
        yield Case("call", line, code=line)


# One case ----------------------------------------------------------------------------------------------------------------


def place_files(folder: Path, files: Sequence[tuple[str, str]]) -> None:
    """Write the files of a case: ``text:``, ``image`` or ``image:H,W``, ``mask``, ``npy:shape``, ``bytes:`` or ``folder``."""
    import numpy as np
    from PIL import Image

    for number, (name, spec) in enumerate(files):
        kind, _, rest = spec.partition(":")
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(number)
        if kind == "folder":
            file.mkdir(exist_ok=True)
        elif kind == "npy":
            np.save(file, draw.random([int(side) for side in rest.split(",")], np.float32))
        elif kind in ("image", "mask"):
            size = [int(side) for side in rest.split(",")] if rest else [16, 16]
            pixels = draw.integers(0, 255, (*size, 3), np.uint8)
            Image.fromarray(pixels if kind == "image" else (pixels[..., 0] > 127).astype(np.uint8) * 255).save(file)
        elif kind == "bytes":
            file.write_bytes(bytes.fromhex(rest))
        else:
            file.write_text(rest.replace("\\n", "\n"), encoding="utf-8")


def run_words(words: Sequence[str]) -> tuple[str, str]:
    """How a command line ends, and what it says."""
    from anomaly_suite.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["anomaly-suite", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
    except BaseException as error:
        return "traceback", short(error)
    said = [line for line in err.getvalue().splitlines() if line.startswith(PREFIX)]
    if code == 0:
        return "accepted", (err.getvalue() or out.getvalue())[-300:]
    if "Traceback" in err.getvalue() or len(said) != 1:
        return "untidy", err.getvalue()[-600:]
    if not err.getvalue().rstrip().endswith(said[0]):
        return "untidy", err.getvalue()[err.getvalue().index(said[0]) :][:600]
    return tidy(said[0].removeprefix(PREFIX).partition(": ")[2])


def run_code(code: str) -> tuple[str, str]:
    """How Python lines end, and what the error says."""
    from anomaly_suite.errors import AnomalySuiteError

    names = namespace()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            exec(compile(code, "case", "exec"), names)
    except AnomalySuiteError as error:
        return tidy(str(error))
    except BaseException as error:
        return "traceback", short(error)
    return "accepted", ""


def tidy(sentence: str) -> tuple[str, str]:
    """A sentence, if it is one."""
    return ("untidy" if "\n" in sentence.strip() or len(sentence) < SHORTEST else "sentence"), sentence


def short(error: BaseException) -> str:
    """Class, beginning of the message, and the last line of the package that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "anomaly_suite/" in frame.filename]
    place = f"{ours[-1].filename.split('anomaly_suite/')[-1]}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]} [{place}]"


def namespace() -> dict[str, Any]:
    """What Python lines can name: all that the package exports, torch, numpy, and the helpers of the table."""
    import lightning.pytorch
    import numpy
    import torch

    import anomaly_suite.callbacks
    import anomaly_suite.contract
    import anomaly_suite.data
    import anomaly_suite.features
    import anomaly_suite.methods
    import anomaly_suite.metrics

    names: dict[str, Any] = {"torch": torch, "np": numpy, "Path": Path, "Trainer": lightning.pytorch.Trainer}
    names |= {"nan": float("nan"), "inf": float("inf"), "L": lightning.pytorch.callbacks}
    packages = ("methods", "data", "callbacks", "contract")
    for package in packages:
        module = getattr(anomaly_suite, package)
        names |= {name: getattr(module, name) for name in module.__all__}
    names["metrics"] = anomaly_suite.metrics
    names |= {name: getattr(table, name) for name in table.HELPERS}
    return names


def work(case: Case, shared: Mapping[str, str], folder: Path, pipe: Connection) -> None:
    """Run a case in this process, which is forked for it, and send how it ends."""
    os.chdir(folder)
    with open(os.devnull, "w") as nothing:  # what libraries print past Python
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
    warnings.simplefilter("ignore")

    def filled(text: str) -> str:
        for name, path in shared.items():
            text = text.replace(f"{{{name}}}", path)
        return text

    place_files(folder, [(name, filled(spec)) for name, spec in case.files])
    words, code = [filled(word) for word in case.words], filled(case.code)
    pipe.send(run_words(words) if words else run_code(code))
    pipe.close()
    os._exit(0)


def try_case(case: Case, shared: Mapping[str, str], limit: float = LIMIT) -> dict[str, Any]:
    """Run a case in a forked process and a folder of its own.

    Args:
        case: The case.
        shared: Paths by the names that stand in braces in the table.
        limit: Seconds after which it counts as hanging.
    """
    folder = Path(tempfile.mkdtemp(prefix="wrong-"))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    start = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=work, args=(case, shared, folder, sender))
    process.start()
    sender.close()
    outcome, said = "hangs", ""
    with contextlib.suppress(EOFError):
        if receiver.poll(limit):
            outcome, said = "traceback", "the process died"
            outcome, said = receiver.recv()
    if process.is_alive() and process.pid and outcome == "hangs":
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    shutil.rmtree(folder, ignore_errors=True)
    return {"case": case.key, "outcome": outcome, "said": said, "seconds": round(time.monotonic() - start, 2)}


def prepare(folder: Path) -> dict[str, str]:
    """A finished run and files of other kinds, made in a forked process: this one never calls autograd, which does not survive a fork."""
    import torch

    import anomaly_suite.cli.lightning  # noqa: F401 - so that forked processes need not

    torch.set_num_threads(1)
    words = ["fit", *_words(table.RUN), "--trainer.default_root_dir", str(folder / "run")]
    words = [word for word in words if word != "{folder}"]
    process = multiprocessing.get_context("fork").Process(target=_fit, args=(words, folder))
    process.start()
    process.join()
    place_files(folder, table.SHARED_FILES)
    paths = {Path(name).stem: str(folder / name) for name, _ in table.SHARED_FILES}
    run = next((folder / "run").rglob("config.yaml")).parent
    return {
        **paths,
        "run": str(run),
        "ckpt": str(run / "checkpoints" / "model.ckpt"),
        "other": str(folder / "other.ckpt"),
    }


def _fit(words: list[str], folder: Path) -> None:
    os.chdir(folder)
    warnings.simplefilter("ignore")
    outcome = run_words(words)
    if outcome[0] != "accepted":
        print(f"the run that should work ends in {outcome}", file=sys.stderr)
    exec(compile(table.OTHER_CHECKPOINT, "other", "exec"), {**namespace(), "file": str(folder / "other.ckpt")})


# All cases ---------------------------------------------------------------------------------------------------------------


def known(file: Path | None) -> dict[str, dict[str, Any]]:
    """Outcomes of a file of results, by case."""
    if file is None or not file.is_file():
        return {}
    return {record["case"]: record for record in map(json.loads, file.read_text(encoding="utf-8").splitlines())}


def report(records: Sequence[Mapping[str, Any]]) -> int:
    """Print what did not end in a sentence, and the counts; the exit status."""
    for record in records:
        if record["outcome"] != "sentence":
            print(f"{record['outcome']:9} {record['case']}\n          {record['said']}")
    counts = {
        kind: Counter(r["outcome"] for r in records if r["case"].startswith(f"{kind}: ")) for kind in _kinds(records)
    }
    print(f"{'':12}{'tried':>7}" + "".join(f"{kind:>11}" for kind in KINDS))
    for name, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{name:12}{count.total():7}" + "".join(f"{count[kind]:11}" for kind in KINDS))
    return int(any(record["outcome"] != "sentence" for record in records))


def _kinds(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["case"].split(": ")[0] for record in records))


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Wrong inputs, and how they end.")
    parser.add_argument("--only", default="", help="part of a case's kind or text, as a regular expression")
    parser.add_argument("--every", type=int, default=1, help="try one case in so many")
    parser.add_argument("--results", type=Path, help="file of outcomes, read and appended to")
    parser.add_argument("--again", action="store_true", help="try again what did not end in a sentence")
    parser.add_argument("--list", action="store_true", help="print the cases, and try none")
    parser.add_argument("--verbose", action="store_true", help="print every sentence")
    options = parser.parse_args(words)
    chosen = [case for case in cases() if re.search(options.only, case.key)][:: options.every]
    if options.list:
        print(*(case.key for case in chosen), sep="\n")
        return 0
    done = known(options.results)
    if options.again:
        done = {key: record for key, record in done.items() if record["outcome"] == "sentence"}
    missing = [case for case in chosen if case.key not in done]
    with tempfile.TemporaryDirectory(prefix="wrong-") as folder:
        shared = prepare(Path(folder)) if missing else {}
        for number, case in enumerate(missing, 1):
            record = done[case.key] = try_case(case, shared)
            if options.results:
                with options.results.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(record) + "\n")
            if options.verbose:
                print(f"{record['outcome']:9} {case.key}\n          {record['said']}", file=sys.stderr)
            print(f"\r{number}/{len(missing)} {record['seconds']:6.1f} s ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return report([done[case.key] for case in chosen])


if __name__ == "__main__":
    sys.exit(main())
