"""Reports as one HTML file: what a run folder or a benchmark grid holds, to be looked at without network and without this package."""

from anomaly_suite.report.gallery import items_of
from anomaly_suite.report.grid_page import grid_page, is_grid
from anomaly_suite.report.results import read_results
from anomaly_suite.report.run_page import run_page

__all__ = ["grid_page", "is_grid", "items_of", "read_results", "run_page"]
