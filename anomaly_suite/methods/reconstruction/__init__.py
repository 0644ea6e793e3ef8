"""Normal images at training time; at test time, what in an image cannot be reconstructed from what normal images share."""

from anomaly_suite.methods.reconstruction.alps import ALPS
from anomaly_suite.methods.reconstruction.dae import DAE, VAE
from anomaly_suite.methods.reconstruction.fanogan import FAnoGAN
from anomaly_suite.methods.reconstruction.ms_ssim_autoencoder import MSSSIMAutoencoder

__all__ = ["ALPS", "DAE", "VAE", "FAnoGAN", "MSSSIMAutoencoder"]
