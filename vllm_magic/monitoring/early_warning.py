"""Warn that a start will fail for lack of memory, about half a minute before vLLM itself fails."""

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
    """Estimates the memory for a start in a thread of its own, so that a slow disk or driver does not delay the start.

    Args:
        spec: the spec of the server that is started.
        probe: reads the GPUs.
    """

    def __init__(self, spec: ServerSpec, probe: Probe) -> None:
        self._spec = spec
        self._probe = probe
        self._environ = dict(os.environ)
        self._text = ""
        self._done = threading.Event()
        with suppress(RuntimeError):  # can't start new thread: there is no warning
            threading.Thread(target=self._run, name="vllm-magic fit", daemon=True).start()

    def warning(self, timeout: float = 0.0) -> str:
        """Return the warning as one line; "" if there is none, or an earlier call has returned it.

        Args:
            timeout: the seconds to wait for the estimate.
        """
        if not self._done.wait(timeout):
            return ""
        text, self._text = self._text, ""
        return text

    def _run(self) -> None:
        try:
            self._text = self._estimate()
        finally:
            self._done.set()

    def _estimate(self) -> str:
        environ = {**self._environ, **dict(self._spec.env)}
        # A warning is not worth a request to the network.
        if model_files.find(self._spec, environ) is None:
            return ""
        try:
            estimate = fit(self._spec, environ, self._probe.snapshot(), online=False)
        except VllmMagicError:  # the start reports the error
            return ""
        # Too little free memory gives no warning: the start waits for memory, and reports who holds it.
        if estimate.outcome not in (FitOutcome.TOO_LARGE, FitOutcome.REFUSED):
            return ""
        return f"{self._spec.name} will probably not start. {estimate.verdict} (%vllm fit shows more.)"
