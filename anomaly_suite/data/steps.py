"""Transform steps of albumentations and of torchvision.transforms.v2, on images and their masks, drawn from a seed."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from anomaly_suite.errors import ConfigError, did_you_mean
from anomaly_suite.io.seeds import derive_seed

Pixels = npt.NDArray[np.uint8]
Library = Literal["albumentations", "torchvision.transforms.v2"]
V2: Library = "torchvision.transforms.v2"


class Steps:
    """Steps one after another; those of one library that follow each other are one composition.

    Args:
        steps: Each a transform of albumentations or of torchvision.transforms.v2, or a mapping that says how it is built:
            ``{"class": "HorizontalFlip", "p": 0.5}`` of albumentations, ``{"class": "v2.ColorJitter", "hue": 0.1}`` of torchvision. One that
            holds others has them under ``transforms``.

    Raises:
        ConfigError: something else, or an option or value that a transform does not take.
    """

    def __init__(self, steps: Sequence[Any]) -> None:
        self.steps = list(steps)
        built = [(library_of(step), build_step(step)) for step in self.steps]
        self._parts = [
            (library, _composed(library, [step for _, step in group]))
            for library, group in itertools.groupby(built, key=lambda pair: pair[0])
        ]

    @property
    def names(self) -> list[str]:
        """Classes of the steps."""
        return [str(each.get("class")) if isinstance(each, Mapping) else type(each).__name__ for each in self.steps]

    def __call__(
        self, image: Pixels, mask: Pixels | None, *, seed_parts: tuple[int, ...]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Transform an image and its mask.

        Args:
            image: Shape (H, W, C).
            mask: Shape (H, W); None where there is none.
            seed_parts: Decide all draws; see :func:`~anomaly_suite.io.seeds.derive_seed`.
        """
        out: tuple[npt.NDArray[Any], npt.NDArray[Any] | None] = (image, mask)
        for number, (library, part) in enumerate(self._parts):
            seed = derive_seed(*seed_parts, number) if number else derive_seed(*seed_parts)
            out = (_by_torchvision if library == V2 else _by_albumentations)(part, *out, seed)
        return out


def library_of(step: Any) -> Library:
    """Which library a step is of.

    Args:
        step: See :class:`Steps`.

    Raises:
        ConfigError: of neither.
    """
    if isinstance(step, Mapping):
        return V2 if str(step.get("class")).startswith(("v2.", f"{V2}.")) else "albumentations"
    homes = [kind.__module__ for kind in type(step).__mro__]
    if any(home.startswith(V2) for home in homes):
        return V2
    if any(home.split(".")[0] == "albumentations" for home in homes):
        return "albumentations"
    raise ConfigError(
        f"a transform step must be of albumentations or of {V2}, or a mapping with its 'class'; got {step!r}. Older transforms of "
        "torchvision leave masks behind: take those of v2."
    )


def build_step(step: Any) -> Any:
    """One transform; see :class:`Steps`.

    Raises:
        ConfigError: its library has no such transform, or it does not take an option or its value.
    """
    library = library_of(step)
    if not isinstance(step, Mapping):
        return step
    options = {key: value for key, value in step.items() if key != "class"}
    name = str(step.get("class")).rpartition("v2.")[2]
    known = _transforms(library)
    if name not in known:
        what = f"a transform of {library}" if library == V2 else "an albumentations transform"
        raise ConfigError(
            f"a transform step needs 'class', the name of {what}; got {dict(step)}.{did_you_mean(name, known)}"
        )
    accepted = list(inspect.signature(known[name]).parameters)
    for key in options:
        if key not in accepted:
            raise ConfigError(f"{name} takes {', '.join(accepted)}; got {key!r}.{did_you_mean(key, accepted)}")
    if "transforms" in options:
        options["transforms"] = [build_step(inner) for inner in options["transforms"]]
    try:
        return known[name](**options)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name} cannot be built from {options}: {' '.join(str(error).split())}") from error


def _transforms(library: Library) -> dict[str, Any]:
    """Every transform of a library, by name."""
    if library == V2:
        from torchvision.transforms import v2 as source

        kinds: Any = source.Transform
    else:
        source = _albumentations()
        kinds = (source.BasicTransform, source.BaseCompose)
    return {key: value for key, value in vars(source).items() if inspect.isclass(value) and issubclass(value, kinds)}


def _composed(library: Library, steps: list[Any]) -> Any:
    if library == V2:
        from torchvision.transforms import v2

        return v2.Compose(steps)
    return _albumentations().Compose(steps)


def _by_albumentations(part: Any, image: Any, mask: Any, seed: int) -> tuple[Any, Any]:
    part.set_random_seed(seed)
    out = part(image=image) if mask is None else part(image=image, mask=mask)
    return out["image"], out.get("mask")


def _by_torchvision(part: Any, image: Any, mask: Any, seed: int) -> tuple[Any, Any]:
    """Draws come from torch's generator of the process, which is left as it was."""
    from torchvision import tv_tensors

    given = [tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))]
    given += [] if mask is None else [tv_tensors.Mask(torch.from_numpy(mask)[None])]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        out = part(*given)
    found = [each.numpy() for each in (out if isinstance(out, tuple | list) else [out])]
    pixels = np.ascontiguousarray(found[0].transpose(1, 2, 0))
    return pixels, None if mask is None else np.ascontiguousarray(found[1][0])


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    import albumentations

    return albumentations
