"""Visual anomaly detection as plain PyTorch Lightning modules, data modules and callbacks.

Import what you need from the subpackages: ``anomaly_suite.methods``, ``.data``, ``.metrics``, ``.callbacks``,
``.contract``; ``anomaly_suite.Predictor`` scores new pictures. This file imports nothing until it is asked, so that the command line
answers at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_suite.deploy.predictor import Predictor as Predictor

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from anomaly_suite.deploy.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
