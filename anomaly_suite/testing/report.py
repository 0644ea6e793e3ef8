"""Checks that run one after another, whatever fails, and one report of those that did."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from anomaly_suite.errors import ConfigError, did_you_mean


class ContractError(AssertionError):
    """A method or data module does not do what all of them do; lists the failing checks, a line each."""


class NotAsked(Exception):  # noqa: N818 - no error
    """A check that does not apply to the class at hand."""


def require(holds: object, sentence: str) -> None:
    """Fail a check.

    Args:
        holds: What must be true.
        sentence: What is wrong otherwise, and what to do.

    Raises:
        ContractError: it is not true.
    """
    if not holds:
        raise ContractError(sentence)


def run_checks(name: str, checks: Mapping[str, Callable[[], None]], skip: Collection[str]) -> list[str]:
    """Run checks in order.

    Args:
        name: Of the class, for the report.
        checks: By name.
        skip: Names of checks that are left out.

    Returns:
        Names of the checks that passed; those that do not apply are not among them.

    Raises:
        ConfigError: an unknown name to skip.
        ContractError: checks failed.
    """
    for each in skip:
        if each not in checks:
            raise ConfigError(f"skip knows the checks {', '.join(checks)}; got {each!r}.{did_you_mean(each, checks)}")
    passed: list[str] = []
    failed: list[str] = []
    for each, check in checks.items():
        if each in skip:
            continue
        try:
            check()
        except NotAsked:
            continue
        except Exception as error:  # whatever the class leads to
            kind = "" if isinstance(error, ContractError) else f"{type(error).__name__}: "
            failed.append(f"  {each}: {kind}{' '.join(str(error).split())}")
        else:
            passed.append(each)
    if failed:
        count = len(failed) + len(passed)
        raise ContractError("\n".join([f"{name} fails {len(failed)} of {count} checks:", *failed]))
    return passed
