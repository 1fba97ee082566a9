"""Patterns for failures in the log of vLLM 0.32, each with its cause, its hint, and the file that logs it.

The first pattern that is found wins, so special patterns stand before general ones. Patterns are searched in lines without
the prefix of logging (see `tracebacks`); ``^`` and ``$`` match at the ends of a line. Cause and hint are format strings for
the groups of the match, or functions of `hints`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vllm_magic.engine.failures import hints

if TYPE_CHECKING:
    import re
    from collections.abc import Callable
    from typing import TypeAlias

    MessageFunction: TypeAlias = Callable[[re.Match[str], hints.HintContext], str]


@dataclass(frozen=True)
class Sign:
    """One failure.

    Attributes:
        pattern: the regular expression. It must not begin with a repetition, and every repetition that is not at its end
            must have an upper bound, so that no line takes more than a few milliseconds.
        cause: what happened.
        hint: what to do about it.
        port: whether the failure means that another process has the server's TCP port.
    """

    pattern: str
    cause: str | MessageFunction
    hint: str | MessageFunction
    port: bool = False


_ARGUMENT = r"error: argument ([^\s:/]{1,100})(?:/\S{1,100})?:"  # --tensor-parallel-size/-tp
_GIB = r"\d{1,9}(?:\.\d{1,9})?"
_MORE_ROOM = "Raise --gpu-memory-utilization, or use more GPUs (--tensor-parallel-size)"
_RELEASE = "release what else holds it (%vllm gpu shows it)"

_COMMAND_LINE = (  # Python's argparse.py, and vllm/utils/argparse_utils.py; exit code 2
    Sign(r"error: unrecognized arguments: (.*)(?:\nHint: (.*))?", "vLLM does not know {0}", hints.flag_meant),
    Sign(
        rf"{_ARGUMENT} invalid choice: (.{{0,300}}?)(?:, maybe [^(\n]{{0,300}})? \(choose from ([^)\n]*)",
        "{0} cannot be {1}",
        hints.choice_meant,
    ),
    Sign(rf"{_ARGUMENT} invalid (\w{{1,100}}) value: (.*)", "{0} cannot be {2}", hints.number_meant),
    Sign(
        rf"{_ARGUMENT} .{{0,500}}\n {{0,20}}Invalid JSON: (.{{0,300}}?) \[type=json_invalid, input_value=(.{{0,300}}?), input_type",
        "{0} is no JSON: {1}",
        "It was given as {2}. Put JSON in single quotes: {0} '{{\"name\": 1}}'",
    ),
    Sign(r"^ *(Invalid JSON: .*?) \[type=", "{0}", "Put JSON in single quotes: --flag '{{\"name\": 1}}'"),
    Sign(rf"{_ARGUMENT} (.+)", "{0}: {1}", "Correct the value of {0}"),
    Sign(r"^vllm[\w ]*: error: (\w.*)", "{0}", "Look it up: vllm serve --help=all"),
    Sign(
        r"FileNotFoundError: \[Errno 2\] No such file or directory: '(.{1,500}\.ya?ml)'",
        "There is no file {0}",
        "Check the path behind --config",
    ),
)
_SOCKET = (  # vllm/entrypoints/launchers/launcher.py, setup_server
    Sign(
        r"\[Errno 98\]",
        "The port is taken",
        "Choose another --port, or leave it out for a free one",
        port=True,
    ),
    Sign(
        r"port must be 0-65535",
        "The port is none: it must be 0 to 65535",
        "Use 1 to 65535, or leave --port out for a free one",
    ),
)
_MODEL = (
    Sign(  # huggingface_hub/utils/_validators.py
        r"Repo id must be in the form .{0,300}?: '(.{0,300}?)'",
        "There is no model at {0}",
        "Check the path, or give a Hugging Face name such as Qwen/Qwen3-0.6B",
    ),
    Sign(  # huggingface_hub/_snapshot_download.py
        r"Cannot find an appropriate cached snapshot folder",
        hints.not_on_this_machine,
        "Check the name, or unset HF_HUB_OFFLINE to download it",
    ),
    Sign(  # huggingface_hub/utils/_http.py, in offline mode
        r"Cannot reach (\S+): offline mode is enabled",
        "The model is not on this machine, and going online is disabled: {0}",
        "Unset HF_HUB_OFFLINE to download it",
    ),
    Sign(  # transformers/utils/hub.py
        r"You are trying to access a gated repo|Cannot access gated repo for url",
        hints.gated,
        hints.gated_page,
    ),
    Sign(  # transformers/utils/hub.py
        r"(?<!\S)(\S+) is not a local folder and is not a valid model identifier",
        "There is no model called {0}",
        "Check the name; a private one needs HF_TOKEN in the environment",
    ),
    Sign(
        r"(?<!\S)(\S+) is not a valid git identifier", "The model has no revision {0}", hints.revisions
    ),  # hub.py
    Sign(  # huggingface_hub/utils/_http.py; the Hub also answers 401 for a model that does not exist
        r"(40[13]) Client Error",
        "Hugging Face refuses the model ({0})",
        "Check the name, and set HF_TOKEN to a token that may read it",
    ),
    Sign(  # transformers/dynamic_module_utils.py
        r"The repository (\S+) contains custom code which must be executed",
        "{0} brings code of its own, and that is not run unasked",
        "Look at it, and add --trust-remote-code if you trust it",
    ),
    Sign(  # vllm/transformers_utils/config.py
        r"Failed to load the model config\. If the model is a custom model",
        "The model's configuration needs code of its own, and that is not run unasked",
        "Look at it, and add --trust-remote-code if you trust it; or upgrade transformers",
    ),
    Sign(  # transformers/models/auto/configuration_auto.py
        r"has model type `(.{0,300}?)` but Transformers does not recognize this architecture",
        "Transformers does not know the model type {0}",
        "Upgrade transformers beside vLLM, or check model_type in the model's config.json",
    ),
    Sign(  # vllm/model_executor/models/registry.py
        r"Model architectures \[(.{0,300}?)\] are not supported for now",
        "vLLM does not support the architecture {0}",
        "Choose another model, or a newer vLLM",
    ),
    Sign(  # vllm/model_executor/model_loader/default_loader.py
        r"Cannot find any model weights with `(.{0,500}?)`",
        "There are no weights in {0}",
        "Check that it was downloaded whole (*.safetensors), or choose another --load-format",
    ),
    Sign(  # vllm/model_executor/model_loader/__init__.py
        r"Load format `(.{0,300}?)` is not supported",
        "There is no load format {0}",
        "Leave --load-format out, or look it up: vllm serve --help=load-format",
    ),
)
_CONFIGURATION = (
    Sign(  # vllm/config/model.py
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)",
        "The model takes {1} tokens, and --max-model-len asks for {0}",
        "Lower --max-model-len to {1}",
    ),
    Sign(  # vllm/config/model.py
        r"Total number of attention heads \((\d{1,9})\) must be divisible by tensor parallel size \((\d{1,9})\)",
        "The model's {0} attention heads cannot be divided among {1} GPUs",
        hints.parallel_sizes,
    ),
    Sign(  # vllm/config/model.py
        r"Sleep mode is not supported on current platform",
        "Sleep mode is not supported on this platform",
        "Leave --enable-sleep-mode out: it needs a GPU",
    ),
    Sign(  # vllm/model_executor/model_loader/weight_utils.py
        r"Cannot find the config file for (\w+)",
        "The model is not quantized with {0}: it has no configuration for that",
        "Leave --quantization out, or choose a model that was quantized with {0}",
    ),
    Sign(  # vllm/config/vllm.py
        r"The quantization method (\w+) is not supported for the current GPU\. Minimum capability: (\d{2,3})\. "
        r"Current capability: (\d{2,3})",
        hints.capability,
        "Choose another --quantization, or another GPU",
    ),
    Sign(  # vllm/config/vllm.py
        r"torch\.(\w+) is not supported for quantization method (\w+)\.? ?(?:Supported dtypes: \[(.{0,300}?)\])?",
        "{1} does not work with {0}",
        hints.dtypes,
    ),
    Sign(  # vllm/platforms/cuda.py
        r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0\.(?: Your (.{0,100}?) GPU (.{0,100}?)\. )?",
        hints.no_bfloat16,
        "Add --dtype half",
    ),
)
_MEMORY = (
    Sign(  # vllm/v1/worker/utils.py, request_memory; up to vLLM 0.13 without the device
        rf"Free memory on device( \S+)? \((?P<free>{_GIB})/(?P<total>{_GIB}) GiB\) on startup is less than .{{0,100}}?"
        rf"\([\d.]{{1,20}}, (?P<needed>{_GIB}) GiB\)",
        "GPU{0} has {1} GiB free, and vLLM wants {3} GiB of its {2} GiB",
        hints.utilization,
    ),
    Sign(  # vllm/v1/core/kv_cache_utils.py
        r"No available memory for the cache blocks",
        "The weights leave no room for the KV cache",
        _MORE_ROOM,
    ),
    Sign(  # vllm/v1/core/kv_cache_utils.py
        r"max seq len \((\d{1,20})\), \(?([\d.]{1,20}) GiB KV cache is needed.{0,300}?memory \(([\d.]{1,20}) GiB\)"
        r"(?:.{0,300}?estimated maximum model length is (\d+))?",
        "One request of {0} tokens needs {1} GiB of KV cache, and there are {2} GiB",
        hints.length_that_fits,
    ),
    Sign(  # vllm/v1/worker/gpu_model_runner.py
        r"Failed to load model - not enough GPU memory",
        "The weights do not fit into the GPU's memory",
        f"Use more GPUs (--tensor-parallel-size) or --quantization, or {_RELEASE}",
    ),
    Sign(  # torch
        r"OutOfMemoryError: CUDA out of memory\. Tried to allocate ([\d.]+ \w+)\. GPU (\d+) has a total capacity of "
        r"([\d.]+ \w+) of which ([\d.]+ \w+) is free",
        "GPU {1} is out of memory: vLLM wanted {0} more, and {3} of its {2} were free",
        f"Lower --gpu-memory-utilization or --max-num-seqs, or {_RELEASE}",
    ),
    Sign(  # vllm/v1/worker/gpu_model_runner.py
        r"CUDA out of memory occurred when warming up (?:sampler|pooler) with (\d+) dummy requests",
        "The GPU's memory does not suffice for {0} requests at once",
        "Set --max-num-seqs below {0}, or lower --gpu-memory-utilization",
    ),
    Sign(
        r"OutOfMemoryError: (.*)",
        "Out of GPU memory: {0}",
        "Lower --gpu-memory-utilization or --max-num-seqs",
    ),
)
_MACHINE = (
    Sign(  # vllm/config/device.py
        r"Failed to infer device type",
        "vLLM finds no GPU that it can use",
        "Check CUDA_VISIBLE_DEVICES and the driver: %vllm doctor tells what is wrong",
    ),
    Sign(  # vllm/v1/engine/core_client.py
        r"Timed out waiting for engine core processes to start\..{0,500}?Waited (\d{1,9})s",
        "The engine was not ready after {0} s",
        hints.more_time,
    ),
    Sign(  # the same up to vLLM 0.17
        r"Timed out waiting for engines to send ?initial message on input socket",
        "The engine was not ready in time",
        "Give it more time: --env VLLM_ENGINE_READY_TIMEOUT_S=1200",
    ),
    Sign(  # Python's dynamic loader
        r"ImportError: (\S{1,300}\.so\S{0,100}: undefined symbol.*)",
        "vLLM's compiled part does not fit what is installed beside it: {0}",
        "Install vLLM again, in an environment of its own: its torch was changed",
    ),
    Sign(
        r"ModuleNotFoundError: No module named '(.{0,300}?)'",
        "vLLM misses the module {0}",
        "Install it beside vLLM",
    ),
    Sign(r"No such file or directory: '(.{0,500}?)'", "There is no file {0}", "Check the path"),
)
_GENERAL = (
    Sign(  # vllm/transformers_utils/config.py
        r"Invalid repository ID or local directory specified: {0,20}'(.{0,500}?)'",
        "There is no model in {0}",
        "Check the name; a folder needs a config.json",
    ),
    Sign(  # pydantic
        r"^([\w.\[\],]+)\n +Input (should .{0,500}?) \[type=\w+(?:, input_value=(.{0,500}?), input_type)?",
        hints.field,
        hints.field_hint,
    ),
)

SIGNS = (*_COMMAND_LINE, *_SOCKET, *_MODEL, *_CONFIGURATION, *_MEMORY, *_MACHINE, *_GENERAL)

# How a process ended. An error that was logged before says more, and errors that follow from the end say less.
EXITED = (
    Sign(  # vllm/v1/executor/multiproc_executor.py
        r"Worker proc (\S+) died unexpectedly \(exit code: (-?\d{1,9}|None)\)",
        hints.process_died,
        hints.process_hint,
    ),
    # The same up to vLLM 0.24, and vllm/v1/executor/ray_executor_v2.py. As the first line of a death, it is the cause.
    Sign(
        r"\A(?:Worker proc (?=\w)|RayWorkerProc (?=rank))(\S+) died unexpectedly, ",
        "The worker {0} ended, and vLLM does not say why",
        hints.engine_died_hint,
    ),
    Sign(  # vllm/v1/utils.py, where there are several API servers
        r"Process (\S+) \(PID: \d+\) died with exit code (-?\d{1,9}|None)",
        hints.process_died,
        hints.process_hint,
    ),
)

# The last resort for an engine that died without a known sign: vllm/v1/engine/exceptions.py, vllm/v1/utils.py.
ENGINE_DIED = Sign(
    r"EngineDeadError: EngineCore encountered an issue|Engine core proc(?:ess)? \S+ died unexpectedly|"
    r"Engine core initialization failed\. See root cause above",
    hints.engine_died,
    hints.engine_died_hint,
)
