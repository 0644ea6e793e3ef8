"""``train``: a fit, the test of what it left, and the report."""

from __future__ import annotations

from anomaly_suite.cli.lightning import SuiteCLI, run_lightning, start, telling
from anomaly_suite.cli.run_config import RunConfig
from anomaly_suite.cli.stages import Stage
from anomaly_suite.cli.trainer_options import require_checkpoint
from anomaly_suite.cli.verbs.chain import chain
from anomaly_suite.cli.verbs.report import report
from anomaly_suite.cli.verbs.run import of_run
from anomaly_suite.errors import CheckpointError


class TrainCLI(SuiteCLI):
    """A fit that leaves something to test."""

    def before_instantiate_classes(self) -> None:
        """Refuse options that leave no checkpoint.

        Raises:
            ConfigError: with the option.
        """
        super().before_instantiate_classes()
        require_checkpoint(self.config["fit"].trainer, who="train")


def train(words: list[str], stages: list[Stage]) -> None:
    """Fit, test what was fitted, and print the report.

    Args:
        words: The rest of the command line, as ``fit`` takes them.
        stages: Of the command line, of which the last is tested; none where it has no ``--then``.

    Raises:
        ConfigError: wrong options, or some that leave nothing to test.
        CheckpointError: the fit was stopped.
    """
    if stages:
        done = chain(stages, tested=True)
    else:
        with telling("train"):
            done = start(TrainCLI, "fit", words)
    if not done.trainer.state.finished:
        raise CheckpointError(
            "the fit ended early, so nothing is tested. Run the command again, or go on with fit --ckpt_path FILE."
        )
    (saved,) = (each for each in done.trainer.callbacks if isinstance(each, RunConfig))  # type: ignore[attr-defined]
    tested = run_lightning("test", of_run(saved.folder, []))
    if tested.trainer.is_global_zero:
        report([str(saved.folder)])
