"""The stages of ``fit``: words of the command line parted at ``--then``, without loading anything slow."""

from __future__ import annotations

from typing import NamedTuple

from anomaly_suite.errors import ConfigError

THEN = "--then"


class Stage(NamedTuple):
    """One fit of a chain."""

    number: int
    """From 1 on."""
    name: str
    """Its last configuration, as the user named it, or its method."""
    words: list[str]

    def __str__(self) -> str:
        return f"stage {self.number} ({self.name})"


def has_stages(words: list[str]) -> bool:
    """Whether a command line has several stages."""
    return any(word == THEN or word.startswith(f"{THEN}=") for word in words)


def split_stages(verb: str, words: list[str]) -> list[Stage]:
    """The stages of a command line; ``--then FILE`` begins one with ``--config FILE``.

    Args:
        verb: Of the command line.
        words: After the verb.

    Raises:
        ConfigError: another verb than fit, a stage without a configuration, or ``--then`` without a file.
    """
    if verb != "fit":
        raise ConfigError(
            f"only fit has stages; got {THEN} after {verb}. Run {verb} on the run of one stage with --run RUN."
        )
    parts: list[list[str]] = [[]]
    remaining = iter(words)
    for word in remaining:
        option, _, file = word.partition("=")
        if option != THEN:
            parts[-1].append(word)
            continue
        file = file or next(remaining, "")
        if not file or file.startswith("-"):
            raise ConfigError(
                f"{THEN} needs the configuration of the next stage; got {file or 'nothing'}. Write {THEN} FILE, and then the options of "
                "that stage."
            )
        parts.append(["--config", file])
    if not parts[0]:
        raise ConfigError(
            f"fit needs a pre-training before {THEN}; got none. Write fit --config PRETRAINING.yaml {THEN} DETECTOR.yaml."
        )
    return [Stage(number, _name(part), part) for number, part in enumerate(parts, 1)]


def _name(words: list[str]) -> str:
    """The last configuration among words, else the method."""
    found = {"--config": "", "--model": ""}
    for word, after in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option in found:
            found[option] = value if equals else after
    return found["--config"] or found["--model"] or "no configuration"
