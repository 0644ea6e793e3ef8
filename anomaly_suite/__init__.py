"""Visual anomaly detection as plain PyTorch Lightning modules, data modules and callbacks.

Import what you need from the subpackages: ``anomaly_suite.methods``, ``.data``, ``.metrics``, ``.callbacks``,
``.contract``. This file imports nothing, so that the command line answers at once.
"""

__version__ = "0.1.0"
