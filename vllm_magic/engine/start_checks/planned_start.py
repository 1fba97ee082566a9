"""The facts about a server that is to be started, for the checks. Each fact is read once, when a check first needs it."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllm_magic.engine import executable as programs
from vllm_magic.engine.flags import flag_table, flags, given
from vllm_magic.engine.models import model_files
from vllm_magic.errors import NoEstimate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vllm_magic.engine.flags.flag_table import FlagTable
    from vllm_magic.engine.flags.given import GivenFlag
    from vllm_magic.engine.spec import ServerSpec
    from vllm_magic.gpu.devices import Snapshot

NO_VALUE = (
    "",
    "None",
)  # vLLM reads them as no value where a flag may have none (optional_type in engine/arg_utils.py)
OMNI = (
    "--omni"  # with this flag, the package vLLM-Omni reads the command line (vLLM's entrypoints/cli/main.py)
)
LEAST_WAIT = 0.2  # seconds; a disk and a name server that work answer in milliseconds
# With these variables, the model's name is one of ModelScope, or vLLM looks for it in a file (vLLM's envs.py).
_NAME_VARIABLES = ("VLLM_USE_MODELSCOPE", "VLLM_MODEL_REDIRECT_PATH")


class PlannedStart:
    """A server that is to be started on this machine.

    Args:
        spec: the server.
        environ: the kernel's environment.
        executable: the absolute path of vLLM; None if only the model is checked.
        snapshot: the GPUs as they are now; None if they have not been read.
        freed_ports: ports that are in use now, and will be free when the server starts.

    Attributes:
        environ: the kernel's environment with the variables of --env.
        deadline: when checks stop to wait for a disk or a name server, by `time.monotonic`; None for their own limits.
    """

    def __init__(
        self,
        spec: ServerSpec,
        environ: Mapping[str, str],
        executable: str | None,
        snapshot: Snapshot | None = None,
        freed_ports: Collection[int] = (),
    ) -> None:
        self.spec = spec
        self.environ = {**environ, **dict(spec.env)}
        self.executable = executable
        self.snapshot = snapshot
        self.freed_ports = freed_ports
        self.deadline: float | None = None

    def limit(self, most: float) -> float:
        """Return the seconds that a check may wait: at most these, and until the deadline."""
        if self.deadline is None:
            return most
        return min(most, max(LEAST_WAIT, self.deadline - time.monotonic()))

    @functools.cached_property
    def table(self) -> FlagTable | None:
        """All flags of this vLLM; None if they are not known for certain."""
        if self.executable is None or flag_table.may_select_another(self.spec.env):
            return None
        return flag_table.load(self.executable, certain=True)

    @functools.cached_property
    def version(self) -> str:
        """The version of this vLLM; "" if it is not known."""
        if self.executable is None or flag_table.may_select_another(self.spec.env):
            return ""
        return self.table.version if self.table else programs.version(self.executable) or ""

    @property
    def is_omni(self) -> bool:
        """Whether vLLM-Omni reads the command line. Its flags are not known."""
        return OMNI in self.spec.all_args

    @functools.cached_property
    def given(self) -> tuple[GivenFlag, ...]:
        """The flags with their values, those of a --config file too; () if the flags of this vLLM are not known for certain."""
        return tuple(given.read(self.spec.all_args, self.table)) if self.table else ()

    @functools.cached_property
    def folder(self) -> Path | None:
        """The folder with the model's files: a local folder, or the snapshot in the cache; None if neither exists."""
        return model_files.find(self.spec, self.environ)

    @property
    def path(self) -> Path:
        """The path of the model, if the name of the model is a path."""
        return Path(self.spec.cwd, self.spec.model)

    @property
    def has_other_source(self) -> bool:
        """Whether vLLM may take the model from somewhere else than the path or the Hub, or its configuration from elsewhere."""
        return any(map(self.environ.get, _NAME_VARIABLES)) or self.has(OMNI, "--hf-config-path")

    @functools.cached_property
    def config(self) -> dict[str, Any] | None:
        """The model's config.json; None if it is not on this machine, or cannot be read."""
        if self.folder is None:
            return None
        try:
            return model_files.read_json(self.folder / "config.json")
        except (OSError, NoEstimate):
            return None

    @property
    def tensor_parallel_size(self) -> int:
        """The number of GPUs for tensor parallelism; 1 if the flag has no valid number."""
        return flags.whole_number(self.spec.all_args, "--tensor-parallel-size", "-tp", default=1)

    @property
    def pipeline_parallel_size(self) -> int:
        """The number of stages for pipeline parallelism; 1 if the flag has no valid number."""
        return flags.whole_number(self.spec.all_args, "--pipeline-parallel-size", "-pp", default=1)

    def last(self, name: str) -> GivenFlag | None:
        """Return the last flag in `given` that means this option; None if there is none."""
        option = self.table.find(name) if self.table else None
        return next((flag for flag in reversed(self.given) if flag.option is option), None)

    def value(self, *names: str) -> str | None:
        """Return the value of the last flag with one of these names; None if there is no such flag."""
        return flags.value(self.spec.all_args, *names)

    def has(self, *names: str) -> bool:
        """Whether the command line has one of these flags, with or without a value."""
        return flags.has(self.spec.all_args, *names)
