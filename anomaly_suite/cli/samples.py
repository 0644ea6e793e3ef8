"""Sample configurations: where they lie, which files belong together, and the figures published for them.

A configuration ``<family>/<method>_<dataset>[_<variant>].yaml`` is complete, or a few lines that are stacked on others; the first line
of the latter is the command: ``# anomaly-suite fit --config A.yaml --config B.yaml``. It is meant for a CPU where its name ends
in ``_cpu`` or a line of its head is ``# device: cpu``, else for a GPU.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from typing_extensions import NotRequired, TypedDict

from anomaly_suite.errors import ConfigError, did_you_mean

PACKAGE = Path(__file__).parents[1]
FOLDER = "sample_configs"
_STACK = re.compile(r"# anomaly-suite fit((?: --config \S+)+)\s*$", re.MULTILINE)
_FROM = "# from: "


class Figure(TypedDict):
    """A published figure: of which metric, where it stands, and of which data, options and method if not those of the file."""

    metric: str
    value: float
    source: str
    data: NotRequired[str]
    options: NotRequired[str]
    of: NotRequired[str]


class Sample(NamedTuple):
    """A sample configuration: name in the folder, the files of its stack, short class names, device and published figures."""

    name: str
    stack: tuple[str, ...]
    method: str
    data: str
    device: str
    published: tuple[Figure, ...]


def samples_folder() -> Path:
    """The folder of sample configurations: inside the installed package, or beside it in a source checkout."""
    inside = PACKAGE / FOLDER
    return inside if inside.is_dir() else PACKAGE.parent / FOLDER


def sample_names() -> list[str]:
    """Names of all sample configurations, such as ``one_class/padim_mvtec.yaml``, in alphabetical order."""
    folder = samples_folder()
    names = (file.relative_to(folder).as_posix() for file in folder.rglob("*.yaml"))
    return sorted(name for name in names if not name.startswith("grids/"))  # those are of benchmark


def stack_of(file: Path) -> tuple[str, ...]:
    """The configurations named by the first line of a file that is stacked on others, in order; none for a complete file.

    Args:
        file: A configuration. The last one that its first line names is itself.
    """
    with file.open(encoding="utf-8") as opened:
        stack = _STACK.match(opened.readline())
    return tuple(stack[1].replace("--config", "").split()) if stack else ()


def read_stack(file: Path) -> dict[str, Any]:
    """A configuration with those that it is stacked on, as one mapping.

    Args:
        file: A configuration, complete or not.

    Raises:
        ConfigError: it is stacked on a configuration that is not there.
    """
    below = [Path(find_config(name)) for name in stack_of(file)[:-1]]
    content: dict[str, Any] = {}
    for part in (*below, file):
        content = _merge(content, yaml.safe_load(part.read_text(encoding="utf-8")))
    return content


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


@lru_cache
def published() -> dict[str, tuple[Figure, ...]]:
    """Published figures by sample configuration, from ``published.yaml``."""
    table = yaml.safe_load((PACKAGE / "published.yaml").read_text(encoding="utf-8"))
    return {name: tuple(figures) for name, figures in table.items()}


def sample(name: str) -> Sample:
    """What is known of a sample configuration without loading its classes."""
    file = samples_folder() / name
    content = read_stack(file)
    method, data = (content[part]["class_path"].rpartition(".")[2] for part in ("model", "data"))
    on_cpu = name.endswith("_cpu.yaml") or "# device: cpu" in file.read_text(encoding="utf-8").splitlines()
    return Sample(name, stack_of(file) or (name,), method, data, "cpu" if on_cpu else "gpu", published().get(name, ()))


def condition(figure: Figure) -> str:
    """What a published figure holds for beyond its file, such as ``on LostAndFound``; ``""`` if nothing.

    Example:
        >>> condition({"metric": "mIoU", "value": 0.8, "source": "a table", "data": "CamVid", "options": "--model.window 800"})
        'on CamVid with --model.window 800'
    """
    words = {"of": figure.get("of"), "on": figure.get("data"), "with": figure.get("options")}
    return " ".join(f"{word} {value}" for word, value in words.items() if value)


def check_config(file: Path, known: Collection[str]) -> None:
    """Refuse a configuration with the slips that the parser would report by something else.

    Args:
        file: A YAML file; a missing one is left to others.
        known: Names on the highest level.

    Raises:
        ConfigError: it is no YAML, a name on the highest level is unknown, or an option of a class stands beside ``class_path``.
    """
    if not file.is_file():
        return
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"'{file}' is no text in UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"'{file}'{place} is no YAML: {' '.join(str(reason).split())}. Look at its indentation and colons."
        ) from error
    if not isinstance(content, dict):
        return  # the parser says what it should be
    for name in content:
        if name not in known:
            raise ConfigError(
                f"'{file}' has {name!r}, which is no part of a configuration.{did_you_mean(str(name), known)}"
            )
    for part in ("model", "data"):
        options = content.get(part)
        if isinstance(options, dict) and "class_path" in options:
            beside = [name for name in options if name not in ("class_path", "init_args", "dict_kwargs")]
            if beside:
                raise ConfigError(
                    f"'{file}' has {part}.{beside[0]} beside class_path, where it is not read. Indent it under {part}.init_args."
                )


def find_configs(words: list[str]) -> list[str]:
    """Replace each ``--config NAME`` that is no file by the sample configuration of that name.

    Args:
        words: Command-line words.

    Raises:
        ConfigError: neither a file nor a sample configuration has the name; or the first is one that is stacked on others.
    """
    found, configs = list(words), []
    for position, word in enumerate(words):
        if word == "--config" and position + 1 < len(words):
            configs.append(find_config(words[position + 1]))
            found[position + 1] = configs[-1]
        elif word.startswith("--config="):
            configs.append(find_config(word.partition("=")[2]))
            found[position] = f"--config={configs[-1]}"
    if configs and Path(configs[0]).is_file() and (stack := stack_of(Path(configs[0]))):
        raise ConfigError(
            f"{Path(configs[0]).name} is a few lines that are stacked on another configuration; got no other before it. "
            f"Give {' '.join(f'--config {name}' for name in stack)}."
        )
    return found


def find_config(path: str) -> str:
    """The file meant by ``--config``: the path itself, or the sample configuration of that name.

    Args:
        path: A path, or the name of a sample configuration with or without ``sample_configs/`` in front. Anything that does not
            end in ``.yaml`` or ``.yml`` is left to the parser.

    Raises:
        ConfigError: neither a file nor a sample configuration has the name, with the nearest; or the file cannot be meant, see
            :func:`require_yaml`.
    """
    if Path(path).is_file():
        require_yaml(Path(path))
    if Path(path).exists() or not path.endswith((".yaml", ".yml")):
        return path
    name = path.removeprefix("./").removeprefix(f"{FOLDER}/")
    names = sample_names()
    if name in names:
        return str(samples_folder() / name)
    raise ConfigError(
        f"no configuration {path!r}: there is neither such a file nor such a sample configuration. "
        f"anomaly-suite list configs names them.{did_you_mean(name, names)}"
    )


def require_yaml(file: Path) -> None:
    """Refuse what YAML would read otherwise than it is written.

    Args:
        file: A configuration. Faults of its syntax are left to the parser.

    Raises:
        ConfigError: not a text in UTF-8, or a key that stands twice in one mapping, of which the last would win.
    """
    try:
        nodes = [yaml.compose(file.read_text(encoding="utf-8"))]
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"a configuration must be a text in UTF-8; {file} is not ({error.reason}). Give a YAML file."
        ) from error
    except (yaml.YAMLError, OSError):
        return
    seen: set[int] = set()  # an anchor may lead back to where it stands
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [key for key in keys if keys.count(key) > 1 and key != "<<"]:
                raise ConfigError(
                    f"a key may stand once in a mapping; {file} has {twice[0]!r} twice below line {node.start_mark.line + 1}. Delete one."
                )
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def origin_line(files: Iterable[Path]) -> str:
    """The comment that a run's ``config.yaml`` begins with: the configurations that it was fitted with, ``""`` for none.

    Args:
        files: Configurations in their order. Sample configurations are named as in the folder; the ``config.yaml`` of a run stands
            for those that it names itself.
    """
    names: list[str] = []
    for file in files:
        path = file.resolve()
        folder = samples_folder().resolve()
        earlier = origins(path) if path.is_file() else []
        names += earlier or [path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(file)]
    return f"{_FROM}{' '.join(names)}\n" if names else ""


def origins(config: Path) -> list[str]:
    """The configurations named in the first line of a run's ``config.yaml``."""
    with config.open(encoding="utf-8") as file:
        first = file.readline().rstrip("\n")
    return first.removeprefix(_FROM).split(" ") if first.startswith(_FROM) else []
