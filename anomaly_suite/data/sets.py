"""Old place of :mod:`~anomaly_suite.data.batched_dataset`, :mod:`~anomaly_suite.data.images.pseudo_anomalies`, :mod:`anomaly_suite.io.seeds`."""

from anomaly_suite.data.batched_dataset import BatchedDataset
from anomaly_suite.data.images.pseudo_anomalies import WithPseudoAnomalies
from anomaly_suite.io.seeds import derive_seed

__all__ = ["BatchedDataset", "WithPseudoAnomalies", "derive_seed"]
