"""The command line: a few of vLLM's flags, its ways to write them, and its errors (argparse, exit code 2)."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

_SWITCHES = (
    "--async-scheduling --calculate-kv-scales --disable-fastapi-docs "
    "--disable-log-stats --enable-auto-tool-choice --enable-chunked-prefill --enable-expert-parallel "
    "--enable-log-requests --enable-lora --enable-prefix-caching --enable-prompt-tokens-details "
    "--enable-request-id-headers --enable-server-load-tracking --enable-sleep-mode --enforce-eager "
    "--skip-tokenizer-init --trust-remote-code --disable-uvicorn-access-log"
)
_TEXTS = (
    "--allowed-local-media-path --api-key --attention-backend --chat-template --config --config-format "
    "--disable-access-log-for-endpoints --distributed-executor-backend --download-dir --dtype --generation-config --host --kv-cache-dtype --load-format "
    "--logits-processors --lora-modules --model --model-impl --mm-encoder-attn-backend --quantization "
    "--reasoning-parser --revision --root-path --runner --ssl-ca-certs --ssl-certfile --ssl-keyfile "
    "--tokenizer --tokenizer-mode --tool-call-parser --uvicorn-log-level"
)
_INTEGERS = (
    "--block-size --kv-cache-memory-bytes --max-log-len --max-logprobs --max-loras --max-lora-rank "
    "--max-num-batched-tokens --max-num-seqs --seed --stream-interval --swap-space"
)
_DECIMALS = "--cpu-offload-gb --gpu-memory-utilization"
_JSON = (
    "--compilation-config --default-chat-template-kwargs --hf-overrides --kv-transfer-config --limit-mm-per-prompt "
    "--mm-processor-kwargs --override-generation-config --rope-scaling --speculative-config"
)


class _VllmParser(argparse.ArgumentParser):
    """argparse without abbreviations, whose usage line is as short as vLLM's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"usage: {self.prog} [model_tag] [options]\n")
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse(words: list[str]) -> argparse.Namespace:
    """Return the arguments of `vllm WORDS`, or end the process as vLLM does."""
    main = _VllmParser(prog="vllm")
    main.add_argument("-v", "--version", action="version", version="0.32.0")
    serve = main.add_subparsers(dest="command", required=True).add_parser("serve")
    add_flags(serve)
    args = main.parse_args([each for word in _split(words) for each in word])
    args.model = args.model_tag or args.model or "Qwen/Qwen3-0.6B"  # vLLM's default model
    args.api_key = args.api_key or os.environ.get("VLLM_API_KEY")
    args.non_default = {
        name: value
        for name, value in vars(args).items()
        if name not in ("command", "api_key") and value not in (None, serve.get_default(name))
    }
    if args.config is not None:
        Path(args.config).stat()  # its FileNotFoundError has the words of vLLM's
    return args


def add_flags(serve: argparse.ArgumentParser) -> None:
    """Add what `vllm serve` takes."""
    serve.add_argument("model_tag", nargs="?", default=None)
    for flag in _SWITCHES.split():
        serve.add_argument(flag, action=argparse.BooleanOptionalAction, default=False)
    for flag in _TEXTS.split():
        serve.add_argument(flag)
    for flag in _INTEGERS.split():
        serve.add_argument(flag, type=int)
    for flag in _DECIMALS.split():
        serve.add_argument(flag, type=float)
    for flag in _JSON.split():
        serve.add_argument(flag, type=_json)
    serve.add_argument("-O", "-cc", dest="optimization")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--served-model-name", nargs="+")
    serve.add_argument("--max-model-len", type=_length)
    serve.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    serve.add_argument("--pipeline-parallel-size", "-pp", type=int, default=1)
    serve.add_argument("--data-parallel-size", "-dp", type=int, default=1)
    serve.add_argument("--api-server-count", "-asc", type=int, default=1)
    serve.add_argument("--shutdown-timeout", type=float, default=0.0)


def _split(words: list[str]) -> list[list[str]]:
    """Bring vLLM's own spellings (`--max_len`, `--hf-overrides.a.b 1`, `-O.level=3`) to what argparse knows."""
    plain: list[list[str]] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        name, dot, key = flag.partition(".")
        if word.startswith("--"):
            name = name.replace("_", "-")
        if not word.startswith("-") or word[1:2].isdigit():
            plain.append([word])
        elif dot and name in (*_JSON.split(), "-O", "-cc"):
            value = value if equals else next(rest, "")
            plain.append([name, json.dumps({key: value})])
        else:
            plain.append([name + dot + key + equals + value])
    return plain


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        shown = f"Invalid JSON: expected value at line 1 column 1 [type=json_invalid, input_value={text!r}]"
        raise argparse.ArgumentTypeError(shown) from None


def _length(text: str) -> int:
    """Read a count like 4096, 4k or 4K, as vLLM's human_readable_int."""
    units = {"k": 1000, "K": 1024, "m": 10**6, "M": 2**20}
    try:
        return int(float(text[:-1]) * units[text[-1]]) if text[-1:] in units else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
