"""Old place of :mod:`~anomaly_suite.data.images.synthetic_textures` and :mod:`~anomaly_suite.data.videos.synthetic_videos`."""

from anomaly_suite.data.images.synthetic_textures import SyntheticTextures, Weave, plant_defects
from anomaly_suite.data.videos.synthetic_videos import SyntheticVideos

__all__ = ["SyntheticTextures", "SyntheticVideos", "Weave", "plant_defects"]
