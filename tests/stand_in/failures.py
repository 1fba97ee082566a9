"""Failures as vLLM 0.32 logs them: the telling lines, and the phase in which they come."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

from . import log


@dataclasses.dataclass(frozen=True)
class Failure:
    """What is logged, and by whom: the leader while it reads the configuration, or the engine."""

    where: Literal["config", "engine"]
    error: str


class Failed(Exception):
    """This process ends with exit code 1; the argument is the last line of its traceback."""


RECORDED = {
    "no_such_repo": Failure(
        "config",
        "OSError: {model} is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'\n"
        "If this is a private repository, make sure to pass a token having permission to this repo.",
    ),
    "no_such_folder": Failure(
        "config",
        "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
        "'namespace/repo_name': '{model}'. Use `repo_type` argument if needed.",
    ),
    "gated": Failure(
        "config",
        "OSError: You are trying to access a gated repo.\n"
        "Make sure to have access to it at https://huggingface.co/{model}.",
    ),
    "custom_code": Failure(
        "config",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, The repository {model} contains custom code which must be executed to correctly load the "
        "model. Please pass the argument `trust_remote_code=True` to allow custom code to be run. "
        "[type=value_error, input_value=ArgsKwargs((), {{}}), input_type=ArgsKwargs]",
    ),
    "max_model_len": Failure(
        "config",
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
        "(max_position_embeddings=512.0 or model_max_length=None in model's config.json). "
        "[type=value_error, input_value=ArgsKwargs((), {{}}), input_type=ArgsKwargs]",
    ),
    "gpu_occupied": Failure(
        "engine",
        "ValueError: Free memory on device cuda:0 (2.1/23.68 GiB) on startup is less than desired GPU memory "
        "utilization (0.92, 21.79 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    ),
    "no_kv_room": Failure("engine", "ValueError: No available memory for the cache blocks."),
    "kv_too_small": Failure(
        "engine",
        "ValueError: To serve at least one request with the model's max seq len (131072), (14.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (6.5 GiB). Based on the available memory, the "
        "estimated maximum model length is 60848. Try increasing `gpu_memory_utilization` or decreasing "
        "`max_model_len` when initializing the engine.",
    ),
    "out_of_memory": Failure(
        "engine",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity of "
        "23.68 GiB of which 512.00 MiB is free.",
    ),
    "no_weights": Failure("engine", "RuntimeError: Cannot find any model weights with `{model}`"),
}


def of_model(model: str) -> str | None:
    """Return the failure that the name of `model` asks for: a path that is not there, or `missing/...`."""
    if model.startswith(("/", "./", "../", "~")) and not Path(model).exists():
        return "no_such_folder"
    return "no_such_repo" if model.startswith("missing/") else None


def check(key: str | None, where: str, model: str) -> None:
    """Log failure `key` and raise Failed, if it is one that comes in `where`."""
    if key is None or RECORDED[key].where != where:
        return
    error = RECORDED[key].error.format(model=model)
    if where == "engine":
        log.line(
            f"EngineCore failed to start.\nTraceback (most recent call last):\n{error}",
            "core.py:1171",
            "ERROR",
        )
    raise Failed(error)


def log_crash(error: Exception) -> None:
    """Log the traceback that ends this process, each line with the process's prefix, on stderr."""
    said = str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"
    for part in ["Traceback (most recent call last):", *said.split("\n")]:
        log.bare(f"({log.process} pid={os.getpid()}) {part}")
