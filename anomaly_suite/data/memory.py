"""Old place of :mod:`~anomaly_suite.data.images.image_set` and :mod:`~anomaly_suite.data.images.one_vs_rest`."""

from anomaly_suite.data.images.image_set import BatchTransform, ImageSet
from anomaly_suite.data.images.one_vs_rest import OneVsRest, OneVsRestSplit, Pool, Protocol, one_vs_rest

__all__ = ["BatchTransform", "ImageSet", "OneVsRest", "OneVsRestSplit", "Pool", "Protocol", "one_vs_rest"]
