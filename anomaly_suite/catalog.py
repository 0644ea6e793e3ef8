"""Old place of :mod:`anomaly_suite.cli.catalog`."""

from anomaly_suite.cli.catalog import Entry, Kind, catalog

__all__ = ["Entry", "Kind", "catalog"]
