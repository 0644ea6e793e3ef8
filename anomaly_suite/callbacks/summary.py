"""PredictionSummary: what a prediction flagged, in a few lines, and the list of what could not be read."""

from __future__ import annotations

import heapq
import math
import time

from lightning.pytorch import LightningModule, Trainer

from anomaly_suite.callbacks.base import Stage, StageCallback, Step, calibration_of, output_folder
from anomaly_suite.callbacks.processes import shared_by_all, sum_over_processes
from anomaly_suite.callbacks.values import per_sample
from anomaly_suite.callbacks.writing import WritesFiles, going_on
from anomaly_suite.contract import AnomalyDataModule, KeyMap, check_key_map
from anomaly_suite.errors import ConfigError
from anomaly_suite.io.atomic import printable, save_text, try_folder

UNREADABLE_FILE = "unreadable.txt"


class PredictionSummary(WritesFiles, StageCallback):
    """Print after ``predict`` how many samples are anomalous, and those with the highest scores.

    Samples that could not be read (see :meth:`~anomaly_suite.contract.AnomalyDataModule.predict_on`) are counted, and listed in the file
    ``unreadable.txt`` of the log folder, a sentence a line. Memory does not grow with the samples.

    Args:
        highest: How many samples to print.
        key_map: Our names of keys, and what other loaders and modules call them.

    Raises:
        ConfigError: a negative number.
    """

    def __init__(self, *, highest: int = 10, key_map: KeyMap | None = None) -> None:
        super().__init__()
        self.key_map = check_key_map(key_map)
        if highest < 0:
            raise ConfigError(f"highest must be at least 0; got {highest}. 0 prints counts alone.")
        self.highest = highest

    def begin(self, trainer: Trainer, stage: Stage) -> None:
        """Start the clock and the counts.

        Raises:
            FileWriteError: the log folder cannot be written to.
        """
        self._folder = output_folder(trainer, None)
        try_folder(self._folder)
        self._began = time.perf_counter()
        self._samples = self._anomalous = self._decided = 0
        self._top: list[tuple[float, str]] = []
        if isinstance(data := getattr(trainer, "datamodule", None), AnomalyDataModule):
            data.unreadable.clear()

    def collect(self, step: Step) -> None:
        """Count."""
        scores = per_sample(step.prediction, "anomaly_score", step.batch)
        if scores is None:
            return
        decided = per_sample(step.prediction, "pred_label", step.batch) or []
        names = step.batch.get("image_path") or [f"sample {self._samples + row}" for row in range(len(scores))]
        self._samples += len(scores)
        self._decided += len(decided)
        self._anomalous += sum(map(bool, decided))
        seen = [(score, str(name)) for score, name in zip(scores, names, strict=False) if not math.isnan(score)]
        self._top = heapq.nlargest(self.highest, self._top + seen)

    def finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Print, and write what could not be read."""
        data = getattr(trainer, "datamodule", None)
        mine = data.unreadable if isinstance(data, AnomalyDataModule) else []
        unreadable = shared_by_all(trainer, mine)
        samples, anomalous, decided = (
            int(sum_over_processes(trainer, count)) for count in (self._samples, self._anomalous, self._decided)
        )
        top = sorted(shared_by_all(trainer, self._top), reverse=True)[: self.highest]
        if stage != "predict" or not trainer.is_global_zero:
            return
        seconds = time.perf_counter() - self._began
        calibration = calibration_of(pl_module, "image")
        found = f"{samples} scored in {seconds:.1f} s ({samples / max(seconds, 1e-9):.1f} a second)"
        if calibration is not None and decided:
            found += f": {anomalous} anomalous (score at least {calibration.threshold('image'):.5g}), {decided - anomalous} normal"
        elif samples:
            found += "; without a threshold none is called anomalous (anomaly-suite calibrate gives one)"
        lines = [found + (f"; {len(unreadable)} could not be read" if unreadable else "")]
        if top:
            lines.append("highest scores:")
        for score, name in top:
            is_flagged = calibration is not None and score >= calibration.threshold("image")
            lines.append(f"  {score:<12.6g} {'anomalous  ' if is_flagged else '           '} {name}")
        lines.append(f"results: {self._folder}")
        print(printable("\n".join(lines)))
        listed = self._folder / UNREADABLE_FILE
        text = printable("".join(f"{each}\n" for each in unreadable))
        with going_on(trainer, lambda: text):
            if unreadable:
                save_text(listed, text)
            else:
                listed.unlink(missing_ok=True)
