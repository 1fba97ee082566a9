"""The flags of the CPU build of vLLM itself: that they are read, and that none which it takes is refused."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from vllm_magic.children import flag_reading
from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.start_checks import unknown_flags

pytestmark = [pytest.mark.real_vllm, pytest.mark.timeout(600)]

LIMIT = 500.0
# Asks vLLM's own parser, as `vllm serve` does: which of the lines have a flag that it does not know?
PARSE = """
import contextlib, io, json, sys
lines = json.loads(sys.argv[1])
reply = sys.argv[2]
sys.argv = ["vllm"]
from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser
main = FlexibleArgumentParser(prog="vllm")
cmd_init()[0].subparser_init(main.add_subparsers(dest="subparser"))
unknown = []
for line in lines:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        main.parse_args(["serve", "tiny", *line])
    unknown.append("unrecognized arguments" in said.getvalue())
with open(reply, "w") as file:
    json.dump(unknown, file)
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
    lines = [*TAKEN, *NOT_TAKEN]
    known = [unknown_flags.find(line, table) is not None for line in lines]
    assert known == [False] * len(TAKEN) + [True] * len(NOT_TAKEN)
    assert known == unrecognized(vllm, lines, tmp_path / "reply")
    flag_reading.end()


def unrecognized(vllm, lines, reply) -> list[bool]:
    """Of each line: whether vLLM's own parser says that it has no such flag."""
    command = [vllm.python, "-c", PARSE, json.dumps(lines), reply]
    ended = subprocess.run(command, env={**os.environ, **vllm.env}, capture_output=True, timeout=LIMIT)
    assert ended.returncode == 0, ended.stderr.decode()
    return json.loads(reply.read_text())
