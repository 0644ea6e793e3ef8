"""``export``: a run as one file that other programs run, with preparation and decisions inside."""

from __future__ import annotations

from pathlib import Path

from anomaly_suite.cli.parser_errors import SuiteParser
from anomaly_suite.contract import AnomalyModule
from anomaly_suite.contract.run_pair import require_pair
from anomaly_suite.deploy.export import Exporter, Format
from anomaly_suite.deploy.export import export as write
from anomaly_suite.deploy.predictor import load_run
from anomaly_suite.io.runs import find_checkpoint, find_run
from anomaly_suite.methods.weak_video.bags import BagModule


def export(words: list[str]) -> None:
    """Run the verb ``export``.

    Args:
        words: The rest of the command line.

    Raises:
        ConfigError: wrong options, or a run that cannot be exported, in one sentence.
        FileWriteError: the file cannot be written.
    """
    parser = SuiteParser(prog="anomaly-suite export", description="Write a run as one file that other programs run.")
    parser.add_function_arguments(export_run, as_group=False)
    SuiteParser.known |= {action.dest for action in parser._actions}
    options = parser.parse_args(words)
    file, model = export_run(**vars(options))
    print(f"{type(model).__name__} written to {file} ({file.stat().st_size / 1e6:.1f} MB)")


def export_run(
    run: str,
    ckpt_path: str | None = None,
    output: str | None = None,
    format: Format = "onnx",
    exporter: Exporter = "trace",
    license: str = "",
) -> tuple[Path, AnomalyModule]:
    """Write a run as one file.

    Args:
        run: Folder of the run.
        ckpt_path: A checkpoint of it; that of the run if None.
        output: The file; ``model`` with the format's suffix in the run's folder if None.
        format: ``onnx``; ``torch_export``, read by ``torch.export.load``; or ``torchscript``, read by ``torch.jit.load``.
        exporter: How ONNX comes about: from a ``trace``, or from a captured graph (``capture``).
        license: Of the weights, for the file.

    Returns:
        The file and the method.
    """
    folder = find_run(run)
    checkpoint = find_checkpoint(folder) if ckpt_path is None else Path(ckpt_path)
    require_pair(folder, checkpoint)
    model, data = load_run(folder / "config.yaml", checkpoint)
    preparation = None if isinstance(model, BagModule) else data.preparation()
    about = {"data": type(data).__name__, "checkpoint": checkpoint.name}
    about |= {"license": license} if license else {}
    target = folder / "model" if output is None else Path(output)
    return write(model, preparation, target, format=format, exporter=exporter, metadata=about), model
