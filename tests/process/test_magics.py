"""`%vllm` in a real IPython shell: what a person types, and what comes back."""

from __future__ import annotations

import _thread
import http.server
import signal
import socket
import subprocess
import sys
import threading

import pytest
import stand_in
from by_hand import ByHand
from fake_gpu import fakegpu
from IPython.core.error import UsageError
from IPython.utils.capture import capture_output
from shells import a_shell

from vllm_magic.errors import NameInUse, StartFailed, StartInterrupted
from vllm_magic.manager.manager import manager
from vllm_magic.release.result import Release
from vllm_magic.server.server import Server


def run(shell, line: str):
    return shell.run_line_magic("vllm", line)


def cell(shell, source: str) -> str:
    """What a person sees of a cell, errors included."""
    with capture_output() as seen:
        shell.run_cell(source)
    return seen.stdout + seen.stderr


def plain(shell, value) -> str:
    return shell.display_formatter.format(value)[0]["text/plain"]


def html(shell, value) -> str:
    return shell.display_formatter.format(value)[0]["text/html"]


def test_a_whole_session(shell, traces):
    assert "No server runs" in plain(shell, run(shell, ""))
    shell.run_cell("limit = 128")
    seen = cell(
        shell,
        'server = %vllm start tiny --max-model-len {limit} --hf-overrides \'{"a": {"b": 1}}\' -O.level=3',
    )
    server = shell.user_ns["server"]
    assert isinstance(server, Server)
    assert server.spec.args == ("--max-model-len", "128", "--hf-overrides", '{"a": {"b": 1}}', "-O.level=3")
    assert "tiny" in seen
    assert "ready" in seen
    assert server.url in plain(shell, server)
    assert server.url in html(shell, server)
    for line in ("", "status", "status tiny"):
        table = run(shell, line)
        assert "tiny" in plain(shell, table)
        assert server.base_url in html(shell, table)
        assert server.api_key not in plain(shell, table) + html(shell, table)
    assert "Application startup complete" in plain(shell, run(shell, "logs -n 100"))
    assert len(run(shell, "logs tiny -n 2").lines) == 2
    cell(shell, "release = %vllm stop")
    release = shell.user_ns["release"]
    assert isinstance(release, Release)
    assert release.verified
    assert "proved by processes" in plain(shell, release)
    assert "proved by processes" in html(shell, release)
    assert "Application startup complete" in plain(shell, run(shell, "logs -n 100"))
    traces.check()


def test_start_again_says_that_it_runs(shell):
    first = run(shell, "start tiny")
    with capture_output() as seen:
        again = run(shell, "start tiny")
    assert again is first
    assert "runs already" in seen.stdout


def test_restart(shell, traces):
    first = run(shell, "start tiny --max-model-len 64")
    second = run(shell, "restart")
    assert first.state == "released"
    assert (second.spec, second.state) == (first.spec, "ready")
    assert second.pid != first.pid
    run(shell, "stop tiny")
    traces.check()


def test_the_name_of_a_server_in_place_of_a_model(shell, traces):
    first = run(shell, "start tiny --name small --max-model-len 64")
    other = run(shell, "switch tiny --name other")
    assert run(shell, "switch small").spec == first.spec
    assert (manager.get("small").state, other.state) == ("ready", "released")
    assert run(shell, "start other").spec == other.spec
    run(shell, "stop --all")
    traces.check()


def test_no_wait_and_stop_all(shell, traces):
    one = run(shell, "start tiny --no-wait --name one")
    run(shell, "start tiny --no-wait --name two")
    one.wait(60)
    releases = run(shell, "stop --all")
    assert "2 servers released" in plain(shell, releases)
    assert "nothing to stop" in plain(shell, run(shell, "stop --all"))
    traces.check()


def test_restart_of_a_failed_start(shell, traces, monkeypatch):
    monkeypatch.setenv("STAND_IN", stand_in.options(fail="no_kv_room")["STAND_IN"])
    with pytest.raises(StartFailed):
        run(shell, "start tiny")
    assert "failed" in plain(shell, run(shell, ""))
    monkeypatch.delenv("STAND_IN")
    assert run(shell, "restart tiny").state == "ready"
    run(shell, "stop")
    traces.check()


def test_the_configured_executable(shell, executable, monkeypatch):
    monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE")
    shell.run_line_magic("config", f"VllmMagics.executable = {executable!r}")
    assert run(shell, "start tiny").spec.executable == executable


def test_gpus(shell, fake_gpus):
    server = run(shell, "start tiny --gpus 1")
    (engine,) = [process.identity for process in server.processes() if "Engine" in process.name]
    seen = plain(shell, run(shell, "gpu"))
    assert f"server tiny (pid {engine.pid})" in seen
    assert "2.00 GiB" in seen
    assert "24.00 GiB" in seen
    assert "2.00 GiB" in plain(shell, run(shell, ""))
    release = run(shell, "stop")
    assert "proved by NVML memory" in plain(shell, release)
    assert "2.00 GiB" in html(shell, release)


def test_a_start_that_does_not_fit(shell, fake_gpus):
    with fakegpu.holding(fake_gpus, 10, 0) as holder:
        seen = cell(shell, "%vllm start tiny")
        assert "NotEnoughMemory: tiny does not fit: GPU 0 has 14.0 GiB free of 22.1 GiB needed." in seen
        assert f"(pid {holder.pid}, " in seen
        assert "  --gpu-memory-utilization 0.54  would fit" in seen
        assert "Traceback" not in seen
        assert run(shell, "start tiny --force").state == "ready"
        run(shell, "stop")


def test_doctor(shell, monkeypatch):
    server = run(shell, "start tiny")
    view = run(shell, "doctor")
    assert server.url in plain(shell, view)
    assert "What cannot be seen" in html(shell, view)
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", "/nowhere/vllm")
    assert "%env VLLM_MAGIC_EXECUTABLE=" in plain(shell, run(shell, "doctor"))
    with pytest.raises(UsageError):
        run(shell, "doctor --json")


def test_reap(shell, executable):
    assert plain(shell, run(shell, "reap")) == "Nothing to reap."
    by_hand = ByHand(executable)
    try:
        with pytest.raises(UsageError, match="which still runs"):
            run(shell, f"reap --pid {by_hand.pid('::EngineCore')} --yes")
        by_hand.kill_server()
        engine = by_hand.pid("::EngineCore")
        shown = plain(shell, run(shell, f"reap --pid {engine}"))
        assert shown.endswith(f"To end these processes: %vllm reap --pid {engine} --yes")
        assert by_hand.living()
        ended = run(shell, f"reap --pid {engine} --yes")
        assert f"VLLM::EngineCore (pid {engine})" in plain(shell, ended)
        assert "VLLM::Worker" in html(shell, ended)
    finally:
        by_hand.end()


def test_no_gpu(shell):
    assert "No GPU can be seen" in plain(shell, run(shell, "gpu"))


def test_an_interrupt_says_what_happened(shell, traces, monkeypatch):
    monkeypatch.setenv("STAND_IN", stand_in.options(hang_in="init")["STAND_IN"])
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.5, _thread.interrupt_main)
    timer.start()
    try:
        with pytest.raises(StartInterrupted, match="was interrupted; it was released"):
            run(shell, "start tiny")
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, handler)
    traces.check()


def test_an_exposed_server_is_warned_about(shell):
    with capture_output() as seen:
        run(shell, "start tiny --host 0.0.0.0")
    assert "Other machines can reach tiny" in seen.stdout


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("strat tiny", r"no command 'strat'.*%vllm start"),
        ("start", "Which model"),
        ("start --max-model-len 8 tiny", "Write it first"),
        ("start 'tiny", r"No closing quotation"),
        ("start tiny --name", "--name needs a value"),
        ("start tiny --port many", "--port"),
        ("start tiny --env A", "NAME=VALUE"),
        ("start {nobody}", "nobody"),
        ("start $nobody", "nobody"),
        ("stop nobody", "No server is called nobody"),
        ("stop", "No server runs"),
        ("stop a --all", "Leave one of them out"),
        ("logs -n 0", "1 or more"),
        ("logs nobody", "nobody"),
        ("restart nobody", "nobody"),
        ("status nobody", "nobody"),
        ("gpu now", "now"),
        ("start tiny --gpus 9", "No NVIDIA|no GPU|GPU"),
    ],
)
def test_mistakes_are_one_line(shell, line, says, traces):
    with pytest.raises(UsageError, match=says) as caught:
        run(shell, line)
    assert "\n" not in str(caught.value)
    assert manager.servers() == {}
    traces.check()


def test_an_error_in_a_cell_is_short(shell):
    """The message, not our frames."""
    seen = cell(shell, "%vllm start missing/model")
    assert "StartFailed: There is no model called missing/model." in seen
    assert "Traceback" not in seen
    assert "site-packages" not in seen
    assert len(seen.strip().splitlines()) < 12


def test_another_spec_under_the_same_name(shell):
    run(shell, "start tiny")
    with pytest.raises(NameInUse, match="--name NAME"):
        run(shell, "start tiny --max-model-len 8")


def test_a_port_in_use(shell, traces):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        seen = cell(shell, f"%vllm start tiny --port {port}")
    assert f"StartFailed: Port {port} is taken by" in seen
    assert "Choose another --port" in seen
    assert run(shell, "").rows == ()
    assert run(shell, f"start tiny --port {port}").port == port
    run(shell, "stop")
    traces.check()


def test_a_port_that_somebody_takes_meanwhile(shell, traces, monkeypatch):
    """The health of a stranger on our port is not ours."""
    monkeypatch.setenv("STAND_IN", stand_in.options(import_s=1.0)["STAND_IN"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = run(shell, f"start tiny --no-wait --port {port}")
    with http.server.HTTPServer(("127.0.0.1", port), Healthy) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        with pytest.raises(StartFailed, match="port"):
            server.wait(60)
        stranger.shutdown()
    run(shell, "stop")
    traces.check()


class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_unload_takes_everything_out(home, executable, traces, monkeypatch, capsys):
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    with a_shell() as shell:
        formatters = shell.display_formatter.formatters
        shell.run_line_magic("load_ext", "vllm_magic")
        server = run(shell, "start tiny")
        shell.run_line_magic("unload_ext", "vllm_magic")
        assert capsys.readouterr().out.endswith(f"{server.release.text}\n")
        assert server.state == "released"
        assert shell.find_line_magic("vllm") is None
        assert shell.find_cell_magic("vllm") is None
        for kind in ("text/html", "text/plain"):
            assert Server not in formatters[kind].type_printers
            assert not [key for key in formatters[kind].deferred_printers if "vllm_magic" in str(key)]
        traces.check()
        shell.run_line_magic("load_ext", "vllm_magic")
        assert "No server runs" in plain(shell, run(shell, ""))
        shell.run_line_magic("unload_ext", "vllm_magic")


def test_a_terminal_gets_text(home, executable, traces):
    """IPython without a notebook: progress as lines, results as text."""
    lines = "%load_ext vllm_magic\n%vllm start tiny\n%vllm\n%vllm stop\n%vllm stop x\nexit\n"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "--no-confirm-exit"],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **__import__("os").environ,
            "VLLM_MAGIC_EXECUTABLE": executable,
            "IPYTHONDIR": str(home.parent / "ipython"),
        },
    )
    assert "tiny is ready after" in done.stdout
    assert "tiny released in" in done.stdout
    assert "UsageError: No server is called x" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    traces.check()


def test_a_server_that_was_idle_is_told_of(shell, traces):
    server = run(shell, "start tiny --ttl 1s")
    assert server._run.wait_over(60)
    said = "released after 1 s without a request"
    assert f"tiny was {said}." in plain(shell, run(shell, ""))
    assert f"tiny was {said}." in plain(shell, run(shell, "logs tiny"))
    assert f"tiny: {said}" in plain(shell, server)
    with pytest.raises(UsageError, match=said):
        run(shell, "stop tiny")
    again = run(shell, "restart tiny")
    assert again.spec.ttl == 1
    assert again._run.wait_over(60)
    traces.check()
