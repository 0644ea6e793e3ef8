"""Build wheel and source archive, install each in an empty environment, and try the command line there.

By default the environments borrow the dependencies of the one that runs this, which takes seconds; ``--full`` downloads them anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHIPPED = (
    "anomaly_suite/py.typed",
    "anomaly_suite/published.yaml",
    "anomaly_suite/sample_configs/one_class/padim_mvtec.yaml",
)


def build(folder: Path) -> list[Path]:
    """The source archive, and the wheel made from it."""
    run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    found = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    if len(found) != 2:
        raise SystemExit(f"expected a wheel and a source archive in {folder}; got {[file.name for file in found]}.")
    with zipfile.ZipFile(found[0]) as wheel:
        names = set(wheel.namelist())
    missing = [name for name in SHIPPED if name not in names]
    foreign = sorted(
        {name.partition("/")[0] for name in names if not name.startswith(("anomaly_suite/", "anomaly_suite-"))}
    )
    if missing or foreign:
        raise SystemExit(f"the wheel lacks {missing} and has {foreign}.")
    return found


def install(archive: Path, folder: Path, *, full: bool) -> Path:
    """An environment with the archive; its folder of programs."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    if not full:
        # Files ``.pth`` in a folder that stands in one are not read, so an editable installation there is not seen.
        places = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        site = run(str(python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
        Path(site, "borrowed.pth").write_text("\n".join(places), encoding="utf-8")
    run(str(python), "-m", "pip", "install", "--quiet", *([] if full else ["--no-deps"]), str(archive))
    return programs


def attempt(programs: Path, desk: Path) -> None:
    """The commands, in a folder with nothing in it.

    Raises:
        SystemExit: the package is not that of the archive, a method lacks its card, or a configuration is not found.
    """
    where = run(str(programs / "python"), "-c", "import anomaly_suite; print(anomaly_suite.__file__)", cwd=desk).strip()
    if not Path(where).resolve().is_relative_to(programs.parent.resolve()):
        raise SystemExit(f"expected the installed package; got {where}.")
    suite = str(programs / "anomaly-suite")
    head, *rows = run(suite, "list", "methods", cwd=desk).splitlines()
    starts = [head.index(word) for word in ("name", "family", "task", "year", "paper", "what")]
    for row in rows:
        cells = [row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)]
        if not all(cells[:5]) or not cells[3].isdigit():
            raise SystemExit(f"list methods does not show family, task, year and paper of every method; got {row!r}.")
    shown = run(suite, "fit", "--config", "one_class/padim_mvtec.yaml", "--print_config", cwd=desk)
    if "anomaly_suite.methods.PaDiM" not in shown.replace("one_class.padim.", "") or "category: bottle" not in shown:
        raise SystemExit(f"fit does not find the sample configuration; got {shown[:300]}.")
    run(suite, "report", "--help", cwd=desk)
    print(f"{programs.parent.name}: {len(rows)} methods with their cards, sample configurations found")


def run(*words: str, cwd: Path | None = None) -> str:
    """What a command prints.

    Raises:
        SystemExit: it fails, with what it said.
    """
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COLUMNS")}
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=clean)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
    return done.stdout


def main(words: list[str], folder: Path = ROOT / "dist") -> None:
    """Build, install and try both.

    Args:
        words: Of the command line.
        folder: For the archives; is emptied.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="download all dependencies anew")
    full = parser.parse_args(words).full
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        for archive in build(folder):
            kind = "wheel" if archive.suffix == ".whl" else "source"
            desk = Path(scratch, f"desk-{kind}")
            desk.mkdir()
            attempt(install(archive, Path(scratch, kind), full=full), desk)


if __name__ == "__main__":
    main(sys.argv[1:])
