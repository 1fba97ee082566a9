"""Completion of `%vllm` lines: in process, in a real kernel, and as a terminal asks for it. The cursor is the | in a text."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace

import checkpoints
import pytest
import stand_in
from by_hand import LIMIT, until
from IPython.core.completer import provisionalcompleter
from IPython.terminal.ptutils import IPythonPTCompleter
from jupyter_client.manager import KernelManager
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from ptyprocess import PtyProcess
from shells import a_shell

from vllm_magic import ledger
from vllm_magic.children import flag_reading
from vllm_magic.commands.declaration import (
    Argument,
    CommandAction,
    CommandDeclaration,
    CommandOption,
    ValueKind,
)
from vllm_magic.commands.front_end import CELL
from vllm_magic.engine.flags import flag_table
from vllm_magic.jupyter.commands import registry
from vllm_magic.jupyter.completion import candidates, values
from vllm_magic.jupyter.completion.matcher import IDENTIFIER
from vllm_magic.ledger import Condition
from vllm_magic.manager.manager import manager

COMMANDS = registry.declarations()
NAMES = [name for name in COMMANDS if name != CELL]
OWN = [option.flag for option in COMMANDS["start"].options]
ADAPTERS = ["list", "load", "unload"]
ASKING = ["--system", "--temperature", "--max-tokens", "--as", "--json", "--history", "--new"]
DTYPES = ["auto", "bfloat16", "float16", "float32"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The stand-in with its flags known, a cache with models, and a folder with more: the environment of it."""
    root = tmp_path_factory.mktemp("world")
    vllm = str(stand_in.install_environment(root / "environment"))
    hub = root / "hf/hub"
    for name in (
        "models--Qwen--Qwen3-0.6B",
        "models--Qwen--Qwen3-32B-AWQ",
        "models--gpt2",
        "datasets--Qwen--data",
    ):
        (hub / name / "snapshots/abc").mkdir(parents=True)
    (hub / "models--Qwen--not-downloaded").mkdir()
    (hub / "models--Qwen--begun/snapshots").mkdir(parents=True)
    for folder in ("here/tiny", "here/deep/er", "here/.hidden", "here/with space"):
        (root / folder).mkdir(parents=True)
        (root / folder / "config.json").write_text("{}")
        checkpoints.safetensors(root / folder / "model.safetensors", {})
    (root / "here/template.jinja").write_text("")
    env = {
        "VLLM_MAGIC_CACHE": str(root / "cache"),
        "XDG_CACHE_HOME": str(root / "cache"),
        "HF_HOME": str(root / "hf"),
        "HOME": str(root / "here"),
        "VLLM_MAGIC_EXECUTABLE": vllm,
        "IPYTHONDIR": str(root / "ipython"),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VLLM_MAGIC_CACHE", env["VLLM_MAGIC_CACHE"])
        until(lambda: flag_reading.table(vllm), "the table is not built")
        flag_reading.end()
    return env


def set_up(world, monkeypatch) -> None:
    for name, value in world.items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(world["HOME"])


@pytest.fixture
def shell(home, world, monkeypatch):
    """A shell with the extension loaded."""
    set_up(world, monkeypatch)
    monkeypatch.setattr(manager._registry, "_past", {})  # servers of other tests, whose logs are there still
    with a_shell() as shell:
        shell.run_line_magic("load_ext", "vllm_magic")
        shell.run_line_magic("config", "VllmMagics.spare = 'off'")
        yield shell
        shell.run_line_magic("unload_ext", "vllm_magic")


def ask(shell, text: str) -> dict[str, str]:
    """What we offer, with its type; then nothing else is offered."""
    before, _, behind = text.partition("|")
    with provisionalcompleter():
        found = list(shell.Completer.completions(before + behind, len(before)))
    ours = {one.text: one for one in found if one._origin == IDENTIFIER}
    assert not ours or len(ours) == len(found)
    for one in ours.values():  # what is replaced is a part of the word at the cursor
        assert one.end == len(before)
        assert not set(before[one.start :]) & set(" =\n")
    return {text: one.type for text, one in ours.items()}


CASES = [
    ("%vllm |", NAMES),
    ("%vllm st|", ["start", "stop", "status"]),
    ("%vllm  st|", ["start", "stop", "status"]),
    ("x = %vllm sta|", ["start", "status"]),
    ("x=%vllm sta|", ["start", "status"]),
    ("    %vllm sta|", ["start", "status"]),
    ("import os\n%vllm sta|\nprint(1)", ["start", "status"]),
    ("%vllm sta|rt tiny", ["start", "status"]),
    ("%vllm logs |", ["-n"]),
    ("%vllm stop --|", ["--all", "--drain", "--grace"]),
    ("%vllm stop --g|", ["--grace"]),
    ("%vllm reap -|", ["--pid", "--yes"]),
    ("%vllm start --|", OWN),
    ("%vllm start --g|", ["--gpus"]),
    ("%vllm start --n|", ["--name", "--no-wait"]),
    ("%vllm start tiny --na|", ["--name"]),
    ("%vllm start tiny --max-m|", ["--max-model-len"]),
    ("%vllm start --name x tiny --max-m|", ["--max-model-len"]),
    ("%vllm start --force tiny --max-m|", ["--max-model-len"]),
    ("%vllm start tiny --max_m|", ["--max_model_len"]),
    ("%vllm start tiny --max_model-l|", ["--max_model-len"]),
    ("%vllm start tiny --max|", [
        "--max-log-len", "--max-logprobs", "--max-lora-rank", "--max-loras", "--max-model-len",
        "--max-num-batched-tokens", "--max-num-seqs",
    ]),
    ("%vllm start tiny --no-enfo|", ["--no-enforce-eager"]),
    ("%vllm start tiny --no_enfo|", ["--no_enforce_eager"]),
    ("%vllm start tiny \\\n    --seed 1 \\\n    --max-m|", ["--max-model-len"]),
    ("%vllm start tiny -t|", ["-tp"]),
    ("%vllm start tiny --dtype |", DTYPES),
    ("%vllm start tiny --dtype fl|", ["float16", "float32"]),
    ("%vllm start tiny --dtype=|", DTYPES),
    ("%vllm start tiny --dtype=b|", ["bfloat16"]),
    ("%vllm start tiny --d_type=b|", []),
    ("%vllm start tiny --kv_cache_dtype=|", ["auto", "fp8"]),
    ("%vllm start tiny --port=|", []),
    ("%vllm start tiny --shutdown-timeout |", ["0.0"]),
    ("%vllm start tiny --enforce-eager --dtype b|", ["bfloat16"]),
    ("%vllm start |", [
        "gpt2", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-32B-AWQ", "tiny", *OWN,
    ]),
    ("%vllm start Qw|", ["Qwen/Qwen3-0.6B", "Qwen/Qwen3-32B-AWQ"]),
    ("%vllm start qwen3-3|", ["Qwen/Qwen3-32B-AWQ"]),
    ("%vllm start Qwen/Qwen3-0|", ["Qwen/Qwen3-0.6B"]),
    ("%vllm start --name x --port 1 gp|", ["gpt2"]),
    ("%vllm start t|", ["tiny"]),
    ("%vllm start ./|", ["./deep/", "./tiny"]),
    ("%vllm start ./.|", ["./.hidden"]),
    ("%vllm start deep/|", ["deep/er"]),
    ("%vllm start ~/t|", ["~/tiny"]),
    ("%vllm start {HOME}/t|", ["{HOME}/tiny"]),
    ("%vllm start tiny --tokenizer gp|", ["gpt2"]),
    ("%vllm start tiny --chat-template t|", ["template.jinja", "tiny/"]),
    ("%vllm start tiny --chat_template=./te|", ["./template.jinja"]),
    ("%vllm start tiny --chat-template ~/te|", []),
    ("%vllm start --executable ~/te|", ["~/template.jinja"]),
    ("%vllm start --executable {HOME}/te|", ["{HOME}/template.jinja"]),
    ("%vllm switch --n|", ["--name", "--no-return"]),
    ("%vllm switch tiny --na|", ["--name"]),
    ("%vllm fit --n|", ["--name", "--no-wait"]),
    ("%vllm fit tiny --max-m|", ["--max-model-len"]),
    ("%vllm help |", NAMES),
    ("%vllm help st|", ["start", "stop", "status"]),
    ("%vllm spare |", ["status", "on", "off", "auto"]),
    ("%vllm sleep --level |", ["1", "2"]),
    ("%vllm pull gp|", ["gpt2"]),
    ("%vllm lora |", ADAPTERS),
    ("%vllm lora l|", ["list", "load"]),
    ("%vllm lora list |", ["--server"]),
    ("%vllm lora load mine d|", ["deep/"]),
    ("%vllm lora load mine ./d|", ["./deep/"]),
    ("%vllm lora load --server x mine ~/d|", ["~/deep/"]),
    ("%vllm lora unload mine --s|", ["--server"]),
    ("%%vllm |", ASKING),
    ("%%vllm --m|", ["--max-tokens"]),
    ("%%vllm some |", ASKING),
    ("  %%vllm  some --sys|", ["--system"]),
    ("\n%%vllm --te|", ["--temperature"]),
    ("%%vllm --system 'You are' --n|\nWhy?", ["--new"]),
]  # fmt: skip


def filled(world, text: str) -> str:
    return text.replace("{HOME}", world["HOME"])


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_what_is_offered(shell, world, text, expected):
    offered = ask(shell, filled(world, text))
    assert list(offered) == [filled(world, one) for one in expected]


@pytest.mark.parametrize(("text", "expected"), [case for case in CASES if case[1] and "\\\n" not in case[0]])
def test_the_same_by_the_older_call(shell, world, text, expected):
    """`get_ipython().complete`, which gets one line only."""
    line = filled(world, text).partition("|")[0].rpartition("\n")[2]
    with pytest.warns(PendingDeprecationWarning):
        typed, found = shell.complete(None, line, len(line))
    assert line.endswith(typed)
    assert found == [filled(world, one) for one in expected]


@pytest.mark.parametrize(
    "text",
    [
        "vllm|",
        "%vllm|",
        "%vllmx |",
        "%%vllm|",
        "%%vllmx |",
        "%%vllm --max-tokens |",
        "%%vllm\n%vllm st|",
        "%%vllm\n%%vllm |",
        "import os\n%%vllm |",
        "%vllm lora -|",
        "%vllm lora load m|",
        "%vllm lora unload m|",
        "%vllm lora load mine deep x|",
        "%vllm lora none x|",
        "%time 1 + |",
        "# %vllm |",
        "x == '%vllm |",
        "%vllm none |",
        "%vllm help start |",
        "%vllm help none|",
        "%vllm bench tiny --max|",
        "%vllm spare on |",
        "%vllm cluster |",
        "%vllm gpu |",
        "%vllm start 'tiny --|",
        "%vllm start tiny --hf-overrides '{\"a|",
        "%vllm start {mod|",
        "%vllm start $mod|",
        "%vllm start tiny \n --max-m|",
        "%vllm stop some|",
    ],
)
def test_nothing_is_offered(shell, text):
    assert ask(shell, text) == {}


def test_what_is_said_of_each(shell):
    verbs = ask(shell, "%vllm |")
    assert verbs["reap"] == "release the servers that dead kernels left behind"
    options = ask(shell, "%vllm start tiny --|")
    assert verbs["lora"].startswith("the LoRA adapters")
    assert ask(shell, "%vllm lora u|") == {"unload": "unload an adapter"}
    assert options["--ttl"] == "stop the server after this time without a request"
    assert options["--max-model-len"] == "int · Model context length (prompt and output)"
    assert options["--enforce-eager"] == "switch"
    assert options["--hf-overrides"] == "_json"
    assert ask(shell, "%vllm start tiny --dtype |") == {
        "auto": "default", "bfloat16": "value", "float16": "value", "float32": "value",
    }  # fmt: skip
    assert ask(shell, "%vllm start |")["gpt2"] == "in the Hugging Face cache"
    assert max(len(about) for about in options.values()) <= candidates.LONGEST_ABOUT


MADE = CommandDeclaration(
    name="made",
    about="nothing",
    arguments=(
        Argument("MODEL", "a model", ValueKind.MODEL),
        Argument("FOLDER", "a folder", ValueKind.FOLDER),
    ),
    options=(
        CommandOption("--level", "how far", "N", type=int, choices=(1, 20), default=20),
        CommandOption("--now", "at once"),
    ),
)
ACTING = replace(
    MADE,
    name="acting",
    arguments=(),
    actions=(CommandAction("begin", "begin it", MADE.arguments), CommandAction("end", "end it")),
)


@pytest.mark.parametrize(
    ("words", "typed", "expected"),
    [
        ([], "", {"made": "nothing", "acting": "nothing"}),
        (["made"], "--", {"--level": "how far", "--now": "at once"}),
        (["made"], "--max", {}),
        (["made", "--level"], "", {"1": "value", "20": "default"}),
        (["made"], "--level=2", {"20": "default"}),
        (["made"], "g", {"gpt2": "in the Hugging Face cache"}),
        (["made", "--level", "1", "--now"], "g", {"gpt2": "in the Hugging Face cache"}),
        (["made", "gpt2"], "dee", {"deep/": "folder"}),
        (["made", "gpt2", "deep"], "t", {}),
        (["acting"], "", {"begin": "begin it", "end": "end it"}),
        (["acting", "begin"], "g", {"gpt2": "in the Hugging Face cache"}),
        (["acting", "begin", "gpt2"], "dee", {"deep/": "folder"}),
        (["acting", "end"], "", {"--level": "how far", "--now": "at once"}),
        (["acting", "none"], "g", {}),
    ],
)
def test_what_is_offered_follows_from_what_a_command_declares(world, monkeypatch, words, typed, expected):
    set_up(world, monkeypatch)
    line = candidates.TypedLine(tuple(words), typed)
    _, found = candidates.find(line, {one.name: one for one in (MADE, ACTING)})
    assert {one.text: one.about for one in found} == expected


def test_until_the_flags_are_known_some_of_them_are(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    offered = ask(shell, "%vllm start tiny --max|")
    assert "--max-num-seqs" in offered
    assert "--max-log-len" not in offered
    until(lambda: "--max-log-len" in ask(shell, "%vllm start tiny --max|"), "they are not read")


def test_without_vllm(shell, monkeypatch, tmp_path):
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", str(tmp_path / "none"))
    assert "--max-num-seqs" in ask(shell, "%vllm start tiny --max|")


def test_the_executable_that_is_meant(shell, world, monkeypatch, tmp_path):
    """Its own word on the line before the setting, and that before the environment."""
    known = world["VLLM_MAGIC_EXECUTABLE"]
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", str(tmp_path / "none"))
    line = "%vllm start tiny --max-l|"
    assert list(ask(shell, line)) == []
    assert "--max-log-len" in ask(shell, f"%vllm start --executable {known} tiny --max-l|")
    shell.magics_manager.registry["VllmMagics"].executable = known
    assert "--max-log-len" in ask(shell, line)


def test_names_of_servers(shell, traces):
    shell.run_line_magic("vllm", "start m/tiny --name one --no-wait")
    one = shell.run_line_magic("vllm", "start m/tiny --name two")
    assert one.state == "ready"
    for verb in ("stop", "restart", "status", "logs"):
        assert {"one", "two"} <= ask(shell, f"%vllm {verb} |").keys()
        assert ask(shell, f"%vllm {verb} tw|") == {"two": "ready"}
    for line in ("%%vllm tw|", "%%vllm --new tw|\nWhy?", "%vllm lora list --server tw|"):
        assert ask(shell, line) == {"two": "ready"}
    assert list(ask(shell, "%vllm stop two |")) == ["--all", "--drain", "--grace"]
    assert list(ask(shell, "%vllm logs -n 5 o|")) == ["one"]
    assert ask(shell, "%vllm attach |") == {}
    shell.run_line_magic("vllm", "stop two")
    assert "two" not in ask(shell, "%vllm stop |")
    assert ask(shell, "%vllm logs tw|") == {"two": "released"}
    assert ask(shell, "%vllm restart tw|") == {"two": "released"}
    shell.run_line_magic("vllm", "stop --all")
    traces.check()


def test_adapters_of_a_server(shell, traces, tmp_path, monkeypatch):
    """Behind `unload` only: to load one again is refused. Of a server that is silent nothing is offered."""
    server = shell.run_line_magic("vllm", "start m/tiny --name one --enable-lora")
    for name in ("mine", "mild", "other"):
        server.load_lora(name, str(tmp_path))
    monkeypatch.setattr(values, "SERVER_LIMIT", LIMIT)  # on a machine that has other things to do
    assert ask(shell, "%vllm lora unload mi|") == {"mild": "adapter", "mine": "adapter"}
    assert ask(shell, "%vllm lora unload --server one o|") == {"other": "adapter"}
    for line in ("unload --server two m|", "load m|", "unload mine m|"):
        assert ask(shell, f"%vllm lora {line}") == {}
    monkeypatch.setattr(values, "SERVER_LIMIT", 0.1)
    os.kill(server.pid, signal.SIGSTOP)
    assert ask(shell, "%vllm lora unload mi|") == {}
    os.kill(server.pid, signal.SIGCONT)
    shell.run_line_magic("vllm", "stop --all")
    traces.check()


def test_names_of_servers_that_were_kept(shell, executable, traces, monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    program = "import vllm_magic; vllm_magic.start('m/tiny', name='kept', keep=600)"
    subprocess.run([sys.executable, "-c", program], check=True)
    until(lambda: [one.condition for one in ledger.entries()] == [Condition.KEPT], "it is not kept")
    assert ask(shell, "%vllm attach |") == {"kept": "m/tiny"}
    shell.run_line_magic("vllm", "attach kept")
    assert ask(shell, "%vllm attach |") == {}
    shell.run_line_magic("vllm", "stop")
    traces.check()


def test_gpus(shell, fake_gpus, monkeypatch):
    """As the driver says, once it has answered before; but it is not waited for."""
    monkeypatch.setattr(values, "DRIVER_LIMIT", 30.0)
    monkeypatch.setattr(values, "DEVICE_FOLDER", fake_gpus)
    manager.close()
    for typed in ("", "a", "aut"):
        assert list(ask(shell, f"%vllm start --gpus {typed}|")) == ["auto"]
    assert [gpu.index for gpu in manager.gpus().gpus] == [0, 1]
    assert list(ask(shell, "%vllm start --gpus |")) == ["0", "1", "auto"]
    assert ask(shell, "%vllm start --gpus 0|") == {"0": manager.gpus().gpus[0].name}
    assert list(ask(shell, "%vllm start --gpus 0,|")) == ["0,1"]
    assert list(ask(shell, "%vllm start --gpus=1,|")) == ["1,0"]
    manager.close()


def test_gpus_by_their_device_files(monkeypatch, tmp_path):
    for name in ("nvidia0", "nvidia7", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(values, "DEVICE_FOLDER", tmp_path)
    monkeypatch.setitem(sys.modules, "vllm_magic.manager.manager", None)
    monkeypatch.delitem(sys.modules, "vllm_magic.manager.manager")
    assert [one.text for one in values.of_kind(ValueKind.GPUS, "")] == ["0", "1", "auto"]
    monkeypatch.setattr(values, "DEVICE_FOLDER", tmp_path / "none")
    assert [one.text for one in values.of_kind(ValueKind.GPUS, "")] == ["auto"]


@pytest.mark.parametrize(
    ("module", "name"),
    [(values, "servers"), (values, "models"), (candidates, "find"), (registry, "commands")],
    ids=lambda part: part if isinstance(part, str) else part.__name__.rpartition(".")[2],
)
def test_it_never_complains(shell, monkeypatch, capsys, module, name):
    def fail(*_: object, **__: object) -> None:
        raise OSError("a disk that fails")

    monkeypatch.setattr(module, name, fail)
    assert ask(shell, "%vllm stop |") == {} or name == "models"
    assert ask(shell, "%vllm start |") == {} or name == "servers"
    assert capsys.readouterr() == ("", "")


def test_it_goes_with_the_extension(home, world, monkeypatch):
    set_up(world, monkeypatch)
    with a_shell() as shell:
        before = list(shell.Completer.custom_matchers)
        for _ in range(2):
            shell.run_line_magic("load_ext", "vllm_magic")
            assert "--max-model-len" in ask(shell, "%vllm start tiny --max|")
            assert len(shell.Completer.custom_matchers) == len(before) + 1
            shell.run_line_magic("unload_ext", "vllm_magic")
            assert shell.Completer.custom_matchers == before


def test_flags_that_cannot_be_read(shell, world, monkeypatch):
    """The common ones are offered, and each says where to see why."""
    monkeypatch.setattr(flag_table, "load", lambda *_, **__: None)
    monkeypatch.setattr(flag_table, "failure", lambda _: "ImportError: no grpc")
    offered = ask(shell, "%vllm start tiny --max-model|")
    assert offered == {
        "--max-model-len": "int · vLLM's flags are unread (%vllm doctor) · Model context length (pr…"
    }
    assert world["VLLM_MAGIC_EXECUTABLE"] not in flag_reading._attempts


def test_hidden_spellings_are_not_offered(shell):
    assert sorted(ask(shell, "%vllm start tiny --no-enable|")) == []
    assert "--disable-prefix-caching" in ask(shell, "%vllm start tiny --disable|")


def test_what_is_being_read_goes_with_it_too(home, world, monkeypatch, tmp_path):
    set_up(world, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    with a_shell() as shell:
        shell.run_line_magic("load_ext", "vllm_magic")
        ask(shell, "%vllm start tiny --max|")
        builder = flag_reading._attempts[world["VLLM_MAGIC_EXECUTABLE"]].process
        assert builder.process.poll() is None
        shell.run_line_magic("unload_ext", "vllm_magic")
        assert builder.process.poll() is not None


@pytest.fixture(scope="module")
def client(world, tmp_path_factory):
    """A kernel with the extension loaded, as a notebook has one."""
    folder = tmp_path_factory.mktemp("kernel")
    manager = KernelManager(kernel_name="python3", transport_encryption="auto")
    manager.start_kernel(
        env={**os.environ, **world, "VLLM_MAGIC_HOME": str(folder / "home")}, cwd=world["HOME"]
    )
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        client.execute_interactive("%load_ext vllm_magic", timeout=120)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_in_a_kernel(client, world, text, expected):
    """As JupyterLab asks: complete_request, and the types in what is experimental."""
    before, _, behind = filled(world, text).partition("|")
    reply = client.complete(before + behind, len(before), reply=True, timeout=120)["content"]
    assert reply["status"] == "ok"
    told = reply["metadata"]["_jupyter_types_experimental"]
    assert [one["text"] for one in told] == reply["matches"]
    if expected:
        assert reply["matches"] == [filled(world, one) for one in expected]
        assert reply["cursor_end"] == len(before)
        assert before[reply["cursor_start"] :] == re.split(r"[\s=]", before)[-1]


@pytest.mark.parametrize(
    ("text", "expected", "meta"),
    [
        ("x = %vllm sta|", ["start", "status"], "show one server (all of them: %vllm)"),
        ("import os\n%vllm start tiny --max-m|", ["--max-model-len"], "int · Model context"),
        ("%vllm start tiny --dtype=f|", ["float16", "float32"], "value"),
        ("%%vllm --max|", ["--max-tokens"], "the longest answer in tokens"),
    ],
)
def test_in_a_terminal(shell, text, expected, meta):
    """What prompt_toolkit is given for the menu."""
    before, _, behind = text.partition("|")
    completer = IPythonPTCompleter(ipy_completer=shell.Completer)
    document = Document(before + behind, len(before))
    found = list(completer.get_completions(document, CompleteEvent(completion_requested=True)))
    assert [one.text for one in found] == expected
    typed = re.split(r"[\s=]", before)[-1]
    assert {one.start_position for one in found} == {-len(typed)}
    assert meta in found[-1].display_meta_text


def test_at_a_terminal(world, tmp_path):
    """The Tab key in `ipython`."""
    command = [sys.executable, "-m", "IPython", "--no-banner", "--no-confirm-exit", "--colors=NoColor"]
    env = {**os.environ, **world, "VLLM_MAGIC_HOME": str(tmp_path / "home"), "TERM": "xterm"}
    terminal = PtyProcess.spawn(command, env=env, cwd=world["HOME"], dimensions=(40, 120))
    shown = bytearray()

    def until_shown(pattern: bytes) -> None:
        deadline = time.monotonic() + LIMIT
        while not re.search(pattern, shown):
            assert select.select([terminal.fd], [], [], max(0.0, deadline - time.monotonic()))[0], bytes(
                shown
            )
            shown.extend(terminal.read(4096))

    try:
        until_shown(rb"In \[")
        terminal.write(b"%load_ext vllm_magic\r")
        until_shown(rb"In \[(\x1b\[[0-9;]*m)*2")
        terminal.write(b"x = %vllm start tiny --max-nu\t")
        until_shown(b"--max-num-batched-tokens")
        until_shown(b"--max-num-seqs")
    finally:
        terminal.terminate(force=True)
