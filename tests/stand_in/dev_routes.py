"""The routes that vLLM has only where its environment asks for them: sleep mode, and LoRA adapters while it runs."""

from __future__ import annotations

import dataclasses
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from .options import Options

Answer = tuple[int, "dict[str, Any] | str"]


@dataclasses.dataclass
class DevRoutes:
    """What they change. As in vLLM, /sleep answers 200 also without sleep mode, and then nothing sleeps."""

    args: argparse.Namespace
    options: Options
    engines: Sequence[int]  # pidfds
    names: list[str]
    asleep: bool = False

    def get(self, path: str) -> Answer | None:
        """The answer; None where there is no such route."""
        if path == "/is_sleeping" and self._has("VLLM_SERVER_DEV_MODE"):
            return 200, {"is_sleeping": self.asleep}
        return None

    def post(self, path: str, body: dict[str, Any]) -> Answer | None:
        """The answer; None where there is no such route."""
        if self._has("VLLM_SERVER_DEV_MODE"):
            if path in ("/sleep", "/wake_up"):
                return self._nap(asleep=path == "/sleep")
            if path in ("/collective_rpc", "/reset_prefix_cache"):
                return 200, {}
        if self._has("VLLM_ALLOW_RUNTIME_LORA_UPDATING") and self.args.enable_lora:
            if path == "/v1/load_lora_adapter":
                return self._load(body["lora_name"], body["lora_path"])
            if path == "/v1/unload_lora_adapter":
                return self._unload(body["lora_name"])
        return None

    def _has(self, variable: str) -> bool:
        return os.environ.get(variable) == "1"

    def _nap(self, *, asleep: bool) -> Answer:
        if not asleep and not self.options.wakes:
            return 500, {
                "error": {"message": "CUDA out of memory", "type": "InternalServerError", "code": 500}
            }
        if asleep != self.asleep and self.args.enable_sleep_mode:
            self.asleep = asleep
            for engine in self.engines if self.options.sleeps else ():
                signal.pidfd_send_signal(engine, signal.SIGUSR2)
        return 200, {"status": "sleeping" if asleep else "awake"}

    def _load(self, name: str, path: str) -> Answer:
        if name in self.names:
            return self._refuse(400, f"The lora adapter '{name}' has already been loaded.")
        if not os.path.isdir(path):
            return self._refuse(404, f"Loading lora {name} failed: No adapter found for {path}")
        self.names.append(name)
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _unload(self, name: str) -> Answer:
        if name not in self.names[1:]:
            return self._refuse(404, f"The lora adapter '{name}' cannot be found.")
        self.names.remove(name)
        return 200, f"Success: LoRA adapter '{name}' removed successfully."

    def _refuse(self, code: int, message: str) -> Answer:
        return code, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}}
