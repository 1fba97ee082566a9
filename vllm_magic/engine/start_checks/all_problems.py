"""Make several checks, and tell the problems that all of them find."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.errors import InvalidOption, StartFailed, VllmMagicError
from vllm_magic.linux import shortage

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
    """Return the errors of checks that do not depend on each other, in the order of the checks.

    Without a free descriptor or memory, a check finds nothing: the start itself says then what it lacks.
    """
    errors: list[VllmMagicError] = []
    for check in checks:
        try:
            check(start)
        except (InvalidOption, StartFailed) as error:
            errors.append(error)
        except OSError as error:
            if error.errno not in shortage.SHORT:
                raise
    return errors


def tell(errors: Sequence[VllmMagicError]) -> None:
    """Raise the first error, which tells the problems of all others too; do nothing without errors.

    Raises:
        VllmMagicError: the first error.
    """
    if errors:
        first, *others = errors
        raise first.joined(problem for error in others for problem in error.problems)
