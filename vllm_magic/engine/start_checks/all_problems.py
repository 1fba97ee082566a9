"""Make several checks, and tell the problems that all of them find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.errors import InvalidOption, StartFailed, VllmMagicError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vllm_magic.engine.start_checks.planned_start import PlannedStart


def check(checks: Iterable[Callable[[PlannedStart], None]], start: PlannedStart) -> None:
    """Make checks that do not depend on each other.

    Raises:
        VllmMagicError: the first error, which tells the problems of all others too.
    """
    tell(find(checks, start))


def find(checks: Iterable[Callable[[PlannedStart], None]], start: PlannedStart) -> list[VllmMagicError]:
    """Return the errors of checks that do not depend on each other, in the order of the checks."""
    errors: list[VllmMagicError] = []
    for check in checks:
        try:
            check(start)
        except (InvalidOption, StartFailed) as error:
            errors.append(error)
    return errors


def tell(errors: Sequence[VllmMagicError]) -> None:
    """Raise the first error, which tells the problems of all others too; do nothing without errors.

    Raises:
        VllmMagicError: the first error.
    """
    if errors:
        first, *others = errors
        raise first.joined(problem for error in others for problem in error.problems)
