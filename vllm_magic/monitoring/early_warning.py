"""A look ahead beside a start: whether it will fail for want of memory, half a minute before vLLM says so."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from vllm_magic.engine.capacity.advice import FitOutcome
from vllm_magic.engine.capacity.fit import fit
from vllm_magic.engine.models import model_files
from vllm_magic.errors import VllmMagicError

if TYPE_CHECKING:
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.probe import Probe


class EarlyWarning:
    """Estimates in a thread of its own, so that no slow disk and no slow driver holds up the start.

    Args:
        spec: what is started.
        probe: what looks at the GPUs.
    """

    def __init__(self, spec: ServerSpec, probe: Probe) -> None:
        self._spec = spec
        self._probe = probe
        self._environ = dict(os.environ)
        self._line = ""
        self._known = threading.Event()
        with suppress(RuntimeError):  # can't start new thread: then nothing is foreseen
            threading.Thread(target=self._estimate, name="vllm-magic fit", daemon=True).start()

    def warning(self, timeout: float = 0.0) -> str:
        """A line that says why it will fail, once; "" where it may well fit, and until that is known.

        Args:
            timeout: seconds to wait until that is known.
        """
        if not self._known.wait(timeout):
            return ""
        line, self._line = self._line, ""
        return line

    def _estimate(self) -> None:
        try:
            self._line = self._warning()
        finally:
            self._known.set()

    def _warning(self) -> str:
        environ = {**self._environ, **dict(self._spec.env)}
        # Nobody is asked online for the sake of a warning.
        if model_files.find(self._spec, environ) is None:
            return ""
        try:
            found = fit(self._spec, environ, self._probe.snapshot(), online=False)
        except VllmMagicError:  # the start itself tells what is wrong
            return ""
        # Memory that others hold may be coming back; the start waits for it, and says who holds it.
        if found.outcome not in (FitOutcome.TOO_LARGE, FitOutcome.REFUSED):
            return ""
        return f"{self._spec.name} will probably not start. {found.verdict} (%vllm fit shows more.)"
