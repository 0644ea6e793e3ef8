"""The sentence about an option that does not exist."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Literal

import pytest

from anomaly_suite.data.images.benchmark_images import BenchmarkImages
from anomaly_suite.errors import ConfigError
from anomaly_suite.options import ChecksOptions, UnknownOptionError


class Small(ChecksOptions):
    def __init__(self, *, side: int = 1) -> None:
        self.side = side


class Open(ChecksOptions):
    def __init__(self, **anything: int) -> None:
        self.anything = anything


class Bare(ChecksOptions):
    pass


def test_a_wrong_option_names_the_nearest_or_all() -> None:
    with pytest.raises(UnknownOptionError, match=r"^Small has no option 'sides'. Did you mean 'side'[?]$"):
        Small(sides=3)  # type: ignore[call-arg]
    with pytest.raises(UnknownOptionError, match=r"^Small has no option 'zzz'. It takes side.$"):
        Small(zzz=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Small(1)  # type: ignore[misc]


def test_right_options_open_signatures_and_copies_go_through() -> None:
    assert Small(side=2).side == 2
    assert Open(any=1).anything == {"any": 1}
    assert copy.deepcopy(Small(side=5)).side == 5
    assert list(inspect.signature(Small).parameters) == ["side"]
    assert isinstance(Bare(), Bare)


class Heir(BenchmarkImages):
    """Takes all options as they are."""


class Passing(BenchmarkImages):
    """Passes on what it names and what it does not name; ``channels``, ``val_size`` and ``bit_depth`` it takes for something else."""

    def __init__(
        self,
        threshold_set="leaky",
        channels: str = "rgb",
        val_size=None,
        bit_depth: int | str = "auto",
        exif: Literal["apply", "ignore"] = "apply",
        **options: Any,
    ) -> None:
        super().__init__(
            threshold_set=threshold_set,
            channels={"rgb": 3}[channels],
            val_size=val_size or 0.2,
            bit_depth=8 if bit_depth == "any" else bit_depth,
            exif=exif,
            **options,
        )


class Grandchild(Passing):
    def __init__(self, *, wrong: int = 0, **options: Any) -> None:
        super().__init__(**options)


@pytest.mark.parametrize("cls", [Heir, Passing, Grandchild])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"threshold_set": "leeky"},
            "threshold_set must be 'apart', 'leaky' or 'none'; got 'leeky'. Did you mean 'leaky'?",
        ),
        ({"validation": "tset"}, r"validation must be .*; got 'tset'. Did you mean 'test'?"),
        ({"exif": "aply"}, "exif must be 'apply' or 'ignore'; got 'aply'. Did you mean 'apply'?"),
        ({"subset": "maybe"}, "subset must be true or false; got 'maybe'. Give {name} such a value."),
        ({"image_size": 0}, "image_size must be at least 1; got 0. Give {name} such a value."),
        (
            {"threshold_images": 2.5},
            "threshold_images must be a whole number and at least 1; got 2.5. Give {name} such a value.",
        ),
    ],
)
def test_options_that_a_class_of_ones_own_inherits_or_passes_on(
    cls: type, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence.format(name=cls.__name__).replace("?", "[?]")):
        cls(**options)


def test_an_option_that_a_class_of_ones_own_means_otherwise_is_its_own() -> None:
    data = Passing(channels="rgb", val_size=None, bit_depth="any", image_size=8)
    assert (data.channels, data.val_size, data.bit_depth, data.threshold_set) == (3, 0.2, 8, "leaky")
    assert Grandchild(channels="rgb", wrong=-1).exif == "apply"
    with pytest.raises(UnknownOptionError, match=r"^Heir has no option 'subsets'. Did you mean 'subset'[?]$"):
        Heir(subsets=True)  # type: ignore[call-arg]
    with pytest.raises(UnknownOptionError, match=r"^Heir takes its options by name; got 1 without\."):
        Heir(3)  # type: ignore[misc]
