"""Codes of labelled pixels, on which data sets, methods and metrics agree; ``contract.scenes`` has them for everyone else."""

OUTLIER = 254
"""``target`` of a pasted outlier, a pseudo-anomaly of training."""

VOID = 255
"""``target`` of a pixel without a class; ``ood_mask`` of a pixel that is not scored."""
