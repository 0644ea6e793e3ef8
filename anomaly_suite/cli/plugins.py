"""Plugins: classes of installed packages that name them in the entry-point group ``anomaly_suite.plugins``.

An entry point names a module, whose public classes are offered, or one class::

    [project.entry-points."anomaly_suite.plugins"]
    acme = "acme.detectors"                 # all public classes of the module
    AcmeNet = "acme.networks:AcmeNet"       # or one

Their source is read without importing it, as that of this package; what it is can be told by its base classes. A plugin is imported where that does
not tell, and where a command or a configuration names one of its classes.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NamedTuple

from anomaly_suite.cli.catalog import Entry, Kind, adapters, catalog, summary_of
from anomaly_suite.errors import ConfigError

GROUP = "anomaly_suite.plugins"


class Plugin(NamedTuple):
    """One entry point: its name and package, the classes that it offers by kind, and why there are none, if it is broken."""

    name: str
    package: str
    found: tuple[tuple[Kind, Entry], ...]
    fault: str = ""

    @property
    def sentence(self) -> str:
        """What is wrong with it."""
        return (
            f"plugin {self.name!r} of the package {self.package} cannot be used ({self.fault}). Repair or uninstall it."
        )


class _UnclearError(Exception):
    """The source does not tell of which kind a class is."""


def plugins() -> tuple[Plugin, ...]:
    """All plugins that are installed, the broken ones among them, sorted by package and name."""
    points = {(_package(point), point.name, point.value): point for point in entry_points(group=GROUP)}
    return tuple(_read(point.name, package, point.value) for (package, *_), point in sorted(points.items()))


def offered(kind: Kind) -> tuple[Entry, ...]:
    """Public classes of one kind, those of this package first, then adapters and those of plugins.

    Args:
        kind: Of class.
    """
    own = (*catalog(kind), *(adapters() if kind == "methods" else ()))
    return (*own, *(entry for plugin in plugins() for of, entry in plugin.found if of == kind))


def load_plugins(words: Sequence[str]) -> None:
    """Import the plugins that a command line names classes of, so that the parser knows their short names.

    A class of this package keeps its short name: that of a plugin then needs its dotted one, which is said.

    Args:
        words: Of the command line; configuration files among them are looked into.

    Raises:
        ConfigError: a class that is named cannot be imported, or several plugins have one of that name.
    """
    every = plugins()
    if not every:
        return
    text = "\n".join(_texts(words))
    own = {entry.name: entry.path for kind in ("methods", "data", "metrics", "callbacks") for entry in catalog(kind)}
    wanted: dict[str, tuple[Entry, Plugin]] = {}
    for plugin in every:
        for _, entry in plugin.found:
            if not re.search(rf"(?<![\w.]){re.escape(entry.name)}(?!\w)", text):
                continue
            if entry.name in own:
                print(
                    f"anomaly-suite: {entry.name} is the class of anomaly_suite; the one of the package {plugin.package} needs its dotted name, "
                    f"{entry.path}.",
                    file=sys.stderr,
                )
                continue
            other = wanted.setdefault(entry.name, (entry, plugin))[0]
            if other.path != entry.path:
                raise ConfigError(
                    f"several plugins have a class {entry.name!r}: {other.path} and {entry.path}. Give the dotted name of the one that you mean."
                )
    for entry, plugin in wanted.values():
        _import(entry.path, plugin)


def broken() -> list[str]:
    """A sentence for every plugin that cannot be used."""
    return [plugin.sentence for plugin in plugins() if plugin.fault]


def _import(path: str, plugin: Plugin) -> None:
    module, _, name = path.rpartition(".")
    try:
        getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever somebody else's code leads to
        raise ConfigError(plugin._replace(fault=_reason(error)).sentence) from error


def _texts(words: Sequence[str]) -> Iterator[str]:
    for word in words:
        value = word.partition("=")[2] or word
        yield value
        if value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file():
            yield Path(value).read_text(encoding="utf-8", errors="replace")


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value.partition(".")[0]


def _read(name: str, package: str, value: str) -> Plugin:
    """What an entry point offers."""
    module, _, attribute = value.partition(":")
    try:
        try:
            found = _Source(module, package).offer(attribute)
        except _UnclearError:
            found = _imported(module, package, attribute)
        if not found:
            raise ConfigError(
                f"{value} offers no method, data module, callback or metric"
                if attribute
                else f"{module} has no such public class"
            )
    except (Exception, SystemExit) as error:  # whatever somebody else's code leads to
        return Plugin(name, package, (), _reason(error))
    return Plugin(name, package, tuple(sorted(found)))


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"


class _Source:
    """The source of a plugin's module; names that it imports from its own package are followed."""

    def __init__(self, module: str, package: str) -> None:
        self.module, self.package = module, package
        self.file = _locate(module)
        body = ast.parse(self.file.read_text(encoding="utf-8"), filename=str(self.file)).body
        self.classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
        self.imports: dict[str, str] = {}
        self.public: list[str] | None = None
        for node in body:
            if isinstance(node, ast.ImportFrom):
                start = self._above(node.level) + (node.module or "") if node.level else node.module or ""
                for alias in node.names:
                    self.imports[alias.asname or alias.name] = f"{start.rstrip('.')}.{alias.name}"
            elif isinstance(node, ast.Import):
                self.imports |= {
                    alias.asname or alias.name.partition(".")[0]: alias.name
                    if alias.asname
                    else alias.name.partition(".")[0]
                    for alias in node.names
                }
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                try:
                    self.public = list(ast.literal_eval(node.value))
                except ValueError as error:
                    raise _UnclearError from error

    def _above(self, level: int) -> str:
        parts = self.module.split(".")
        parts = parts if self.file.name == "__init__.py" else parts[:-1]
        return "".join(f"{part}." for part in parts[: len(parts) - level + 1])

    def _is_own(self, path: str) -> bool:
        return path.partition(".")[0] == self.module.partition(".")[0]

    def offer(self, attribute: str) -> list[tuple[Kind, Entry]]:
        """The named class, or all public ones; what is of no kind, such as a network, is left out of these."""
        if attribute:
            found = self.entry(attribute)
            if found is None:
                raise _UnclearError
            return [found]
        own = [name for name, path in self.imports.items() if self._is_own(path)]
        names = (
            [name for name in (*self.classes, *own) if not name.startswith("_")] if self.public is None else self.public
        )
        return [found for name in names if (found := self.entry(name)) is not None]

    def entry(self, name: str) -> tuple[Kind, Entry] | None:
        """A class of this module or of one that it imports from, under the name that it has here; None where it is of no kind."""
        if name in self.classes:
            kind = self.kind(self.classes[name])
            summary = summary_of(self.classes[name])
            return None if kind is None else (kind, Entry(name, f"{self.module}.{name}", self.package, summary))
        path = self.imports.get(name, "")
        if not path or not self._is_own(path):
            return None
        module, _, original = path.rpartition(".")
        try:
            return _Source(module, self.package).entry(original)
        except ModuleNotFoundError:  # a function of a package, or a module itself
            return None

    def kind(self, node: ast.ClassDef) -> Kind | None:
        """By the bases: of a class of this plugin by its bases in turn."""
        for base in node.bases:
            dotted = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
            first, _, rest = dotted.partition(".")
            if not rest and first in self.classes:
                found = self.kind(self.classes[first])
            else:
                origin = ".".join(filter(None, (self.imports.get(first, first), rest)))
                found = self._kind_elsewhere(origin) if self._is_own(origin) else kind_of_base(origin)
            if found is not None:
                return found
        return None

    def _kind_elsewhere(self, origin: str) -> Kind | None:
        module, _, name = origin.rpartition(".")
        found = _Source(module, self.package).entry(name)
        return None if found is None else found[0]


def kind_of_base(origin: str) -> Kind | None:
    """Of which kind are classes with a base class of another package; None where its name does not tell.

    Example:
        >>> kind_of_base("lightning.pytorch.LightningModule"), kind_of_base("torch.nn.Module")
        ('methods', None)
    """
    name = origin.rpartition(".")[2]
    part = next(
        (kind for kind in ("methods", "data", "metrics", "callbacks") if origin.startswith(f"anomaly_suite.{kind}.")),
        None,
    )
    if name.endswith("DataModule") or part == "data":
        return "data"
    if name in ("AnomalyModule", "LightningModule", "AnomalibModule") or part == "methods":
        return "methods"
    if name == "Metric" or origin.startswith("torchmetrics.") or part == "metrics":
        return "metrics"
    is_callback = name.endswith("Callback") or re.match(r"(lightning\.pytorch|pytorch_lightning)\.callbacks\.", origin)
    return "callbacks" if is_callback or part == "callbacks" else None


def _locate(module: str) -> Path:
    """The source file of a module, found without importing the packages that it lies in.

    Raises:
        ModuleNotFoundError: there is none.
    """
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None:
        raise ModuleNotFoundError(f"No module named {top!r}")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not rest and not folders and spec.origin is not None:
        places = [Path(spec.origin)]
    else:
        places = [file for folder in folders for file in _files(folder.joinpath(*rest))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ModuleNotFoundError(f"No module named {module!r}")
    if found.suffix != ".py":
        raise _UnclearError
    return found


def _files(path: Path) -> Iterable[Path]:
    return path / "__init__.py", path.with_suffix(".py"), *path.parent.glob(f"{path.name}.*.so")


def _imported(module: str, package: str, attribute: str) -> list[tuple[Kind, Entry]]:
    """The same of a plugin whose source does not tell, by importing it."""
    loaded = importlib.import_module(module)
    import lightning.pytorch
    import torchmetrics

    bases: dict[Kind, type] = {
        "methods": lightning.pytorch.LightningModule,
        "data": lightning.pytorch.LightningDataModule,
        "metrics": torchmetrics.Metric,
        "callbacks": lightning.pytorch.Callback,
    }
    names = [attribute] if attribute else getattr(loaded, "__all__", [name for name in vars(loaded) if name[0] != "_"])
    found: list[tuple[Kind, Entry]] = []
    for name in names:
        cls = getattr(loaded, name)
        kinds = [kind for kind, base in bases.items() if isinstance(cls, type) and issubclass(cls, base)]
        if kinds and (attribute or cls.__module__.partition(".")[0] == module.partition(".")[0]):
            summary = re.split(r"(?<=\.)\s", cls.__doc__ or "", maxsplit=1)[0]
            found.append(
                (kinds[0], Entry(cls.__name__, f"{cls.__module__}.{cls.__qualname__}", package, summary.strip()))
            )
    return found
