"""How results look: the same in plain text and in HTML, nothing from outside as HTML, and no key anywhere."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from dataclasses import replace

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from view_checks import GIB, KEY, a_server, launched, same, snapshot

from vllm_magic.doctor import gpus
from vllm_magic.engine.failures.explanations import explain
from vllm_magic.engine.startup.stages import Progress, Stage
from vllm_magic.errors import StartFailed
from vllm_magic.gpu.devices import Snapshot
from vllm_magic.guard.protocol import Why
from vllm_magic.jupyter.display import views
from vllm_magic.jupyter.display.mode import DisplayMode
from vllm_magic.jupyter.display.progress import LINE_INTERVAL, AppendedLines, ProgressLine
from vllm_magic.jupyter.panel import view_state
from vllm_magic.lifecycle.events import NeverStarted, Over, ProgressChanged, Ready
from vllm_magic.linux import processes
from vllm_magic.recovery import sweep
from vllm_magic.release import report
from vllm_magic.release.result import EndedProcess, GpuMemory, Proof, Release
from vllm_magic.server.server import Server
from vllm_magic.view import View

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


def release(**changes) -> Release:
    fields = {
        "server": "tiny",
        "why": Why.ASKED.value,
        "seconds": 0.526,
        "ended": (EndedProcess(1, 1, "VLLM::EngineCor", "SIGTERM"), EndedProcess(2, 1, "vllm", "by itself")),
        "left": (),
        "exit_code": 0,
        "vram": (GpuMemory(0, "GPU-a", "NVIDIA H200", 0, 22 * GIB, 0),),
        "proof": Proof.NVML_MEMORY,
        "verified": True,
        "note": "",
    }
    return Release(**{**fields, **changes})


CAME = "GPU 0: pid 77 of ana holds 4.0 GiB; it came while this server ran, and is not known to belong to it"


class TestWhoCame:
    """The note on who came to a GPU is wherever a release is shown."""

    one = release(proof=Proof.NVML_PROCESSES, note=CAME)

    def test_one_release(self):
        assert same(self.one.view()).split("\n")[-1] == f"({CAME})"

    def test_several(self):
        assert same(views.releases([self.one, release(server="other")])).split("\n")[-1] == f"tiny: {CAME}"

    def test_the_panel(self):
        shown = view_state.release(self.one)
        assert (shown["note"], shown["verified"], shown["again"]) == (CAME, True, False)

    def test_a_sweep(self):
        assert sweep.Swept("tiny", "3f9a", self.one).text.endswith(f"proved by NVML processes. ({CAME})")

    @pytest.mark.parametrize(
        ("why", "failure"),
        [(Why.GUARD_GONE, None), (Why.KERNEL_GONE, None), (Why.LEADER_ENDED, explain(["x"], 1))],
    )
    def test_an_end_that_nobody_asked_for(self, why, failure):
        error = report.error(self.one, why, failure, "", asked=False, was_ready=True)
        assert str(error).endswith(f"({CAME})")

    def test_not_where_memory_is_not_told(self):
        unknown = replace(self.one, vram=(GpuMemory(0, "GPU-a", "GB10", None, None, None),))
        assert (unknown.doubt, unknown.in_brackets) == ("", "")


class TestAgain:
    """Another look is offered where it may help."""

    @pytest.mark.parametrize(
        ("changes", "again"),
        [
            ({}, False),
            ({"verified": False}, False),
            ({"verified": False, "may_recheck": True}, True),
            ({"verified": False, "left": (EndedProcess(1, 1, "vllm", "SIGKILL"),)}, True),
        ],
    )
    def test_in_the_panel(self, changes, again):
        assert view_state.release(release(**changes))["again"] is again

    def test_in_the_error(self):
        for may_recheck, said in ((True, True), (False, False)):
            error = report.not_released(
                release(verified=False, may_recheck=may_recheck, note="GPU 0: not yet")
            )
            assert ("Stop it again for another check." in str(error)) is said


class TestView:
    def test_empty(self):
        assert same(View()) == ""

    def test_all_of_it(self):
        view = View("headline", ("one", "two"), (("a", "b"), ("longer", "c")), ("line 1", "line 2"))
        assert same(view).split("\n") == [
            "headline",
            "one     two",
            "a       b",
            "longer  c",
            "line 1",
            "line 2",
        ]

    def test_a_table_without_rows_is_left_out(self):
        assert same(View("headline", ("one", "two"))) == "headline"

    def test_empty_lines_stay(self):
        view = View("headline", lines=("one", "", "two"))
        assert same(view) == "headline\none\n\ntwo"
        assert "one\n\ntwo</pre>" in view._repr_html_()

    def test_what_comes_from_outside_is_text(self):
        view = View(EVIL, (EVIL,), ((EVIL,),), (EVIL, f"</pre>{EVIL}"))
        assert EVIL in same(view)

    def test_a_cell_is_one_line_that_a_terminal_can_show(self):
        view = View("", ("one", "two"), (("a\nb\tc", "\x1b[31mred\x07\u202e"),))
        assert repr(view).split("\n") == ["one    two", "a b c  [31mred"]
        assert "\x1b" not in view._repr_html_()


class TestServers:
    def test_none(self):
        assert "%vllm start" in same(views.status([], None))

    def test_while_it_starts(self):
        one = a_server()
        one._run.handle(ProgressChanged(Progress(Stage.LOADING, (3, 8))))
        assert "starting: loading weights" in same(views.status([one.status], None))
        assert same(one.status.view()).startswith("tiny: starting: loading weights")

    def test_when_it_is_ready(self, tmp_path):
        one = launched(a_server(), tmp_path)
        one._run.handle(Ready())
        for view in (views.status([one.status], None), one.status.view()):
            text = same(view)
            assert "ready" in text
            assert "http://127.0.0.1:8001/v1" in text
            assert str(os.getpid()) in text
            assert "m/Tiny" in text

    def test_when_it_failed(self):
        one = a_server()
        one._run.handle(NeverStarted(StartFailed("The model is gated", "Set HF_TOKEN")))
        for view in (views.status([one.status], None), one.status.view()):
            assert "The model is gated. Set HF_TOKEN" in same(view)

    def test_markup_in_names_and_errors(self):
        one = a_server(model=EVIL, name="tiny")
        one._run.handle(NeverStarted(StartFailed(f"There is no {EVIL}", EVIL)))
        for view in (views.status([one.status], None), one.status.view()):
            assert "<script>" in same(view)
            assert "<script" not in view._repr_html_()
            assert "<img" not in view._repr_html_()

    def test_no_key(self):
        one = a_server(args=("--api-key", KEY, "--seed", "1"))
        assert one.api_key == KEY
        for shown in (one, one.spec, one._run.command, vars(one._run)["spec"], one.status, one.spec.args):
            assert KEY not in repr(shown)
            assert KEY not in str(shown)

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.9, "0 s"),
            (59.9, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (90061, "25 h 1 min"),
        ],
    )
    def test_since_when(self, seconds, text):
        now = replace(a_server().status, seconds=seconds)
        assert f"  {text}" in same(views.status([now], None))


class TestReleases:
    def test_one(self):
        text = same(release().view())
        assert text.startswith("tiny released in 0.53 s: 2 processes ended, proved by NVML memory.")
        assert "0: NVIDIA H200  0.00 GiB      22.00 GiB    0.00 GiB  22.00 GiB" in text

    def test_without_a_gpu(self):
        text = same(release(vram=(), proof=Proof.PROCESSES, note="no NVIDIA driver found").view())
        assert text.endswith("proved by processes.\n(no NVIDIA driver found)")

    def test_what_is_not_proved_says_so(self):
        text = same(release(proof=Proof.NONE, verified=False, note="still alive: pid 7").view())
        assert text.startswith(
            "tiny is not released, 0.53 s after its end began: 2 processes ended, NOT proved."
        )
        assert "still alive: pid 7" in text
        both = same(
            views.releases([release(), release(server="other", verified=False, proof=Proof.PROCESSES)])
        )
        assert "NOT proved" in both

    def test_unknown_memory_is_not_zero(self):
        vram = (GpuMemory(0, "GPU-a", "GB10", None, None, None),)
        assert same(release(vram=vram).view()).endswith("GB10  ?             ?            ?    ?")
        both = same(views.releases([release(vram=vram), release(vram=vram, server="other")]))
        assert "0.00 GiB" not in both
        assert "?" in both

    def test_several(self):
        assert "nothing to stop" in same(views.releases([]))
        assert same(views.releases([release()])) == same(release().view())
        text = same(views.releases([release(), release(server="other", vram=())]))
        assert text.startswith("2 servers released.")
        assert "22.00 GiB" in text

    def test_markup(self):
        vram = (GpuMemory(0, "GPU-a", EVIL, 0, 0, 0),)
        assert EVIL in same(release(vram=vram, note=EVIL, proof=Proof.PROCESSES).view())


def gpu_view(now: Snapshot, servers: dict[int, str] | None = None) -> View:
    return gpus.view(now, gpus.uses(now, processes.table(), servers or {}, {}))


class TestGpus:
    def test_none(self):
        nothing = Snapshot(0.0, (), None, "no NVIDIA driver found")
        assert same(gpu_view(nothing)) == "No GPU can be seen: no NVIDIA driver found."

    def test_a_driver_that_lists_nobody(self):
        assert "does not list processes" in same(gpu_view(snapshot(processes=None)))

    def test_memory_that_is_not_told(self):
        text = same(gpu_view(snapshot(total=None, used=None, free=None)))
        assert "GiB" not in text


class TestLogs:
    def test_lines(self):
        assert same(views.lines("tiny", ["one", "two"])) == "one\ntwo"
        assert same(views.lines("tiny", [])) == "The log of tiny is empty."

    def test_markup(self):
        view = views.lines("tiny", [EVIL, "</pre>"])
        assert EVIL in same(view)
        assert "<script" not in view._repr_html_()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    def steps(self, one: Server, line: ProgressLine) -> None:
        for progress in (
            Progress(Stage.IMPORTING),
            Progress(Stage.LOADING, (3, 8)),
            Progress(Stage.LOADING, (8, 8)),
        ):
            one._run.handle(ProgressChanged(progress))
            line.report(one)

    def test_in_a_terminal_one_line_is_written_over(self, monkeypatch):
        out = Terminal()
        line = ProgressLine(DisplayMode.TERMINAL)
        monkeypatch.setattr(sys, "stdout", out)
        self.steps(a_server(), line)
        shown = out.getvalue().split("\r")[1:]
        assert [part.rstrip() for part in shown] == [
            f"{'┄' * 12} tiny: importing vLLM · 0 s",
            f"{'━' * 6}{'┄' * 6} tiny: loading weights 3/8 · 0 s",
            f"{'━' * 7}{'┄' * 5} tiny: loading weights 8/8 · 0 s",
        ]
        assert "\n" not in out.getvalue()
        line.finish("")
        assert out.getvalue().endswith("\r" + " " * 78 + "\r")

    def test_a_long_name_does_not_break_the_line(self, monkeypatch):
        out = Terminal()
        monkeypatch.setattr(sys, "stdout", out)
        ProgressLine(DisplayMode.TERMINAL).report(a_server(name="n" * 64))
        assert len(out.getvalue()) == 79

    def test_where_text_is_appended_each_stage_is_one_line(self, capsys):
        line = ProgressLine(DisplayMode.APPEND)
        self.steps(a_server(), line)
        line.finish("tiny is ready.")
        shown = re.sub(r"\d+ s\n", "N s\n", capsys.readouterr().out)  # a busy machine may take a second
        assert shown == "tiny: importing vLLM · N s\ntiny: loading weights 3/8 · N s\ntiny is ready.\n"

    def test_a_long_stage_gets_a_line_now_and_then(self, capsys, monkeypatch):
        line = AppendedLines()
        for now in (100.0, 101.0, 100.0 + LINE_INTERVAL, 101.0 + LINE_INTERVAL):
            monkeypatch.setattr(time, "monotonic", lambda now=now: now)
            line.show(f"at {now:.0f}", None)
        assert capsys.readouterr().out == "at 100\nat 115\n"

    def test_where_only_the_end_is_shown_no_progress_is(self, capsys):
        line = ProgressLine(DisplayMode.FINAL)
        self.steps(a_server(), line)
        line.finish("")
        assert capsys.readouterr().out == ""
        line.finish("tiny is ready.")
        assert "tiny is ready." in capsys.readouterr().out

    def test_in_a_notebook_one_output_is_updated(self):
        InteractiveShell.instance()
        try:
            line = ProgressLine(DisplayMode.UPDATE)
            with capture_output() as seen:
                self.steps(a_server(model="<b>"), line)
                line.finish("")
        finally:
            InteractiveShell.clear_instance()
        texts = [output.data["text/plain"] for output in seen.outputs]
        assert '<progress max="1" value="0.468"></progress>' in seen.outputs[1].data["text/html"]
        assert texts[0].endswith("importing vLLM · 0 s")
        assert texts[-1] == ""
        assert seen.stdout == ""
        assert [output.data["text/html"] for output in seen.outputs][-1] == "<div></div>"

    def test_nothing_was_shown_nothing_is_taken_back(self, capsys):
        for mode in DisplayMode:
            ProgressLine(mode).finish("")
        assert capsys.readouterr().out == ""


def test_the_end_of_a_server_that_ended_by_itself(tmp_path):
    """The log's last words come to the screen as text."""
    one = launched(a_server(), tmp_path)
    failure = explain([f"vllm: error: unrecognized arguments: --{EVIL}"], 2)
    one._run.handle(Over(release(exit_code=2), Why.LEADER_ENDED, failure))
    view = views.status([one.status], None)
    assert f"vLLM does not know --{EVIL}" in same(view)
    assert "<script" not in view._repr_html_()
