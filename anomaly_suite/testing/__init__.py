"""Contract tests for authors of methods and data modules: what every method of this package does, checked of yours.

In a test of your package::

    from anomaly_suite.testing import check_data_module, check_method


    def test_contract():
        check_method(MyMethod, {"width": 8}, epochs=2, min_auroc=0.8)
        check_data_module(MyData, {"root": "tests/data"})

All checks run; those that fail are listed in one :class:`~anomaly_suite.testing.report.ContractError`, a line each. ``skip`` leaves some out by name.
"""

from anomaly_suite.testing.data_modules import check_data_module
from anomaly_suite.testing.methods import check_method
from anomaly_suite.testing.report import ContractError

__all__ = ["ContractError", "check_data_module", "check_method"]
