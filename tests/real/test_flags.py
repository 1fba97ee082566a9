"""The flags of the CPU build of vLLM itself: that they are read, and that no flag and no value that it takes is refused."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from vllm_magic.children import flag_reading
from vllm_magic.engine.flags import flag_table, given
from vllm_magic.engine.start_checks import flag_values, unknown_flags

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]

LIMIT = 500.0
# Asks vLLM's own parser, as `vllm serve` does: what does it say about each of the lines?
PARSE = """
import contextlib, io, json, sys
lines = json.loads(sys.argv[1])
reply = sys.argv[2]
sys.argv = ["vllm"]
from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser
main = FlexibleArgumentParser(prog="vllm")
cmd_init()[0].subparser_init(main.add_subparsers(dest="subparser"))
errors = []
for line in lines:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main.parse_args(["serve", "tiny", *line])
    errors.append(said.getvalue().partition("error: ")[2])
with open(reply, "w") as file:
    json.dump(errors, file)
"""
TAKEN = [
    ["--max-model-len", "4096"],
    ["--max-model-len=4k"],
    ["--max_model_len", "-1"],
    ["--max-model-le", "64"],
    ["--enforce-eager", "--no-enable-prefix-caching", "--no_enable_chunked_prefill"],
    ["-tp", "2", "-O3", "-O.mode=3", "-O=2", "-cc.mode", "3"],
    ["--hf-overrides.a.b", "1", "--hf_overrides.c+=1,2"],
    ["--hf-overrides.a", "--strange"],
    ["--hf-overrides", '{"a": "--strange"}'],
    ["--compilation-config.mode", "3"],
    ["--served-model-name", "a", "b", "--seed", "1"],
    ["--chat-template", "--- it is --strange"],
    ["--gpu-memory-utilization", "0.5"],
    ["--api-key", "a"],
    ["--disable-log-stats"],
]
NOT_TAKEN = [
    ["--max-modell-len", "4096"],
    ["--max_modell_len=4096"],
    ["--enforce-eager", "--strange"],
    ["--strange.a", "1"],
    ["--no-max-model-len"],
    ["--Max-Model-Len", "1"],
    ["--hf-overrides.a=1", "--strange"],
    ["-max-model-len", "1"],
    ["--disable-log-requests"],
    ["--guided-decoding-backend", "xgrammar"],
]
VALUES_TAKEN = [
    ["--dtype", "half", "--quantization", "a_method_of_a_plugin", "--kv-cache-dtype=fp8"],
    ["--max-model-len", "25.6k", "--max-num-batched-tokens", "8K", "--max-num-seqs", "+8", "--seed", "1_0"],
    ["--max-model-len", "auto", "--gpu-memory-utilization", "9e-1"],
    ["--limit-mm-per-prompt", '{"image": 2}', "--allowed-origins", '["*"]'],
    ["--compilation-config", '{"cudagraph_capture_sizes": [1, 2]}', "--hf-overrides", '{"a": 1}'],
    ["--served-model-name", "a", "b", "--collect-detailed-traces", "model", "worker"],
    ["--max-lora-rank", "64", "--lora-modules", "a=b/c", '{"name": "a", "path": "b"}'],
]
VALUES_NOT_TAKEN = [
    ["--dtype", "float99"],
    ["--max-num-seqs", "many"],
    ["--max-num-seqs", "8k"],
    ["--max-model-len", "8,192"],
    ["--max-model-len", "1.5K"],
    ["--gpu-memory-utilization", "90%"],
    ["--seed", "--enforce-eager"],
    ["--limit-mm-per-prompt", "image=2"],
    ["--compilation-config", "{mode:3}"],
    ["--hf-overrides", "{'a': 1}"],
    ["--enforce-eager", "true"],
    ["--enforce-eager=true"],
    ["--seed", "1", "2"],
    ["--max-lora-rank", "7"],
    ["--served-model-name", "--seed", "1"],
]


def test_what_is_read(vllm, tmp_path, monkeypatch):
    """The table and vLLM's own parser agree on what is a flag."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = str(vllm.executable)
    assert flag_reading.table(path) is None
    assert flag_reading._attempts[path].process.process.wait(LIMIT) == 0
    table = flag_table.load(path)
    assert table
    assert table.version == "0.32.0+cpu"
    assert len(table.options) > 300
    assert len(table.by_string) > 400
    assert all(name.startswith("torchinductor_") for name in os.listdir(tmp_path / "tmp"))  # a cache of torch
    length = table.find("--max-model-len")
    assert (length.kind, length.group) == ("int", "ModelConfig")
    assert length.help == "Model context length (prompt and output)"
    assert {"auto", "bfloat16", "float32"} <= set(table.find("--dtype").choices)
    assert table.find("--enforce-eager") is table.find("--no-enforce-eager")
    assert table.find("-tp").default == "1"
    assert table.find("--model")
    assert table.find("--dtype").strict
    assert not table.find("--quantization").strict
    assert {"hermes", "qwen3_coder"} <= set(table.find("--tool-call-parser").choices)
    assert {"deepseek_r1", "qwen3"} <= set(table.find("--reasoning-parser").choices)
    assert [table.find(flag).nargs for flag in ("--seed", "--enforce-eager", "--served-model-name")] == [
        "1",
        "0",
        "+",
    ]
    # One of vLLM's own registry, and one that only Transformers has, whose code vLLM runs then.
    assert {"LlamaForCausalLM", "BioGptForCausalLM"} <= set(table.architectures)
    flag_reading.end()
    lines = [*TAKEN, *NOT_TAKEN, *VALUES_TAKEN, *VALUES_NOT_TAKEN]
    said = errors(vllm, lines, tmp_path / "reply")
    of_flags, of_values = said[: len(TAKEN) + len(NOT_TAKEN)], said[len(TAKEN) + len(NOT_TAKEN) :]
    unknown = [bool(unknown_flags.find(line, table)) for line in (*TAKEN, *NOT_TAKEN)]
    assert unknown == [False] * len(TAKEN) + [True] * len(NOT_TAKEN)
    assert unknown == ["unrecognized arguments" in one for one in of_flags]
    wrong = [
        any(map(flag_values.find, given.read([*line, "--port", "1"], table)))
        for line in (*TAKEN, *VALUES_TAKEN, *VALUES_NOT_TAKEN)
    ]
    assert wrong == [False] * (len(TAKEN) + len(VALUES_TAKEN)) + [True] * len(VALUES_NOT_TAKEN)
    assert wrong[len(TAKEN) :] == [bool(one) for one in of_values]


def errors(vllm, lines, reply) -> list[str]:
    """Of each line: the error of vLLM's own parser; "" for none."""
    command = [vllm.python, "-c", PARSE, json.dumps(lines), reply]
    ended = subprocess.run(command, env={**os.environ, **vllm.env}, capture_output=True, timeout=LIMIT)
    assert ended.returncode == 0, ended.stderr.decode()
    return json.loads(reply.read_text())
