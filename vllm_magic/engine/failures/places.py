"""What vLLM did when it raised an error for which there is no sign, by the file and the function that raised it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.failures.tracebacks import Frame


class ErrorPlace(NamedTuple):
    """Frames of a traceback, and what they mean.

    Attributes:
        frame: the regular expression that is searched in "path:function".
        doing: what vLLM did, after "raised it".
        hint: what often helps then.
    """

    frame: str
    doing: str
    hint: str


PLACES = (
    ErrorPlace(
        r":(?:\w*load_weights?|\w*weight_loader\w*|_load_\w+)$",
        "loading the weights",
        "they do not fit config.json, or this vLLM does not know how they are quantized",
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
    ErrorPlace(r"/vllm/lora/", "with an adapter", "check that it was trained for this model"),
    ErrorPlace(
        r"/layers/quantization/|/compressed_tensors/",
        "with the quantization",
        "check quantization_config in config.json; a newer vLLM may know it",
    ),
    ErrorPlace(r"/flashinfer/", "in FlashInfer", "another --attention-backend may work"),
    ErrorPlace(
        r"/torch/_(?:inductor|dynamo)/|/vllm/compilation/", "compiling the model", "try --enforce-eager"
    ),
    ErrorPlace(
        r"/vllm/v1/core/",
        "dividing the KV cache",
        "try it without --kv-cache-dtype, --speculative-config and --kv-transfer-config",
    ),
    ErrorPlace(r"/fused_moe/", "with the experts", "another --moe-backend or quantization may work"),
    ErrorPlace(r"/triton/", "in Triton, with a kernel", "another --attention-backend may work"),
    ErrorPlace(r"/vllm/v1/attention/", "with attention", "another --attention-backend may work"),
    ErrorPlace(r"/vllm/multimodal/", "with images, video or audio", "transformers may be too old or too new"),
    ErrorPlace(r"/transformers_modules/", "in the model's own code", "its page names what that needs"),
    ErrorPlace(r"/transformers/", "in transformers", "the model's page names the version that it needs"),
    ErrorPlace(r"/vllm/platforms/", "looking for GPUs", "%vllm doctor tells what is wrong"),
    ErrorPlace(r"/model_loader/", "loading the weights", "check that all files are there (%vllm pull)"),
    ErrorPlace(
        r"/vllm/model_executor/models/", "in its code for this model", "a newer vLLM may have mended it"
    ),
    ErrorPlace(
        r"/vllm/(?:distributed|v1/executor)/", "connecting its processes", "--env NCCL_DEBUG=INFO shows more"
    ),
    ErrorPlace(r"/vllm/(?:transformers_utils|config)/", "reading the configuration", "check config.json"),
)


def where_raised(process: str, frames: Sequence[Frame]) -> list[str]:
    """Return a clause that says which process raised an error, and where; [] if nothing is known.

    Args:
        process: as vLLM names it in a line's prefix, "(Worker_TP0 pid=88) "; "" if it is unknown.
        frames: the frames of the traceback, the deepest first.
    """
    who = process.strip("() ").partition(" ")[0]
    place = next(
        (one for path, function in frames for one in PLACES if re.search(one.frame, f"{path}:{function}")),
        None,
    )
    if place:
        return [f"{who or 'vLLM'} raised it {place.doing}: {place.hint}"]
    return [f"{who} raised it"] if who else []
