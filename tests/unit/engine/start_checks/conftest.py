"""A start whose flags of vLLM are known."""

from __future__ import annotations

import pytest

from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable
from vllm_magic.engine.start_checks.planned_start import PlannedStart


def _switch(name: str) -> FlagOption:
    return FlagOption((f"--{name}", f"--no-{name}"), "bool", nargs="0")


TABLE = FlagTable(
    "0.32.0",
    (
        FlagOption(("--dtype",), choices=("auto", "bfloat16", "float", "float16", "float32", "half"), default="auto",
                   strict=True),
        FlagOption(("--quantization", "-q"), choices=("awq", "fp8")),
        FlagOption(("--max-lora-rank",), "int", ("1", "8", "16", "64"), "16", strict=True),
        FlagOption(("--moe-backend",), "<lambda>", ("auto", "triton"), "auto", strict=True),
        FlagOption(("--collect-detailed-traces",), "str", ("all", "model"), nargs="+", strict=True),
        FlagOption(("--max-model-len",), "human_readable_int_or_auto"),
        FlagOption(("--max-num-batched-tokens",), "human_readable_int"),
        FlagOption(("--max-num-seqs",), "int"),
        FlagOption(("--seed",), "int", default="0", optional=False),
        FlagOption(("--tensor-parallel-size", "-tp"), "int", default="1"),
        FlagOption(("--pipeline-parallel-size", "-pp"), "int", default="1"),
        FlagOption(("--cudagraph-capture-sizes",), "int", nargs="+"),
        FlagOption(("--gpu-memory-utilization",), "float", default="0.92"),
        FlagOption(("--limit-mm-per-prompt",), "loads", default="{}", optional=False),
        FlagOption(("--cpu-offload-gb",), "float", default="0"),
        FlagOption(("--kv-cache-dtype",), choices=("auto", "float16", "fp8", "fp8_inc"), default="auto", strict=True),
        FlagOption(("--allowed-origins",), "loads", default="['*']"),
        FlagOption(("--compilation-config", "-cc"), "parse_dataclass", default="CompilationConfig(mode=None)"),
        FlagOption(("--hf-overrides",), "union_dict_and_str", default="{}"),
        FlagOption(("--structured-outputs-config",), "parse_dataclass"),
        FlagOption(("--device-ids",)),
        FlagOption(("--device-memory-utilization",), "float"),
        FlagOption(("--port",), "int", default="8000"),
        FlagOption(("--revision",)),
        FlagOption(("--served-model-name",), nargs="+"),
        FlagOption(("--hf-token",), nargs="?"),
        FlagOption(("--chat-template",)),
        FlagOption(("--config",)),
        FlagOption(("--lora-modules",), nargs="+"),
        FlagOption(("--ssl-keyfile",)),
        FlagOption(("--ssl-certfile",)),
        FlagOption(("--ssl-ca-certs",)),
        FlagOption(("--tool-call-parser",), choices=("hermes", "qwen3_coder", "qwen3_xml")),
        FlagOption(("--tool-parser-plugin",)),
        FlagOption(("--reasoning-parser",), choices=("deepseek_r1", "qwen3")),
        FlagOption(("--reasoning-parser-plugin",)),
        FlagOption(("--kda-decode-backend",)),
        _switch("enforce-eager"),
        _switch("enable-log-requests"),
        _switch("enable-auto-tool-choice"),
        _switch("skip-tokenizer-init"),
    ),
)  # fmt: skip


@pytest.fixture
def planned(spec):
    """Return a function that makes the start of a spec, whose arguments it takes; with ``table=None`` no flags are known."""

    def make(
        *args: str,
        model: str = "tiny",
        table: FlagTable | None = TABLE,
        environ: dict[str, str] | None = None,
        **fields,
    ) -> PlannedStart:
        made = spec(model, *args, **fields)
        start = PlannedStart(made, environ or {}, made.executable)
        start.table = table
        return start

    return make
