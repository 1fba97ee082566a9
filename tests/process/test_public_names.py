"""What the package promises to those who import it: its names, its errors, and that it costs them nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import vllm_magic

HEAVY = {
    "httpx",
    "pynvml",
    "ipywidgets",
    "psutil",
    "IPython",
    "traitlets",
    "asyncio",
    "concurrent.futures",
    "ssl",
}


def modules_after(*statements: str) -> set[str]:
    """What a fresh Python has imported after these statements."""
    script = "\n".join([*statements, "import json, sys; print(json.dumps(sorted(sys.modules)))"])
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout))


def test_importing_it_imports_nothing_heavy():
    ours = {name for name in modules_after("import vllm_magic") if name.startswith("vllm_magic")}
    assert ours == {"vllm_magic"}
    assert not modules_after("import vllm_magic") & HEAVY


def test_using_it_imports_only_what_is_used():
    assert not modules_after("import vllm_magic", "vllm_magic.StartFailed, vllm_magic.Release") & HEAVY
    assert not modules_after("import vllm_magic", "vllm_magic.start") & {
        "httpx", "pynvml", "ipywidgets", "psutil", "IPython",
    }  # fmt: skip


def test_loading_the_extension_imports_nothing_heavy(home):
    shell = "from IPython.core.interactiveshell import InteractiveShell; shell = InteractiveShell()"
    swept = (
        "import threading; [one.join() for one in threading.enumerate() if one.name == 'vllm-magic sweep']"
    )
    loaded = modules_after(
        shell,
        "shell.run_line_magic('load_ext', 'vllm_magic')",
        "shell.history_manager.end_session()",
        swept,
    )
    assert {"vllm_magic.jupyter.magics", "vllm_magic.ledger"} <= loaded
    assert not loaded & {"httpx", "pynvml", "ipywidgets", "psutil", "vllm_magic.manager.manager"}
    assert not {
        name for name in loaded if "flag_" in name or name == "vllm_magic.jupyter.completion.candidates"
    }
    assert "vllm_magic.jupyter.commands.base" not in loaded  # a command is imported when one is wanted


def test_the_commands_import_nothing_heavy():
    """What they declare can be read where there is no IPython."""
    loaded = modules_after(
        "from vllm_magic.jupyter.commands import registry",
        "[command.parser() for command in registry.declarations().values()]",
    )
    assert not loaded & (HEAVY - {"concurrent.futures"})  # which the limits of look-ups need


def test_the_guard_needs_neither_this_environment_nor_another_library():
    script = (
        "import sys; sys.path.append(sys.argv[1]); import vllm_magic.guard.main\n"
        "import json; print(json.dumps(sorted(sys.modules)))"
    )
    root = str(vllm_magic.__file__).rpartition("/vllm_magic/")[0]
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script, root], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert {name.partition(".")[0] for name in json.loads(ended.stdout)} <= {
        *sys.stdlib_module_names,
        "vllm_magic",
        "__main__",
    }
