"""A notebook's folder has files with the names of Python's own modules, and of vLLM: the server does not import them."""

from __future__ import annotations

import stand_in

NAMES = ("select.py", "socket.py", "token.py", "random.py", "http.py", "vllm/__init__.py")


def test_the_working_directory_shadows_no_module(manager, spec, tmp_path, traces):
    """multiprocessing's resource tracker is one of the children that Python starts with -c."""
    notebook = tmp_path / "notebook"
    for name in NAMES:
        (notebook / name).parent.mkdir(parents=True, exist_ok=True)
        (notebook / name).write_text(f"raise SystemExit('the notebook has its own {name}')\n")
    executable = str(stand_in.install_environment(tmp_path / "environment"))
    server = manager.start(spec("tiny", executable=executable, cwd=str(notebook)), timeout=120).server
    assert server.chat("hello", max_tokens=2).text
    assert not [line for line in server.log(400) if "notebook" in line or "resource_tracker" in line]
    manager.stop()
    traces.check()
