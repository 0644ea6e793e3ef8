"""From clips to features: the network and its weights, the crops that it sees, the device it runs on.

Axes: N clips, C crops, T frames of a clip, H and W pixels of a frame, h and w of a crop, D feature width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor

from anomaly_suite.errors import ConfigError
from anomaly_suite.io.videos import Pixels
from anomaly_suite.nn.video import C3D, FrameAverage, I3DResNet50, InceptionI3D, MotionEnergy, VideoBackbone

Network = Literal["i3d_resnet50", "inception_i3d", "c3d", "frame_average", "motion_energy"]
Precision = Literal["32", "16-mixed", "bf16-mixed"]

CROPS = ("top left", "top right", "bottom left", "bottom right", "centre")
DTYPES = {"32": None, "16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def build_network(network: Network, *, weights: str | None, backbone: str) -> VideoBackbone:
    """A network with its weights.

    Args:
        network: Which one.
        weights: A local file; for frame_average also ``imagenet``; ``random`` for random ones from a fixed seed.
        backbone: timm network of frame_average.

    Raises:
        ConfigError: weights are missing, or not wanted.
        WeightsError: they do not fit.
    """
    if network == "motion_energy":
        if weights is not None:
            raise ConfigError(f"motion_energy has no weights; got {weights!r}. Leave weights out, or choose a network.")
        return MotionEnergy()
    if weights is None:
        also = ", or imagenet" if network == "frame_average" else ""
        raise ConfigError(
            f"{network} needs weights: a local file{also}; got none. motion_energy is the network without weights."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net: VideoBackbone
        if network == "frame_average":
            net = FrameAverage(backbone)
        else:
            net = {"i3d_resnet50": I3DResNet50, "inception_i3d": InceptionI3D, "c3d": C3D}[network]()
    if weights != "random":
        net.load_weights(weights)
    return net


def fingerprint(net: VideoBackbone) -> str | None:
    """Checksum of a network's tensors; None if it has none."""
    digest = hashlib.sha256()
    state = net.state_dict()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest() if state else None


def choose_crops(crops: int | None, network: str, net: VideoBackbone) -> int:
    """How many crops a network sees of each clip: those asked for, else 10, or 1 where it takes whole frames.

    Raises:
        ConfigError: several crops of whole frames.
    """
    whole = net.crop == net.resize
    if whole and crops not in (None, 1):
        raise ConfigError(f"{network} takes whole frames, which have one crop; got crops={crops}. Leave crops out.")
    return crops or (1 if whole else 2 * len(CROPS))


def choose_device(device: str) -> torch.device:
    """The device of a name such as ``cpu`` or ``cuda:1``; ``auto`` is a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device {device!r} cannot be used here ({str(error).splitlines()[0]}). Use auto, cpu, or a GPU that is there."
        ) from error


def crop_clips(clips: Tensor, size: tuple[int, int], count: int) -> Tensor:
    """Cut crops out of clips.

    Args:
        clips: Shape (N, 3, T, H, W).
        size: Height and width of the crops, not above H and W.
        count: 1 for the centre; 5 for top left, top right, bottom left, bottom right and centre; 10 for these and the same
            five of the mirrored clips.

    Returns:
        Shape (N, C, 3, T, h, w).
    """
    height, width = size
    bottom, right = clips.shape[3] - height, clips.shape[4] - width
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    chosen = corners[-1:] if count == 1 else corners
    views = (clips, clips.flip(4)) if count == 2 * len(CROPS) else (clips,)
    parts = [view[..., top : top + height, left : left + width] for view in views for top, left in chosen]
    return torch.stack(parts, 1)


def crop_names(count: int) -> Sequence[str]:
    """What the crops of :func:`crop_clips` show, in their order."""
    return {1: CROPS[-1:], 5: CROPS, 10: (*CROPS, *(f"{name}, mirrored" for name in CROPS))}[count]


class Encoder:
    """Clips to features of all their crops.

    Args:
        net: The network; it is moved to the device.
        crops: C.
        batch_size: Crops of clips that go through the network at once.
        device: Where it runs.
        precision: 32, or the type of mixed precision.
    """

    def __init__(
        self, net: VideoBackbone, *, crops: int, batch_size: int, device: torch.device, precision: Precision
    ) -> None:
        self.net = net.to(device)
        self.crops = crops
        self.batch_size = batch_size
        self.device = device
        self.dtype = DTYPES[precision]

    def __call__(self, clips: Pixels) -> Tensor:
        """Encode clips.

        Args:
            clips: RGB, shape (N, 3, T, H, W).

        Returns:
            On the CPU, shape (N, C, D).
        """
        inputs = crop_clips(torch.from_numpy(clips).to(self.device), self.net.crop, self.crops).flatten(0, 1)
        mixed = torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()
        with torch.inference_mode(), mixed:
            features = torch.cat([self.net(part) for part in torch.split(inputs, self.batch_size)])
        return features.view(-1, self.crops, self.net.feature_dim).cpu()
