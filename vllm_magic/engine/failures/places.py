"""What vLLM did when it raised an error without a sign, by the file and the function in which the error was raised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.failures.tracebacks import Frame


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
        r":(?:\w*load_weights?|\w*weight_loader\w*|_load_\w+)$",
        "loading the weights",
        "the weights do not fit config.json, or this vLLM does not know their quantization",
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
        "try a start without --kv-cache-dtype, --speculative-config and --kv-transfer-config",
    ),
    ErrorPlace(r"/fused_moe/", "with the experts", "another --moe-backend or quantization may work"),
    ErrorPlace(r"/triton/", "in Triton, with a kernel", "another --attention-backend may work"),
    ErrorPlace(r"/vllm/v1/attention/", "with attention", "another --attention-backend may work"),
    ErrorPlace(r"/vllm/multimodal/", "with images, video or audio", "transformers may be too old or too new"),
    ErrorPlace(
        r"/transformers_modules/", "in the model's own code", "the model's page names what its code needs"
    ),
    ErrorPlace(r"/transformers/", "in transformers", "the model's page names the version that it needs"),
    ErrorPlace(r"/vllm/platforms/", "looking for GPUs", "%vllm doctor tells what is wrong"),
    ErrorPlace(r"/model_loader/", "loading the weights", "check that all files are there (%vllm pull)"),
    ErrorPlace(r"/vllm/model_executor/models/", "in its code for this model", "a newer vLLM may have a fix"),
    ErrorPlace(
        r"/vllm/(?:distributed|v1/executor)/", "connecting its processes", "--env NCCL_DEBUG=INFO shows more"
    ),
    ErrorPlace(r"/vllm/(?:transformers_utils|config)/", "reading the configuration", "check config.json"),
)


def where_raised(process: str, frames: Sequence[Frame]) -> list[str]:
    """Return a clause that says which process raised an error, and where; [] if nothing is known.

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
    if place:
        return [f"{name or 'vLLM'} raised it {place.doing}: {place.hint}"]
    return [f"{name} raised it"] if name else []
