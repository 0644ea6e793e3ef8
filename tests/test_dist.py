"""What is released installs and works in an empty environment."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.matrix
@pytest.mark.slow
def test_wheel_and_source_archive_install_and_work(tmp_path, capsys):
    pytest.importorskip("build")
    runpy.run_path(str(ROOT / ".ci" / "dist.py"))["main"]([], tmp_path / "dist")
    said = capsys.readouterr().out
    assert "wheel: " in said
    assert "source: " in said
    assert {file.suffix for file in (tmp_path / "dist").iterdir()} == {".whl", ".gz"}


def test_the_citation_names_this_version():
    import yaml

    import anomaly_suite

    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == anomaly_suite.__version__
    assert cited["license"] == "Apache-2.0"
    assert cited["cff-version"] == "1.2.0"
    assert cited["authors"]
