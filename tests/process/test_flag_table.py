"""The table of vLLM's flags: how it is read from vLLM, when it is believed, and that nothing of the reading is left."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in
from by_hand import until

from vllm_magic.children import flag_reading, flag_watch, installed
from vllm_magic.children.watched import WatchedProcess
from vllm_magic.engine import cache, executable
from vllm_magic.engine.flags import flag_table
from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable
from vllm_magic.linux import pidfd, processes
from vllm_magic.linux.processes import Identity

KERNEL = """
import sys, time
from vllm_magic.children import flag_reading
assert flag_reading.table(sys.argv[1]) is None
print("begun", flush=True)
time.sleep(600)
"""


@pytest.fixture
def cache_folder(tmp_path, monkeypatch) -> Path:
    """An empty cache, which only this test has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    yield tmp_path / "cache/vllm-magic/flags"
    flag_reading.end()


@pytest.fixture(scope="module")
def shared_vllm(tmp_path_factory) -> str:
    """The stand-in, installed as vLLM is."""
    return str(stand_in.install_environment(tmp_path_factory.mktemp("environment")))


@pytest.fixture
def vllm(tmp_path) -> str:
    """The same, for this test to change."""
    return str(stand_in.install_environment(tmp_path / "environment"))


def read_flags(path: str) -> FlagTable:
    """Have the flags read, and wait for them."""
    until(lambda: flag_reading.table(path), "the table is not built")
    table = flag_table.load(path)
    assert table
    return table


def failed(path: str) -> WatchedProcess:
    """Have a reading fail, and return what read."""
    assert flag_reading.table(path) is None
    builder = flag_reading._attempts[path].process
    assert builder.process.wait(60) == 0
    assert flag_reading.table(path) is None
    return builder


@pytest.fixture
def table(cache_folder, vllm) -> FlagTable:
    return read_flags(vllm)


@pytest.fixture(scope="module")
def built(shared_vllm, tmp_path_factory) -> bytes:
    """What is written of it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder))
        patched.delenv("VLLM_MAGIC_CACHE", raising=False)
        read_flags(shared_vllm)
        flag_reading.end()
    (path,) = folder.glob("vllm-magic/flags/*")
    return path.read_bytes()


@pytest.fixture
def written(cache_folder, shared_vllm, built) -> Path:
    """The file in the cache."""
    path = cache.make(flag_table.KIND) / flag_table.file_name(shared_vllm)
    path.touch(mode=0o600)
    path.write_bytes(built)
    assert flag_table.load(shared_vllm)
    return path


def change(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_is_read(table):
    assert table.version == "0.32.0"
    assert table.find("--max-model-len") is table.find("--max_model_len")
    length = table.find("--max-model-len")
    assert (length.type, length.kind, length.takes_value, length.default) == ("int", "int", True, "")
    assert length.help == "Model context length (prompt and output)"
    assert table.find("--dtype") == FlagOption(
        ("--dtype",),
        "str",
        ("auto", "bfloat16", "float16", "float32"),
        "auto",
        "",
        group="ModelConfig",
        strict=True,
        optional=False,
    )
    assert length.optional
    assert table.find("--kv-cache-dtype").choices == ("auto", "fp8")
    assert table.find("-tp") is table.find("--tensor-parallel-size")
    eager = table.find("--enforce-eager")
    assert eager is table.find("--no-enforce-eager")
    assert (eager.kind, eager.takes_value) == ("switch", False)
    lora = table.find("--enable-lora")
    assert (lora.strings, lora.hidden) == (("--enable-lora", "--disable-lora"), ("--no-enable-lora",))
    assert lora is table.find("--no_enable_lora")
    assert table.find("--hf-overrides").takes_value
    assert table.find("--model")
    assert table.find("--help")
    assert table.find("--model-len") is None
    assert [one for one in table.by_string if table.find(one).is_path] == [
        "--allowed-local-media-path", "--chat-template", "--config", "--download-dir", "--root-path",
        "--ssl-ca-certs", "--ssl-certfile", "--ssl-keyfile",
    ]  # fmt: skip


def test_of_an_older_vllm(cache_folder, vllm):
    """Its modules were elsewhere, and a checkout need not be installed."""
    (package,) = Path(vllm).parent.parent.glob("lib/*/site-packages/vllm")
    (package / "entrypoints/common").rename(package / "entrypoints/openai")
    (package / "utils/argparse_utils.py").rename(package / "utils/__init__.py")
    for name in ("serve", "main"):
        module = package / f"entrypoints/cli/{name}.py"
        changed = module.read_text().replace("entrypoints.common", "entrypoints.openai")
        module.write_text(changed.replace("utils.argparse_utils", "utils"))
    (package / "__init__.py").write_text("__version__ = '0.10.0'")
    (installed,) = package.parent.glob("vllm-*.dist-info")
    (installed / "METADATA").rename(installed / "METADATA.old")
    installed.rename(installed.with_name("other-1.0.dist-info"))
    table = read_flags(vllm)
    assert table.version == "0.10.0"
    assert table.find("--max-model-len")


def test_the_architectures_are_read_too(cache_folder, vllm):
    (packages,) = Path(vllm).parent.parent.glob("lib/*/site-packages")
    models = packages / "vllm/model_executor/models"
    models.mkdir(parents=True)
    (models / "registry.py").write_text(
        "class ModelRegistry:\n    get_supported_archs = staticmethod(lambda: {'Terratorch': 1, 'LlamaForCausalLM': 2}.keys())\n"
    )
    (packages / "transformers.py").write_text(
        "LlamaForCausalLM = LlamaPreTrainedModel = LlamaConfig = BertModel = pipeline = None\n"
    )
    table = read_flags(vllm)
    assert table.architectures == ("BertModel", "LlamaForCausalLM", "Terratorch")
    (models / "registry.py").write_text("ModelRegistry = None\n")
    assert flag_table.load(vllm) is None


def test_the_architectures_may_be_unknown(table):
    assert table.architectures == ()


def test_of_a_python_that_prints_at_its_start(cache_folder, vllm):
    """By a sitecustomize of the user, into the file of the table, before the reader begins."""
    (packages,) = Path(vllm).parents[1].glob("lib/python*/site-packages")
    (packages / "sitecustomize.py").write_text("print('hello', flush=True)\nprint('later')\n")
    assert read_flags(vllm).version == "0.32.0"
    assert installed.find(vllm).version == "0.32.0"


def test_where_it_is_kept(cache_folder, table):
    (written,) = cache_folder.iterdir()
    assert stat.S_IMODE(cache_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert os.listdir(cache_folder) == [written.name]


def test_it_is_built_once(shared_vllm, written, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(flag_reading, "_spawn", refuse)
    assert flag_reading.table(shared_vllm) is flag_table.load(shared_vllm)


def test_a_later_kernel_reads_it(shared_vllm, written):
    program = "import sys; from vllm_magic.engine.flags import flag_table; print(flag_table.load(sys.argv[1]).version)"
    ended = subprocess.run([sys.executable, "-c", program, shared_vllm], capture_output=True, text=True)
    assert ended.stdout == "0.32.0\n", ended.stderr


@pytest.mark.parametrize(
    "name", ["bin/vllm", "config/__init__.py", "common/cli_args.py", "arg_utils.py", "METADATA"]
)
def test_it_ends_with_what_it_was_read_from(vllm, table, name):
    folder = Path(vllm).parent.parent
    (changed,) = [path for path in folder.rglob(Path(name).name) if str(path).endswith(name)]
    changed.write_text(changed.read_text() + "\n")
    assert flag_table.load(vllm) is None


def test_an_update_is_read_anew(cache_folder, vllm, table, monkeypatch):
    (old,) = Path(vllm).parent.parent.rglob("vllm-0.32.0.dist-info")
    (old / "METADATA").write_text("Metadata-Version: 2.4\nName: vllm\nVersion: 0.33.0\n")
    old.rename(old.with_name("vllm-0.33.0.dist-info"))
    assert flag_reading.table(vllm) is None
    assert len(flag_reading._attempts) == 1  # the one that has ended is not begun anew at once
    monkeypatch.setattr(flag_reading, "RENEWAL", 0.0)
    assert read_flags(vllm).version == "0.33.0"
    assert len(os.listdir(cache_folder)) == 1


def test_another_search_path_is_another_vllm(shared_vllm, written, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert flag_table.load(shared_vllm) is None


def test_it_is_not_certain_once_something_is_installed_beside_vllm(vllm, table, monkeypatch):
    """A plugin, perhaps, which adds flags: they are read anew, and what is known may be offered meanwhile."""
    assert flag_table.load(vllm, certain=True) is table
    (packages,) = Path(vllm).parent.parent.glob("lib/*/site-packages")
    (packages / "plugin.dist-info").mkdir()
    assert flag_table.load(vllm, certain=True) is None
    monkeypatch.setattr(flag_reading, "RENEWAL", 0.0)
    assert flag_reading.table(vllm) is table
    until(lambda: flag_reading.table(vllm) and flag_table.load(vllm, certain=True), "it is not built anew")


HOSTILE = {
    "empty": b"",
    "no JSON": b"\xff{",
    "no object": b"[]",
    "deep": b"[" * 100_000,
    "null": b"null",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_broken_file_is_built_anew(shared_vllm, written, data):
    written.write_bytes(data)
    assert flag_table.load(shared_vllm) is None
    assert read_flags(shared_vllm).version == "0.32.0"


OPTION = {
    "strings": ["--x"], "hidden": [], "type": "str", "choices": [], "default": "", "help": "", "nargs": "1", "group": "",
    "strict": False,
    "optional": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": flag_table.SCHEMA + 1},
        {"schema": "1"},
        {"version": 1},
        {"version": None},
        {"options": []},
        {"options": None},
        {"options": [{}]},
        {"options": [{**OPTION, "strings": []}]},
        {"options": [{**OPTION, "strings": ["rm -rf"]}]},
        {"options": [{**OPTION, "hidden": ["rm -rf"]}]},
        {"architectures": None},
        {"architectures": [1]},
        {"failure": 1, "at": 1.0},
        {"failure": "x"},
        {"failure": "x", "at": "now"},
        {"options": [{**OPTION, "strings": ["--x\n"]}]},
        {"options": [{**OPTION, "help": 1}]},
        {"options": [{**OPTION, "choices": [1]}]},
        {"sources": []},
        {"sources": [["/bin/sh", 1, 2]]},
        {"sources": [["x"]]},
        {"sources": [["\0", 1, 2]]},
        {"places": None},
    ],
    ids=str,
)
def test_a_foreign_table_is_not_believed(shared_vllm, written, fields):
    change(written, **fields)
    assert flag_table.load(shared_vllm) is None


def test_of_a_text_only_what_can_be_shown_is_kept(shared_vllm, written):
    change(written, options=[{**OPTION, "help": "red \x1b[31m\u202e text\nand more"}])
    assert flag_table.load(shared_vllm).find("--x").help == "red [31m text\nand more"


@pytest.mark.parametrize(
    "what", ["link", "fifo", "folder", "open to others", "too long", "folder open to others"]
)
def test_what_is_not_a_private_file_is_not_read(shared_vllm, written, tmp_path, what, monkeypatch):
    if what == "link":
        written.rename(tmp_path / "elsewhere")
        written.symlink_to(tmp_path / "elsewhere")
    elif what == "open to others":
        written.chmod(0o644)
    elif what == "folder open to others":
        written.parent.chmod(0o755)
    elif what == "too long":
        monkeypatch.setattr(cache, "LONGEST", written.stat().st_size - 1)
    else:
        written.unlink()
        os.mkfifo(written, 0o600) if what == "fifo" else written.mkdir(0o700)
    assert flag_table.load(shared_vllm) is None


@pytest.mark.parametrize("what", ["read-only", "a file", "open to others"])
def test_without_a_place_for_it_nothing_is_begun(cache_folder, shared_vllm, what):
    cache_folder.parent.mkdir(parents=True)
    if what == "a file":
        cache_folder.write_text("")
    else:
        cache_folder.mkdir(mode=0o700)
        cache_folder.chmod(0o755)
    assert flag_reading.table(shared_vllm) is None
    assert not flag_reading._attempts


def test_without_a_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as where the user is unknown
    with pytest.raises(OSError, match="no home"):
        cache.path("flags")
    assert cache.read("flags", "x") is None


def test_a_relative_cache_folder_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.delenv("VLLM_MAGIC_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.path("flags") == tmp_path / ".cache/vllm-magic/flags"


def test_why_the_flags_cannot_be_read_is_known_to_later_kernels(cache_folder, vllm, monkeypatch):
    """They are not read again before vLLM changes, or a day is over."""
    (package,) = Path(vllm).parent.parent.glob("lib/*/site-packages/vllm/config/__init__.py")
    whole = package.read_text()
    package.write_text("raise ImportError('it is\\nbroken')\n")
    monkeypatch.setattr(flag_reading, "RENEWAL", 0.0)
    assert flag_table.failure(vllm) == ""
    failed(vllm)
    assert flag_table.failure(vllm) == "ImportError: it is broken"
    flag_reading.end()
    assert flag_reading.table(vllm) is None
    assert not flag_reading._attempts
    monkeypatch.setattr(flag_table, "FAILURE_LIMIT", 0.0)
    assert flag_table.failure(vllm) == ""
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder.parent.parent))
    package.write_text(whole)
    (installed,) = package.parents[2].glob("vllm-*.dist-info/METADATA")
    installed.write_text(f"{installed.read_text()}\n")
    assert flag_table.failure(vllm) == ""
    assert read_flags(vllm).find("--max-model-len")
    assert flag_table.failure(vllm) == ""


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("sys.exit(3)", "SystemExit: 3"),
        ("os._exit(3)", "the reader failed: exit code 3"),
        ("os.kill(os.getpid(), 11)", "the reader failed: exit code 139"),
        ("sys.argv = ['vllm', 'serve']", "LookupError: {} has no sub-command serve"),
    ],
)
def test_a_reader_that_ends(cache_folder, vllm, ends, reason):
    main = next(Path(vllm).parent.parent.glob("lib/*/site-packages/vllm/entrypoints/cli/main.py"))
    main.write_text(f"import os, sys\ndef main(): {ends}\n")
    failed(vllm)
    assert flag_table.failure(vllm) == reason.format(vllm)


def test_a_reader_that_was_killed_is_not_blamed_on_vllm(cache_folder, vllm, monkeypatch):
    """Nor is another one begun soon: the memory may have been too little."""
    main = next(Path(vllm).parent.parent.glob("lib/*/site-packages/vllm/entrypoints/cli/main.py"))
    main.write_text("import os\ndef main(): os.kill(os.getpid(), 9)\n")
    monkeypatch.setattr(flag_reading, "RENEWAL", 0.0)
    builder = failed(vllm)
    assert flag_table.failure(vllm) == ""
    assert flag_reading.table(vllm) is None
    assert flag_reading._attempts[vllm].process is builder
    assert os.listdir(cache_folder) == []


def test_where_vllm_sees_no_device(cache_folder, vllm):
    """As a build for CUDA on a machine without a GPU: vLLM's own default of the device fails then."""
    package = next(Path(vllm).parent.parent.glob("lib/*/site-packages/vllm"))
    (package / "platforms").mkdir()
    (package / "platforms/__init__.py").write_text(
        "class UnspecifiedPlatform:\n    device_type = ''\n    def is_unspecified(self): return True\n"
        "current_platform = UnspecifiedPlatform()\n"
    )
    (package / "platforms/cpu.py").write_text("class CpuPlatform:\n    device_type = 'cpu'\n")
    config = package / "config/__init__.py"
    config.write_text(
        f"{config.read_text()}from vllm.platforms import current_platform\n"
        "if not current_platform.device_type: raise RuntimeError('Failed to infer device type')\n"
    )
    assert read_flags(vllm).find("--max-model-len")


def test_two_kernels_build_it_once(cache_folder, shared_vllm, monkeypatch, tmp_path):
    monkeypatch.setenv("STAND_IN_FLAGS_PID", str(tmp_path / "pid"))
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    assert flag_reading.table(shared_vllm) is None
    until(lambda: pid_in(tmp_path / "pid"), "it is not being built")
    with subprocess.Popen([sys.executable, "-c", KERNEL, shared_vllm], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"begun\n"
        watcher = next(iter(processes.descendants(processes.table(), other.pid)))
        until(lambda: (one := processes.read(watcher)) is None or not one.alive, "the second one goes on")
        other.kill()
    assert flag_reading._attempts[shared_vllm].process.process.poll() is None


def test_the_reader_of_another_kernel_ends_with_it(cache_folder, shared_vllm, monkeypatch, tmp_path):
    """Then this kernel reads the flags."""
    monkeypatch.setenv("STAND_IN_FLAGS_PID", str(tmp_path / "pid"))
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    monkeypatch.setattr(flag_reading, "RENEWAL", 0.0)
    with subprocess.Popen([sys.executable, "-c", KERNEL, shared_vllm], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"begun\n"
        until(lambda: pid_in(tmp_path / "pid"), "it is not being built")
        assert flag_reading.table(shared_vllm) is None
        assert flag_reading._attempts[shared_vllm].process.process.wait(60) == flag_watch.BUSY
        other.kill()
    monkeypatch.delenv("STAND_IN_FLAGS_S")
    assert read_flags(shared_vllm).find("--max-model-len")


def pid_in(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def family(kernel: int, reader: int) -> set[Identity]:
    table = processes.table()
    found = {table[pid].identity for pid in processes.descendants(table, kernel)}
    assert table[reader].identity in found
    assert len(found) == 2
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_never_outlives_the_kernel(cache_folder, shared_vllm, monkeypatch, tmp_path, how):
    monkeypatch.setenv("STAND_IN_FLAGS_PID", str(tmp_path / "pid"))
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    command = [sys.executable, "-c", KERNEL, shared_vllm]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as kernel:
        assert kernel.stdout.readline() == b"begun\n"
        until(lambda: pid_in(tmp_path / "pid"), "it is not being built")
        everyone = family(kernel.pid, pid_in(tmp_path / "pid"))
        kernel.send_signal(how)
    assert pidfd.wait_for_all(everyone, 60) == set()
    assert os.listdir(cache_folder) == []


def test_nor_the_process_that_watches_it(cache_folder, shared_vllm, monkeypatch, tmp_path):
    monkeypatch.setenv("STAND_IN_FLAGS_PID", str(tmp_path / "pid"))
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    flag_reading.table(shared_vllm)
    until(lambda: pid_in(tmp_path / "pid"), "it is not being built")
    reader = processes.read(pid_in(tmp_path / "pid")).identity
    flag_reading._attempts[shared_vllm].process.process.kill()
    assert pidfd.wait_for_all({reader}, 60) == set()


@pytest.mark.parametrize("how", ["told to", "killed"])
def test_it_is_ended_with_all_that_it_has_started(cache_folder, vllm, monkeypatch, tmp_path, how):
    """Also with what has a session of its own."""
    (package,) = Path(vllm).parent.parent.glob("lib/*/site-packages/vllm/config/__init__.py")
    package.write_text(
        f"{package.read_text()}import subprocess\n"
        "for alone in (False, True): subprocess.Popen(['sleep', '600'], start_new_session=alone)\n"
    )
    monkeypatch.setenv("STAND_IN_FLAGS_PID", str(tmp_path / "pid"))
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    flag_reading.table(vllm)
    builder = flag_reading._attempts[vllm].process
    until(lambda: pid_in(tmp_path / "pid"), "it is not being built")
    table, reader = processes.table(), pid_in(tmp_path / "pid")
    everyone = {table[pid].identity for pid in (reader, *processes.descendants(table, reader))}
    assert len(everyone) == 3
    if how == "told to":
        flag_reading.end()
    else:
        builder.process.kill()
        until(builder.has_ended, "it is not ended")
    assert pidfd.wait_for_all(everyone, 60) == set()


def test_one_that_hangs_is_ended(cache_folder, shared_vllm, monkeypatch):
    monkeypatch.setattr(flag_reading, "READ_LIMIT", 1.0)
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    failed(shared_vllm)
    assert flag_table.failure(shared_vllm) == "the reader failed: it took longer than 1.0 s"


def test_it_has_what_nobody_else_wants(cache_folder, shared_vllm, monkeypatch, tmp_path):
    monkeypatch.setenv("STAND_IN_FLAGS_PID", str(tmp_path / "pid"))
    monkeypatch.setenv("STAND_IN_FLAGS_S", "600")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    flag_reading.table(shared_vllm)
    until(lambda: pid_in(tmp_path / "pid"), "it is not being built")
    reader = pid_in(tmp_path / "pid")
    assert os.getpriority(os.PRIO_PROCESS, reader) == 19
    environment = Path(f"/proc/{reader}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=" in environment
    assert not [one for one in environment if one.startswith(b"JPY_")]
    for fd in (0, 2):
        assert os.readlink(f"/proc/{reader}/fd/{fd}") == "/dev/null"


SCRIPT = "import sys\nfrom vllm.entrypoints.cli.main import main\nsys.exit(main())\n"


@pytest.mark.parametrize(
    ("first", "script", "words"),
    [
        ("#!/env/bin/python", SCRIPT, ("/env/bin/python",)),
        ("#!/env/bin/python3.11 -I", SCRIPT, ("/env/bin/python3.11", "-I")),
        ("#!/usr/bin/env python3", SCRIPT, ("/usr/bin/env", "python3")),
        ("#!/bin/sh\n'''exec' \"/a b/bin/python\" \"$0\" \"$@\"\n' '''", SCRIPT, ("/a b/bin/python",)),
        ("#!/bin/sh\n'''exec' /ab/bin/python \"$0\" \"$@\"\n' '''", SCRIPT, ("/ab/bin/python",)),
        ("#!/env/bin/python", "from vllm.scripts import main\nsys.exit(main())\n", ("/env/bin/python",)),
        ("#!/env/bin/python", "from mine import main\nsys.exit(main())\n", None),
        ("#!/bin/bash", 'exec docker run vllm/vllm-openai "$@"\n', None),
        ("#!/bin/bash", SCRIPT, None),
        ("#!'/env/bin/python", SCRIPT, None),
        ("", SCRIPT, None),
        ("\x7fELF\udcff", SCRIPT, None),
    ],
)  # fmt: skip
def test_the_python_of_an_executable(tmp_path, first, script, words):
    path = tmp_path / "vllm"
    path.write_text(f"{first}\n{script}", errors="surrogateescape")
    assert executable.interpreter(str(path)) == words


def test_an_executable_that_is_gone_has_none(tmp_path, executable):
    from vllm_magic.engine.executable import interpreter

    assert interpreter(str(tmp_path / "none")) is None
    assert interpreter(executable) is None  # the stand-in by itself


def test_what_prints_too_much_does_not_fill_the_disk(cache_folder, vllm, monkeypatch):
    monkeypatch.setattr(flag_reading, "_READER", Path(vllm).with_name("talkative.py"))
    flag_reading._READER.write_text("for _ in range(100): print('x' * 2**20)")
    failed(vllm)
    (path,) = cache_folder.iterdir()
    assert path.stat().st_size < cache.LONGEST
