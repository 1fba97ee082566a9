"""The state of the form of a panel: its values and their assessment."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_magic.jupyter.panel import form
from vllm_magic.jupyter.panel.messages import FormFields, Request

if TYPE_CHECKING:
    from vllm_magic.gpu.devices import GpuIndex, Snapshot
    from vllm_magic.jupyter.panel.background_work import WorkResult

STEP = 2**28  # bytes; free memory is compared in steps of this size


class FormState:
    """The values of the form and their assessment. Only the controller's thread uses them.

    An assessment runs in the background: `begin_assessment` notes its beginning, and `finish_assessment` takes its result.

    Attributes:
        fields: the values of the form with their keys, which views never get.
    """

    def __init__(self) -> None:
        self.fields = FormFields()
        self._writer = ""  # the id of the view that wrote the values
        self._assessment = form.Assessment()
        self._under_way = 0  # the number of assessments under way
        # The result of `_free_steps` at the last assessment.
        self._assessed_memory: tuple[int | None, ...] = ()

    @property
    def claims(self) -> dict[GpuIndex, int]:
        """The bytes that the start would take on each GPU, by the index of the GPU."""
        return dict(self._assessment.claims)

    def clear(self) -> None:
        """Clear the form."""
        self.fields, self._writer = FormFields(), ""
        self._assessment = form.Assessment()

    def write(self, request: Request) -> FormFields:
        """Take the values that a view wrote, and return them with the keys that are hidden from the view."""
        self.fields = form.unmasked(request.fields, self.fields)
        self._writer = request.view
        return self.fields

    def begin_assessment(self, fields: FormFields, snapshot: Snapshot | None) -> None:
        """Note that an assessment of these values begins, for the GPUs as they are now."""
        self.fields = fields
        self._assessed_memory = _free_steps(snapshot)
        self._under_way += 1

    def finish_assessment(self, result: WorkResult) -> None:
        """Take the result of an assessment; ignore it if the form has other values meanwhile."""
        self._under_way -= 1
        if result.assessment is not None and result.assessed == self.fields:
            self._assessment = result.assessment

    def is_outdated(self, snapshot: Snapshot | None) -> bool:
        """Whether the free memory has changed since the assessment, as after the release of a server."""
        return (
            bool(self.fields.model) and not self._under_way and _free_steps(snapshot) != self._assessed_memory
        )

    def view_state(self, models: list[str]) -> dict[str, Any]:
        """Return the form for the views, with its keys masked and these models as suggestions."""
        return {
            **asdict(form.masked(self.fields)),
            "view": self._writer,
            "text": self._assessment.text,
            "wrong": self._assessment.wrong,
            "models": models,
        }


def _free_steps(snapshot: Snapshot | None) -> tuple[int | None, ...]:
    """Return the free memory of each GPU in steps of `STEP`; None if it is not known."""
    return tuple(
        None if gpu.free is None else gpu.free // STEP for gpu in (snapshot.gpus if snapshot else ())
    )
