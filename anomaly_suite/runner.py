"""Old place of the slow half of the command line: :mod:`anomaly_suite.cli.lightning` and ``cli.verbs``."""

from anomaly_suite.cli.lightning import RunConfig, SuiteCLI
from anomaly_suite.cli.parser_errors import SuiteParser
from anomaly_suite.cli.verbs.extract_features import extract_features
from anomaly_suite.cli.verbs.run import run
from anomaly_suite.run_folders import find_checkpoint, find_run

__all__ = ["RunConfig", "SuiteCLI", "SuiteParser", "extract_features", "find_checkpoint", "find_run", "run"]
