"""What vLLM did when it raised an error that no `Sign` describes, by the file and the function that raised the error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.failures.tracebacks import Frame


# A package beside vLLM. Those left out raise the errors of what they are given, or have a place of their own.
_PACKAGE = re.compile(
    r"-packages/(?!(?:vllm|torch|numpy|transformers|triton|pydantic\w*|zmq|requests|urllib3|http\w+|aiohttp|filelock|yaml|jinja2|"
    r"uvloop|starlette|_\w+)/)([A-Za-z]\w{0,60})/"
)


class ErrorPlace(NamedTuple):
    """A place in the code, and what an error there means.

    Attributes:
        frame: the regular expression for frames of a traceback, searched in "path:function".
        doing: what vLLM did there; it follows "raised it" in the hint.
        hint: the usual cause, or what often helps.
    """

    frame: str
    doing: str
    hint: str


PLACES = (
    ErrorPlace(
        r":(?:\w*load_weights?|\w*weight_loader\w*|_load_(?!chat_template)\w+)$",
        "loading the weights",
        "the weights do not fit config.json, or this vLLM does not know their quantization",
    ),
    ErrorPlace(
        r":load_params_config$",
        "reading params.json, which models in Mistral's own format have",
        "leave --config-format mistral, --tokenizer-mode mistral and --load-format mistral out",
    ),
    ErrorPlace(
        r"/aiter/(?:jit|ops)/|/rocm_aiter",
        "in AITER, AMD's own kernels",
        "--env VLLM_ROCM_USE_AITER=0 leaves them out",
    ),
    ErrorPlace(r"-packages/deep_gemm/", "in DeepGEMM", "--env VLLM_USE_DEEP_GEMM=0 leaves it out"),
    ErrorPlace(
        r"-packages/vllm_(?!flash_attn)\w+/",
        "in a plugin",
        "it must be of the version that is made for this vLLM",
    ),
    ErrorPlace(
        r":(?:initialize_attn_backend|get_attn_backends_for_group)$|IntermediateTensors|intermediate_tensors$",
        "dividing the model's layers",
        "--tensor-parallel-size in place of --pipeline-parallel-size may work, or a newer vLLM",
    ),
    ErrorPlace(
        r"/flashinfer/gemm|:\w*(?:fp4|fp8|scaled)_?(?:mm|gemm)\w*$",
        "multiplying quantized weights",
        "this GPU may not be able to do it: choose a model that is quantized otherwise, or try a newer vLLM",
    ),
    ErrorPlace(
        r"-packages/safetensors/", "reading the weights", "download the model again whole (%vllm pull)"
    ),
    ErrorPlace(
        r"/huggingface_hub/",
        "asking the Hub",
        "check the model's name, HF_TOKEN and the network (%vllm doctor)",
    ),
    ErrorPlace(
        r"/mistral_common/|/vllm/tokenizers/mistral",
        "with a tokenizer of Mistral's kind",
        "upgrade mistral_common beside vLLM, or add --tokenizer-mode hf",
    ),
    ErrorPlace(
        r"/vllm/plugins/",
        "in a plugin",
        "uninstall the plugin, or add --env VLLM_PLUGINS= to use none of them",
    ),
    ErrorPlace(
        r"-packages/ray/", "in Ray", "on one machine --distributed-executor-backend mp does without Ray"
    ),
    ErrorPlace(r"/lmcache/", "in LMCache", "its version and settings must fit this vLLM"),
    ErrorPlace(
        r"/distributed/kv_transfer/", "for the transfer of the KV cache", "check --kv-transfer-config"
    ),
    ErrorPlace(
        r"/vllm/(?:v1/)?spec_decode/|/config/speculative\.py",
        "for speculative decoding",
        "check --speculative-config",
    ),
    ErrorPlace(r"/vllm/lora/", "for a LoRA adapter", "check that it was trained for this model"),
    ErrorPlace(
        r"/vllm/_custom_ops\.py",
        "in a compiled kernel",
        "this GPU may not be able to do it: choose a model that is quantized otherwise, or try a newer vLLM",
    ),
    ErrorPlace(
        r"/vllm/(?:reasoning|tool_parsers)/",
        "in a parser",
        "check that --reasoning-parser and --tool-call-parser are those of this model, or leave them out",
    ),
    ErrorPlace(
        r"/layers/quantization/|/compressed_tensors/",
        "for the quantization",
        "check quantization_config in config.json; a newer vLLM may know it, or choose a model that is quantized otherwise",
    ),
    ErrorPlace(
        r"/fused_moe/",
        "computing the experts",
        "another --moe-backend (triton), a newer vLLM, or another quantization may work",
    ),
    ErrorPlace(
        r"/flashinfer/",
        "in FlashInfer",
        "another --attention-backend or --env VLLM_USE_FLASHINFER_SAMPLER=0 may work, or a newer vLLM",
    ),
    ErrorPlace(
        r"/torch_compile_cache/|/torchinductor_",
        "in compiled code from its cache",
        "remove ~/.cache/vllm/torch_compile_cache, or try --enforce-eager",
    ),
    ErrorPlace(
        r"/torch/_(?:inductor|dynamo)/|/vllm/compilation/", "compiling the model", "try --enforce-eager"
    ),
    ErrorPlace(
        r"/vllm/v1/core/",
        "setting up the KV cache",
        "try a start without --kv-cache-dtype, --speculative-config and --kv-transfer-config",
    ),
    ErrorPlace(r"/triton/", "in a Triton kernel", "another --attention-backend may work"),
    ErrorPlace(r"/vllm/v1/attention/", "computing attention", "another --attention-backend may work"),
    ErrorPlace(r"/vllm/multimodal/", "with images, video or audio", "transformers may be too old or too new"),
    ErrorPlace(
        r"/transformers_modules/", "in the model's own code", "the model's page names what its code needs"
    ),
    ErrorPlace(
        r"/transformers/",
        "in transformers",
        "it may be too new or too old for this vLLM: the model's page names the version, or try a newer vLLM",
    ),
    ErrorPlace(r"/vllm/platforms/", "looking for GPUs", "%vllm doctor tells what is wrong"),
    ErrorPlace(r"/model_loader/", "loading the weights", "check that all files are there (%vllm pull)"),
    ErrorPlace(
        r"/vllm/(?:tokenizers|transformers_utils/tokenizer)",
        "loading the tokenizer",
        "transformers may be too old or too new for the model; --tokenizer NAME takes another tokenizer",
    ),
    ErrorPlace(r":capture_model$", "capturing CUDA graphs", "try --enforce-eager"),
    ErrorPlace(
        r"/vllm/(?:model_executor/)?models/", "in its code for this model", "a newer vLLM may have a fix"
    ),
    ErrorPlace(
        # what calls all that a worker does says nothing of the error
        r"/vllm/(?:distributed|v1/executor)/(?!.*:(?:worker_main|worker_busy_loop|collective_rpc)$)",
        "connecting its processes",
        "--env NCCL_DEBUG=INFO shows more",
    ),
    ErrorPlace(
        r"/vllm/(?:transformers_utils|config)/",
        "reading the configuration",
        "check config.json; a newer vLLM or transformers may know the model",
    ),
    ErrorPlace(
        r":(?:_dummy_run|profile_run|determine_available_memory)$",
        "in its first trial run",
        "try --enforce-eager, and other values of the options that change how the model runs",
    ),
)


# What calls kernels, and what leaves these kernels out.
_CALLERS = (
    (r"/spec_decode/|eagle|medusa|dflash|_mtp\.py$", "Try it without --speculative-config"),
    (r"/fused_moe/", "Try another --moe-backend (triton or marlin), and --all2all-backend if it is given"),
    (r"/v1/sample/|flashinfer/sampling", "Add --env VLLM_USE_FLASHINFER_SAMPLER=0"),
    (r"/vllm/lora/", "Try it without --enable-lora"),
    (r"/v1/attention/|/vllm/attention/", "Try another --attention-backend (TRITON_ATTN or FLASH_ATTN)"),
)


def called_by(frames: Sequence[Frame]) -> list[str]:
    """Return a list with one clause, which says how to avoid a kernel, by what has called it; [] if that is not known.

    Args:
        frames: the frames of the traceback, the deepest first.
    """
    return next(
        ([hint] for path, _ in frames for caller, hint in _CALLERS if re.search(caller, path)),
        [],
    )


def importer(frames: Sequence[Frame]) -> str:
    """Return the package or the file that has asked for what cannot be imported; "" for vLLM itself, or if it is not known.

    Args:
        frames: the frames of the traceback, the deepest first.
    """
    path = next((path for path, _ in frames if not path.startswith("<") and "/importlib/" not in path), "")
    found = re.search(r"-packages/(\w+)", path)
    if found:
        return "" if found[1] == "vllm" else f"the package {found[1]}"
    return "" if "/vllm/" in path else path


def where_raised(process: str, frames: Sequence[Frame]) -> list[str]:
    """Return a list with one clause, which says which process raised an error, and where; [] if nothing is known.

    Args:
        process: the process as the prefix of a log line names it, "(Worker_TP0 pid=88) "; "" if the process is unknown.
        frames: the frames of the traceback, the deepest first.
    """
    name = process.strip("() ").partition(" ")[0]
    place = next(
        (
            known
            for path, function in frames
            for known in PLACES
            if re.search(known.frame, f"{path}:{function}")
        ),
        None,
    )
    package = _PACKAGE.search(frames[0].path) if frames else None
    if package and (place is None or not re.search(place.frame, f"{frames[0].path}:{frames[0].function}")):
        return [
            f"{name or 'vLLM'} raised it in the package {package[1]}: its version may not fit this vLLM (pip check)"
        ]
    if place:
        return [f"{name or 'vLLM'} raised it {place.doing}: {place.hint}"]
    return [f"{name} raised it"] if name else []
