"""Old place of :mod:`anomaly_suite.io.runs`."""

from anomaly_suite.io.runs import find_checkpoint, find_run

__all__ = ["find_checkpoint", "find_run"]
