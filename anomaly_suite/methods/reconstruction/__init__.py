"""Normal images at training time; at test time, what in an image cannot be rebuilt from what normal images share."""

from anomaly_suite.methods.reconstruction.dae import DAE, VAE

__all__ = ["DAE", "VAE"]
