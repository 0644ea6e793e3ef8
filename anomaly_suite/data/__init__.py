"""Data modules: each yields checked batches of one benchmark, with splits decided by its seed.

Folders are named after what a batch holds: ``images`` (for the method families one_class, reconstruction and pretraining),
``videos`` (for the family weak_video) and ``scenes`` (for the family pixel_ood).
"""

from anomaly_suite.data.images.bmad import BMAD
from anomaly_suite.data.images.cifar10 import CIFAR10
from anomaly_suite.data.images.covidx import COVIDx
from anomaly_suite.data.images.digits import Digits
from anomaly_suite.data.images.fashion_mnist import FashionMNIST
from anomaly_suite.data.images.folder import Folder
from anomaly_suite.data.images.hyper_kvasir import HyperKvasir
from anomaly_suite.data.images.lag import LAG
from anomaly_suite.data.images.liu_colonoscopy import LiuColonoscopy
from anomaly_suite.data.images.medianomaly import MedIAnomaly
from anomaly_suite.data.images.medmnist import MedMNIST
from anomaly_suite.data.images.mnist import MNIST
from anomaly_suite.data.images.mvtec_ad import MVTecAD
from anomaly_suite.data.images.synthetic_textures import SyntheticTextures
from anomaly_suite.data.images.ucsd_ped import UCSDPed
from anomaly_suite.data.scenes.bdd_anomaly import BDDAnomaly
from anomaly_suite.data.scenes.camvid import CamVid
from anomaly_suite.data.scenes.cityscapes import Cityscapes
from anomaly_suite.data.scenes.fishyscapes import FishyscapesLostAndFound, FishyscapesStatic
from anomaly_suite.data.scenes.lost_and_found import LostAndFound
from anomaly_suite.data.scenes.road_anomaly import RoadAnomaly
from anomaly_suite.data.scenes.scene_folder import SceneFolder
from anomaly_suite.data.scenes.segment_me_if_you_can import RoadAnomaly21, RoadObstacle21
from anomaly_suite.data.scenes.street_hazards import StreetHazards
from anomaly_suite.data.scenes.synthetic_streets import SyntheticStreets
from anomaly_suite.data.videos.polyp_video import PolypVideo
from anomaly_suite.data.videos.shanghaitech import ShanghaiTech
from anomaly_suite.data.videos.synthetic_videos import SyntheticVideos
from anomaly_suite.data.videos.ucf_crime import UCFCrime
from anomaly_suite.data.videos.ucsd_ped import UCSDPedWeak
from anomaly_suite.data.videos.xd_violence import XDViolence

__all__ = [
    "BMAD",
    "CIFAR10",
    "LAG",
    "MNIST",
    "BDDAnomaly",
    "COVIDx",
    "CamVid",
    "Cityscapes",
    "Digits",
    "FashionMNIST",
    "FishyscapesLostAndFound",
    "FishyscapesStatic",
    "Folder",
    "HyperKvasir",
    "LiuColonoscopy",
    "LostAndFound",
    "MVTecAD",
    "MedIAnomaly",
    "MedMNIST",
    "PolypVideo",
    "RoadAnomaly",
    "RoadAnomaly21",
    "RoadObstacle21",
    "SceneFolder",
    "ShanghaiTech",
    "StreetHazards",
    "SyntheticStreets",
    "SyntheticTextures",
    "SyntheticVideos",
    "UCFCrime",
    "UCSDPed",
    "UCSDPedWeak",
    "XDViolence",
]
