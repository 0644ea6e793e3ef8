"""The command line. ``main`` reads the verb; a file in ``verbs`` does its work, and only that file loads what it needs."""

from anomaly_suite.cli.main import RUN_VERBS, VERBS, main

__all__ = ["RUN_VERBS", "VERBS", "main"]
