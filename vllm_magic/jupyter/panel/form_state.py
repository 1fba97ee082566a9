"""The state of a panel's form: its values and their assessment."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vllm_magic.jupyter.panel import form
from vllm_magic.jupyter.panel.messages import FormFields, Message

if TYPE_CHECKING:
    from vllm_magic.gpu.devices import Snapshot
    from vllm_magic.jupyter.panel.background_work import Done

STEP = 2**28  # bytes; free memory is compared in steps of this size


class FormState:
    """The form's values and their assessment. Only the controller's thread uses them.

    An assessment takes time: `begin_assessment` notes that one begins, and `finish_assessment` accepts its result.

    Attributes:
        fields: the form's values with their keys, which views never get.
    """

    def __init__(self) -> None:
        self.fields = FormFields()
        self._writer = ""  # the id of the view that wrote the values
        self._assessment = form.Assessment()
        self._under_way = 0
        self._assessed_by: tuple[int | None, ...] = ()  # free memory of each GPU then, in steps

    @property
    def claims(self) -> dict[int, int]:
        """The bytes that the start would take on each GPU, by the index of the GPU."""
        return dict(self._assessment.claims)

    def empty(self) -> None:
        """Clear the form."""
        self.fields, self._writer = FormFields(), ""
        self._assessment = form.Assessment()

    def write(self, message: Message) -> FormFields:
        """Accept the values that a view wrote; return them with the keys that the view did not see."""
        self.fields = form.unmasked(message.fields, self.fields)
        self._writer = message.view
        return self.fields

    def begin_assessment(self, fields: FormFields, now: Snapshot | None) -> None:
        """Note that an assessment of these values begins, for the GPUs as they are now."""
        self.fields = fields
        self._assessed_by = _free(now)
        self._under_way += 1

    def finish_assessment(self, done: Done) -> None:
        """Accept the result of an assessment; ignore it where the form has other values by now."""
        self._under_way -= 1
        if done.assessment is not None and done.assessed == self.fields:
            self._assessment = done.assessment

    def is_outdated(self, now: Snapshot | None) -> bool:
        """Whether the free memory has changed since the assessment, as after the release of a server."""
        return bool(self.fields.model) and not self._under_way and _free(now) != self._assessed_by

    def picture(self, models: list[str]) -> dict[str, Any]:
        """Return the form as the views draw it: without keys, with the models to suggest."""
        return {
            **asdict(form.masked(self.fields)),
            "view": self._writer,
            "text": self._assessment.text,
            "wrong": self._assessment.wrong,
            "models": models,
        }


def _free(now: Snapshot | None) -> tuple[int | None, ...]:
    """Return the free memory of each GPU in steps of `STEP`; None where it is not known."""
    return tuple(None if gpu.free is None else gpu.free // STEP for gpu in (now.gpus if now else ()))
