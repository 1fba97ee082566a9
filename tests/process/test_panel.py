"""The panel's kernel side, by what it sends: a real kernel or a real controller, the stand-in, and views that talk as the browser's do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import checkpoints
import nbformat
import pytest
import stand_in
from fake_gpu import fakegpu
from hypothesis import given, settings
from hypothesis import strategies as st
from nbclient import NotebookClient

from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands.settings import Settings
from vllm_magic.jupyter.panel import controller as controllers
from vllm_magic.jupyter.panel import form, messages, open_views, server_list
from vllm_magic.jupyter.panel.background_work import Work
from vllm_magic.jupyter.panel.controller import Controller
from vllm_magic.jupyter.panel.messages import FormFields, Request, RequestKind
from vllm_magic.provisioning.standby_pool import StandbyMode

LIMIT = 30.0  # seconds for what takes tenths


class Views:
    """What the front end gets, and what its views say."""

    def __init__(self) -> None:
        self.states: list[dict] = []
        self.messages: list[dict] = []
        self._came = threading.Condition()

    def set_view_state(self, state: dict) -> None:
        json.dumps(state)
        with self._came:
            self.states.append(state)
            self._came.notify_all()

    def send(self, message: dict) -> None:
        json.dumps(message)
        with self._came:
            self.messages.append(message)
            self._came.notify_all()

    def of(self, kind: str) -> list[dict]:
        return [one for one in self.messages if one["kind"] == kind]

    def wait(self, condition, what: str) -> None:
        with self._came:
            assert self._came.wait_for(condition, LIMIT), f"{what}: {self.states[-1:]} {self.messages[-3:]}"

    def wait_state(self, state: str) -> None:
        self.wait(lambda: self.chosen and self.chosen["state"] == state, state)

    @property
    def state(self) -> dict:
        return (
            self.states[-1]
            if self.states
            else {"chosen": None, "notice": None, "form": {"wrong": False, "flags": "", "text": ""}}
        )

    @property
    def chosen(self) -> dict | None:
        return self.state["chosen"]


@pytest.fixture
def views() -> Views:
    return Views()


@pytest.fixture
def controller(manager, home, executable, views):
    work = Work(manager, lambda: Settings(executable=executable), lambda: None)
    made = Controller(manager, views, work, lambda: False)
    yield made
    made.close()


def listed(views: Views) -> dict[str, str]:
    return {one["name"]: one["state"] for one in views.state.get("servers", [])}


def hello(controller: Controller, view: str = "view") -> None:
    controller.post(Request(RequestKind.HELLO, view, tab="log"))


def start(controller: Controller, views: Views, *, name: str = "tiny") -> None:
    controller.post(Request(RequestKind.START, "view", fields=FormFields(name)))
    views.wait_state("ready")


def test_a_life(controller, views, traces):
    hello(controller)
    start(controller, views)
    assert views.chosen["url"].startswith("http://127.0.0.1:")
    assert views.chosen["fields"] == {"model": "tiny", "flags": "", "gpus": ""}
    views.wait(
        lambda: any("startup complete" in line for one in views.of("log") for line in one["lines"]), "the log"
    )
    controller.post(Request(RequestKind.STOP, "view", name="tiny"))
    views.wait_state("released")
    assert views.chosen["release"]["verified"]
    assert [state for state, _ in views.chosen["times"]] == ["starting", "ready", "stopping", "released"]
    controller.close()
    traces.check()


def test_the_spare_is_shown(manager, home, views, tmp_path):
    executable = str(stand_in.install_environment(tmp_path / "vllm"))
    work = Work(manager, lambda: Settings(executable=executable), lambda: None)
    controller = Controller(manager, views, work, lambda: False)
    try:
        hello(controller)
        views.wait(lambda: views.state.get("spare") == "", "no spare")
        manager.spares.set_mode(StandbyMode.ON)
        start(controller, views)
        assert not views.chosen["warm"]
        views.wait(lambda: re.fullmatch(r"spare: 0\.\d\d GiB of memory", views.state["spare"]), "the spare")
        start(controller, views, name="other")
        views.wait(lambda: views.chosen["name"] == "other" and views.chosen["state"] == "ready", "the other")
        assert views.chosen["warm"]
    finally:
        controller.close()


SECRETS = "--api-key sk-very-secret-key --hf-token hf_abcdefghijklmnopqrstuvwxyz --env X_TOKEN='to be kept'"


def test_no_secret_is_sent(controller, views, manager, monkeypatch):
    """Neither of a server nor of the form; and what a view was shown masked still stands for what it hides."""
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    hello(controller)
    words = FormFields("tiny", f"{SECRETS} --name other")
    controller.post(Request(RequestKind.FORM, "view", fields=words))
    views.wait(lambda: "***" in views.state["form"]["flags"], "the form")
    assert views.state["form"]["view"] == "view"  # where it stays as it was typed
    controller.post(Request(RequestKind.START, "view", fields=words))
    views.wait_state("ready")
    controller.post(Request(RequestKind.HEARTBEAT, "view", tab="processes"))
    views.wait(lambda: views.of("processes"), "the processes")
    spec = manager.get("other").spec
    controller.post(Request(RequestKind.STOP, "view", name="other"))
    views.wait_state("released")
    views.wait(lambda: views.state["form"]["model"] == "tiny", "the words to start it again")
    again = FormFields(*(views.state["form"][key] for key in ("model", "flags", "gpus")))
    controller.post(Request(RequestKind.START, "view", fields=again))
    views.wait_state("ready")
    assert manager.get("other").spec == spec
    sent = json.dumps(views.states + views.messages)
    assert not [one for one in ("very-secret", "hf_abc", "to be", "kept") if one in sent]


def test_what_is_hidden_in_the_form():
    settings = Settings(flags="--max-model-len 256 --ttl 90s", gpus="0")
    typed = FormFields(
        "org/tiny", f"{SECRETS} --seed 3 --port 8123 --keep 1h30m --hf-overrides '{{\"a b\": 1}}'", "1"
    )
    spec = form.spec(typed, settings)
    said = form.fields_of(spec, settings)
    assert "--max-model-len" not in said.flags  # the settings add it
    assert form.spec(form.unmasked(form.masked(said), said), settings) == spec
    assert form.spec(form.unmasked(form.masked(typed), typed), settings) == spec
    changed = replace(form.masked(said), flags=form.masked(said).flags.replace("--seed 3", "--seed 4"))
    assert form.spec(form.unmasked(changed, said), settings).env == spec.env
    assert "secret" not in form.masked(replace(typed, flags=f"{typed.flags} '")).flags  # half typed
    with pytest.raises(InvalidOption, match="where no key was hidden"):
        form.unmasked(FormFields("tiny", "--api-key ***"), FormFields())


def test_a_server_of_a_cluster_in_the_form():
    settings = Settings(executable="/nowhere/vllm")
    typed = FormFields("org/tiny", "--no-such-flag --cluster http://me:secret@head:8265/")
    spec = form.spec(typed, settings)
    assert spec.cluster == "http://me:secret@head:8265/"
    assert form.spec(form.fields_of(spec, settings), settings) == spec
    judged = form.assess(typed, settings, None)
    assert (judged.wrong, judged.text) == (
        False,
        "The server will run on the Ray cluster at http://head:8265.",
    )


def test_a_model_that_cannot_be_served_in_the_form(executable, tmp_path):
    model = checkpoints.model(tmp_path / "llama", checkpoints.LLAMA_3_8B)
    settings = Settings(executable=executable)
    assert not form.assess(FormFields(str(model)), settings, None).wrong
    (model / "model.safetensors").unlink()
    said = f"{model} has no weights (*.safetensors, *.bin, *.pt). Download or copy them"
    assert form.assess(FormFields(str(model)), settings, None) == form.Assessment(said, wrong=True)
    assert not form.assess(FormFields(str(model), "--load-format dummy"), settings, None).wrong


def test_a_chat(controller, views):
    hello(controller)
    start(controller, views)
    controller.post(Request(RequestKind.PROMPT, "view", name="tiny", text="Hello"))
    views.wait(
        lambda: views.of("chat")[-1]["turns"] and views.of("chat")[-1]["turns"][-1]["over"], "the answer"
    )
    turn = views.of("chat")[-1]["turns"][-1]
    assert turn["prompt"] == "Hello"
    assert "word0" in turn["answer"]
    assert "tokens in" in turn["note"]


def test_a_chat_of_another_server_does_not_come_between(controller, views, manager, spec, monkeypatch):
    for name, value in stand_in.options(token_s=0.1).items():
        monkeypatch.setenv(name, value)
    for name in "ab":
        manager.start(spec(name=name))
    hello(controller)
    controller.post(Request(RequestKind.CHOOSE, "view", name="a"))
    controller.post(Request(RequestKind.PROMPT, "view", name="a", text="Hello"))
    views.wait(
        lambda: any("word1" in turn["answer"] for one in views.of("chat") for turn in one["turns"]), "a"
    )
    controller.post(Request(RequestKind.CHOOSE, "view", name="b"))
    views.wait(lambda: views.of("chat")[-1]["name"] == "b", "the chat with b")
    began = len(views.of("chat")) - 1
    views.wait(lambda: not controller._chats.of("a").busy, "the end of the answer")
    controller.post(Request(RequestKind.CHOOSE, "view", name="a"))
    views.wait(lambda: views.of("chat")[-1]["name"] == "a", "the chat with a")
    assert [one["name"] for one in views.of("chat")[began:]] == ["b", "a"]
    assert views.of("chat")[-1]["turns"][0]["over"]

    controller.post(Request(RequestKind.PROMPT, "view", name="a", text="Hello again"))
    chat = controller._chats.of("a")
    until(lambda: len(chat.turns) == 2 and chat.turns[1].answer)
    controller.post(Request(RequestKind.STOP, "view", name="a"))
    until(lambda: chat.turns[1].over)
    assert "stopped" in chat.turns[1].note
    assert not chat.turns[1].failed  # it was asked for


def test_what_is_over_stays_in_the_list(controller, views, manager, spec):
    """The last of them, in their places, each with its release; until it is cleared, here and nowhere else."""
    hello(controller)
    for number in range(server_list.MOST_ENDED + 2):
        manager.start(spec(name=f"s{number}"))
        if number != 1:
            manager.stop(f"s{number}")
    views.wait(
        lambda: listed(views) == {"s1": "ready", **{f"s{n}": "released" for n in range(2, 7)}}, "the list"
    )
    controller.post(Request(RequestKind.CHOOSE, "view", name="s3"))
    views.wait(lambda: views.chosen and views.chosen["name"] == "s3", "an earlier one")
    assert views.chosen["release"]["verified"]
    assert views.of("curve")[-1]["name"] == "s3"
    for name in ("s1", "s3"):  # the first of them runs: it stays
        controller.post(Request(RequestKind.REMOVE, "view", name=name))
    views.wait(lambda: list(listed(views)) == ["s1", "s2", "s4", "s5", "s6"], "one less")
    assert views.chosen is None
    assert "s3" in manager.past()
    manager.start(spec(name="s3"))
    views.wait(lambda: listed(views).get("s3") == "ready", "the name again")


def test_what_ends_a_server_unasked_is_shown(controller, views, manager, spec):
    hello(controller)
    manager.start(spec(keep=600.0, ttl=5400.0))
    views.wait_state("ready")
    assert views.chosen["terms"] == [
        "kept 10 min after the kernel",
        "released after 1 h 30 min without a request",
    ]


def test_what_goes_wrong_is_told(controller, views):
    hello(controller)
    controller.post(Request(RequestKind.START, "view", fields=FormFields("tiny", "--max-model-len '")))
    views.wait(lambda: views.state["notice"], "an error")
    assert views.state["notice"]["kind"] == "wrong"
    controller.post(Request(RequestKind.STOP, "view", name="nobody"))
    views.wait(lambda: "nobody" in str(views.state["notice"]), "another")


def test_a_fault_of_ours_is_told_and_the_panel_goes_on(controller, views, monkeypatch):
    hello(controller)
    views.wait(lambda: views.of("tick"), "a tick")

    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(controller._work, "doctor", broken)
    controller.post(Request(RequestKind.DOCTOR, "view"))
    views.wait(lambda: "fault of vllm_magic: ZeroDivisionError" in str(views.state["notice"]), "the fault")
    hello(controller)
    views.wait(
        lambda: len([one for one in views.of("received") if one["request"] == "hello"]) == 2,
        "the next message",
    )


def test_it_looks_while_somebody_looks(controller, views, manager):
    hello(controller, "one")
    hello(controller, "two")
    views.wait(lambda: len(views.of("tick")) > 2, "ticks")
    controller.post(Request(RequestKind.BYE, "one"))
    seen = len(views.of("tick"))
    views.wait(lambda: len(views.of("tick")) > seen + 1, "ticks for the other one")
    controller.post(Request(RequestKind.BYE, "two"))
    until(lambda: "vllm-magic sampler" not in [one.name for one in threading.enumerate()], 40)
    seen = len(views.messages)
    time.sleep(2 * controllers.UPDATE_INTERVAL)
    assert len(views.messages) == seen


def test_a_view_that_was_never_closed_expires(controller, views, monkeypatch):
    monkeypatch.setattr(open_views, "EXPIRY", 0.5)
    hello(controller)
    views.wait(lambda: views.of("tick"), "a tick")
    until(lambda: not controller._open_views)


def test_a_view_is_not_forgotten_while_a_cell_runs(manager, home, views, executable, monkeypatch):
    """Its signs of life may wait for the cell."""
    monkeypatch.setattr(open_views, "EXPIRY", 0.2)
    controller = Controller(manager, views, Work(manager, Settings, lambda: None), lambda: True)
    hello(controller)
    seen = len(views.of("tick"))
    views.wait(lambda: len(views.of("tick")) > seen + 3, "ticks")
    controller.close()


def test_nothing_is_sent_again_that_has_not_changed(controller, views):
    """Less than 2 kB a second while nothing happens; here without the headers, which add 400 bytes a message."""
    hello(controller)
    start(controller, views)
    settled = time.monotonic() + 3
    views.wait(lambda: time.monotonic() > settled, "calm")
    before, states = len(views.messages), len(views.states)
    views.wait(lambda: len(views.messages) >= before + 5, "ticks")
    sent = views.messages[before:]
    assert {one["kind"] for one in sent} <= {"tick"}
    assert len(views.states) == states
    assert max(len(json.dumps(one)) for one in sent) < 400


def test_a_server_of_a_cell_is_shown(controller, views, manager, spec):
    manager.start(spec())
    hello(controller)
    views.wait_state("ready")
    manager.stop()
    views.wait_state("released")
    assert views.state["form"]["model"] == "tiny"  # to be started again


def test_flags_are_checked_while_they_are_typed(controller, views):
    hello(controller)
    controller.post(
        Request(RequestKind.FORM, "view", fields=FormFields("tiny", "--gpu-memory-utilization '"))
    )
    views.wait(lambda: views.state["form"]["wrong"], "what is wrong")
    controller.post(Request(RequestKind.FORM, "view", fields=FormFields("tiny")))
    views.wait(lambda: not views.state["form"]["wrong"], "what is right")


def test_the_form_goes_by_the_memory_that_is_free_now(controller, views, fake_gpus, tmp_path):
    """Also when nobody types: memory that comes back is what a start has again."""
    model = str(checkpoints.model(tmp_path / "llama", checkpoints.LLAMA_3_8B))
    with fakegpu.holding(fake_gpus, 6, gpu=0):
        hello(controller)
        controller.post(
            Request(RequestKind.FORM, "view", fields=FormFields(model, "--max-model-len 1024", "0"))
        )
        views.wait(lambda: "Does not fit now" in views.state["form"]["text"], "that it does not fit")
    views.wait(lambda: not views.state["form"]["wrong"], "that it fits")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda some: st.lists(some) | st.dictionaries(st.text(), some),
)


@settings(deadline=None)
@given(
    ANYTHING
    | st.fixed_dictionaries(
        {"kind": st.sampled_from([*RequestKind]), "fields": ANYTHING, "pids": ANYTHING, "name": ANYTHING}
    )
)
def test_whatever_a_view_sends_is_read(content):
    found = messages.read(content, concurrent=False)
    assert found is None or isinstance(found.kind, RequestKind)


CELLS = """
%load_ext vllm_magic
import gc, threading, ipywidgets
from vllm_magic.jupyter.panel import singleton
from ipywidgets.widgets.widget import _instances
for _ in range(100):
    display(singleton.panel())
    singleton.close()
print(len(_instances), [one.name for one in threading.enumerate() if "panel" in one.name])
"""


@pytest.fixture
def notebook(home, executable, monkeypatch, tmp_path):
    """Runs cells in a kernel without a front end, as nbclient and papermill do; gives their outputs."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)

    def run(*cells: str):
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in cells])
        NotebookClient(
            made, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
        ).execute()
        return made

    return run


def test_a_hundred_openings_leave_nothing(notebook):
    said = notebook(CELLS).cells[0].outputs[-1]
    assert said.text.strip() == "0 []"


def test_without_a_front_end(notebook):
    outputs = notebook("%load_ext vllm_magic\n%vllm start tiny\n%vllm panel", "%vllm stop").cells[0].outputs
    shown = outputs[-1].data
    assert "tiny" in shown["text/plain"]
    assert "tiny" in shown["text/html"]
    assert "ready" in shown["text/html"]


def test_a_notebook_that_was_converted(notebook, tmp_path):
    """Without the widget's state, which JupyterLab does not save, the table is there."""
    made = notebook("%load_ext vllm_magic\n%vllm start tiny\n%vllm panel", "%vllm stop")
    made.metadata.pop("widgets", None)
    path = tmp_path / "panel.ipynb"
    nbformat.write(made, path)
    command = [sys.executable, "-m", "nbconvert", "--to", "html", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    page = path.with_suffix(".html").read_text()
    assert "The vLLM panel when it was opened" in page


def test_in_a_terminal(shell, capsys):
    shown = shell.run_line_magic("vllm", "panel")
    assert "No server runs" in repr(shown)


def until(condition, limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
