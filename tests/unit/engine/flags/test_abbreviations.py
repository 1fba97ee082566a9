"""The beginning of a flag, which vLLM takes for the flag: what we read ourselves is written out before all else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vllm_magic
from vllm_magic.engine import command
from vllm_magic.engine.flags import abbreviations
from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.masking import mask_words

KEY = "key-of-my-own-1"
TABLE = FlagTable(
    "0.32.0",
    (
        FlagOption(("--api-key",)),
        FlagOption(("--api-server-count", "-asc"), "int"),
        FlagOption(("--hf-token",)),
        FlagOption(("--hf-overrides",), "loads"),
        FlagOption(("--host",)),
        FlagOption(("--port",), "int"),
        FlagOption(("--uds",)),
        FlagOption(("--kv-cache-memory-bytes",)),
        FlagOption(("--kv-cache-metrics",)),
        FlagOption(("--tensor-parallel-size", "-tp"), "int"),
        FlagOption(("--ssl-certfile",)),
        FlagOption(("--seed",), "int"),
        FlagOption(("--served-model-name",)),
        FlagOption(("--enable-sleep-mode",), "bool"),
        FlagOption(("--enable-sl",), "bool"),  # another version's
    ),
)


@pytest.fixture(autouse=True)
def program(tmp_path, monkeypatch) -> Path:
    """A program to be found; it is never run."""
    path = tmp_path / "vllm"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", str(path))
    return path


@pytest.fixture
def table(monkeypatch) -> None:
    """The flags are known."""
    monkeypatch.setattr("vllm_magic.engine.flags.flag_table.load", lambda _path, **_: TABLE)


@pytest.mark.usefixtures("table")
class TestKnown:
    @pytest.mark.parametrize(
        ("line", "written"),
        [
            ("--hos 127.0.0.2", "--host 127.0.0.2"),
            ("--por=8001", "--port=8001"),
            ("--ten 2", "--tensor-parallel-size 2"),
            ("-t 2", "-tp 2"),
            ("-t=2", "-tp=2"),
            ("--ssl_c=a.pem", "--ssl-certfile=a.pem"),
            ("--kv_cache_mem 1G", "--kv-cache-memory-bytes 1G"),
            ("--served my_name", "--served-model-name my_name"),
            ("--see 1", "--see 1"),  # nothing of ours
            ("--api-s 1", "--api-s 1"),
            ("--enable-sl", "--enable-sl"),  # a flag of its own
            ("--tensor_parallel_size 2 -tp 2", "--tensor_parallel_size 2 -tp 2"),
            ("-- - -1 --", "-- - -1 --"),
            ("--strange --strange=1", "--strange --strange=1"),
        ],
    )
    def test_what_we_read_is_written_out(self, line, written):
        assert ServerSpec("m", tuple(line.split())).args == tuple(written.split())

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("--kv-cache-m 1G", "--kv-cache-m may be --kv-cache-memory-bytes or --kv-cache-metrics"),
            ("--h x", "--h may be --headless, --hf-config-path, --hf-overrides, --hf-token or --host"),
            (f"--api={KEY}", "--api may be --api-key or --api-server-count"),
            (f"--api-key.x {KEY}", "--api-key.x"),
            (f"--api-k.x={KEY}", "--api-k.x"),
        ],
    )
    def test_what_may_be_several_is_refused(self, line, said):
        with pytest.raises(InvalidOption) as caught:
            ServerSpec("m", tuple(line.split()))
        assert said in str(caught.value)
        assert KEY not in str(caught.value)

    @pytest.mark.parametrize("line", [f"--api-k {KEY}", f"--api_k={KEY}", f"--api-ke {KEY}"])
    def test_a_key_does_not_reach_argv(self, line):
        spec = ServerSpec("m", ("--seed", "1", *line.split()))
        assert spec == ServerSpec("m", ("--seed", "1", "--api-key", KEY))
        made = command.build(spec)
        assert made.endpoint.api_key == KEY
        assert KEY not in " ".join((*made.argv, repr(spec), repr(made)))

    @pytest.mark.parametrize("line", [f"--hf-t {KEY}", f"--hf_tok={KEY}"])
    def test_nor_a_token(self, line):
        spec = ServerSpec("m", tuple(line.split()))
        assert (spec.args, dict(spec.env)) == ((), {"HF_TOKEN": KEY})

    def test_what_cannot_work_is_refused_however_it_is_written(self):
        with pytest.raises(InvalidOption, match="a Unix socket"):
            command.build(ServerSpec("m", ("--ud", "/x")))
        with pytest.raises(InvalidOption, match="development routes"):
            command.build(ServerSpec("m", ("--enable-sle", "--hos", "0.0.0.0")))

    @pytest.mark.parametrize(
        "text", [f"api-k: {KEY}", f"api_k: [{KEY}]", f"hf-t: {KEY}", f'"api-key={KEY}": true', f"seed: --api-k={KEY}",
                 f"served: [a, --api-key, {KEY}]", f"api-key.x: {KEY}"]
    )  # fmt: skip
    def test_a_key_in_a_file_is_refused(self, tmp_path, text):
        (tmp_path / "v.yaml").write_text(text)
        with pytest.raises(InvalidOption, match=r"v\.yaml") as caught:
            ServerSpec("m", ("--config", "v.yaml"), cwd=str(tmp_path))
        assert KEY not in str(caught.value)

    def test_what_a_file_says_is_written_out(self, tmp_path):
        (tmp_path / "v.yaml").write_text("ten: 2\nhos: 127.0.0.2\nsee: 1")
        spec = ServerSpec("m", ("--config", "v.yaml"), cwd=str(tmp_path))
        assert command.gpu_count(spec.all_args) == 2
        assert command.build(spec).endpoint.host == "127.0.0.2"


@pytest.mark.parametrize(
    ("line", "flag"),
    [
        (f"--api-k {KEY}", "--api-key"),
        (f"--hf-t={KEY}", "--hf-token"),
        ("--hos x", "--host"),
        ("-t 2", "-tp"),
    ],
)
@pytest.mark.parametrize(
    "more", [{}, {"force": True}, {"executable": "/no/such"}, {"cluster": "auto"}], ids=str
)
def test_where_the_flags_are_not_known_they_are_refused(line, flag, more):
    """A newer vLLM may have others that begin so."""
    with pytest.raises(InvalidOption, match=rf"may be .*{flag}.*[Ww]rite it out") as caught:
        ServerSpec("m", tuple(line.split()), **more)
    assert KEY not in str(caught.value)


def test_one_that_is_written_out_is_not_looked_for(monkeypatch):
    monkeypatch.setattr("vllm_magic.engine.flags.flag_table.load", None)
    args = ("--max-model-len", "1", "-tp", "2", "--strange", "--hf-overrides", "{}", "-O3", "--seed=1", "--")
    assert ServerSpec("m", args).args == args


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    "line",
    [
        f"--hf-token {KEY} --hf-token --seed 1",
        f"--hf-token={KEY} --hf-token",
        f"--api-key=another {KEY} --seed 1",
    ],
)
def test_no_key_is_left_behind(line):
    with pytest.raises(InvalidOption) as caught:
        ServerSpec("m", tuple(line.split()))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "words", [["--api-k", KEY], [f"--api_ke={KEY}"], ["--hf-t", KEY], [f"--hf-toke={KEY}"], ["sh", "-c", f"vllm --api-k {KEY} x"]]
)  # fmt: skip
def test_it_is_masked_in_the_title_of_a_process(words):
    assert KEY not in " ".join(mask_words(words))


# Flag-like words of the package that are none of `vllm serve`, or whose abbreviation changes nothing for us.
OTHERS = """
    --backend --base-url --config --dataset-name --env --gpus --help --keep --name --no-wait --num-prompts --omni
    --random-input-len --random-output-len --ttl --model --look --see --no- -c -u -gb
"""
# Flags of which a check of a start finds no abbreviation: then vLLM decides. --config and --model begin some of them.
CHECKED = """
    --config-format --en --enable-auto-tool-choice --limit-mm-per-prompt --lora-modules --mm-processor-kwargs --model-impl
    --model-weights --override-generation-config --reasoning-parser --reasoning-parser-plugin --ssl-ca-certs --ssl-keyfile
    --stream-interval --tool-call-parser --tool-parser-plugin
"""


def test_every_flag_that_we_read_is_known():
    found = set()
    package = Path(vllm_magic.__file__).parent
    for folder in (
        "engine",
        "engine/capacity",
        "engine/models",
        "engine/start_checks",
        "provisioning",
        "lifecycle",
    ):
        for path in package.joinpath(folder).glob("*.py"):
            if path.name in ("common_flags.py", "abbreviations.py", "flags.py"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found |= set(re.findall(r"^--?[a-z][a-z-]+$", node.value))
    assert found - set(OTHERS.split()) - set(CHECKED.split()) - set(abbreviations.READ) == set()
