"""Normal images at training time; at test time, what in an image cannot be reconstructed from what normal images share."""

from anomaly_suite.methods.reconstruction.adgan import ADGAN
from anomaly_suite.methods.reconstruction.alps import ALPS
from anomaly_suite.methods.reconstruction.dae import DAE, VAE
from anomaly_suite.methods.reconstruction.fanogan import FAnoGAN
from anomaly_suite.methods.reconstruction.memae import MemAE
from anomaly_suite.methods.reconstruction.memmc_mae import MemMCMAE
from anomaly_suite.methods.reconstruction.ms_ssim_autoencoder import MSSSIMAutoencoder
from anomaly_suite.methods.reconstruction.ocgan import OCGAN

__all__ = ["ADGAN", "ALPS", "DAE", "OCGAN", "VAE", "FAnoGAN", "MSSSIMAutoencoder", "MemAE", "MemMCMAE"]
