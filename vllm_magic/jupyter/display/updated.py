"""An output that is replaced in place: the only module that sends updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.display import DisplayHandle, display

if TYPE_CHECKING:
    from collections.abc import Mapping


class UpdatedOutput:
    """One output of the cell. Front ends that ignore updates do not get it (see `mode`): they would keep its first state."""

    def __init__(self) -> None:
        self._handle: DisplayHandle | None = None

    @property
    def shown(self) -> bool:
        """Whether the output exists already."""
        return self._handle is not None

    def show(self, data: Mapping[str, str]) -> None:
        """Show the data, by MIME type, in place of what was shown before."""
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)  # type: ignore[no-untyped-call]
