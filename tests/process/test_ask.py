"""`%%vllm`: what a person sees of an answer in a terminal, in a notebook, and in a saved one."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
import time

import nbformat
import pydantic
import pytest
import stand_in
from IPython.utils.capture import capture_output
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from traitlets.config import Config

from vllm_magic.engine.client.health import Api
from vllm_magic.engine.client.metrics import activity
from vllm_magic.manager.manager import manager

LIMIT = 60.0


def start(shell, words: str = "", **faults):
    shell.user_ns["says"] = stand_in.options(**faults)["STAND_IN"]
    return shell.run_line_magic("vllm", f"start tiny --enable-log-requests {words} --env STAND_IN={{says}}")


def cell(shell, source: str) -> str:
    """What a person sees of a cell, errors included."""
    with capture_output() as seen:
        shell.run_cell(source)
    return seen.stdout + seen.stderr


def asked(server) -> list[dict]:
    """The requests that a server got."""
    lines = [line.partition("Received request: ")[2] for line in server.log_path.read_text().splitlines()]
    return [json.loads(line.partition(" ")[2]) for line in lines if line]


def in_flight(server) -> int:
    return Api(server._run.command.endpoint, lambda: None).activity().in_flight


@contextlib.contextmanager
def once(server, condition, action):
    """Do something as soon as a look at the server's activity says so."""
    stop = threading.Event()

    def watch() -> None:
        api = Api(server._run.command.endpoint, lambda: None)
        deadline = time.monotonic() + LIMIT
        while not condition(api.activity()) and time.monotonic() < deadline and not stop.is_set():
            time.sleep(0.02)
        if not stop.is_set():
            action()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_an_answer_in_a_terminal(shell, traces):
    server = start(shell, says="The sea\nis **blue**.")
    seen = cell(shell, "%%vllm\nWhat is {this} and $that?\nTell.")
    assert seen.startswith("The sea\nis **blue**.\n(6 tokens in, 4 out · ")
    assert " tokens/s · the first after " in seen
    assert asked(server)[0]["messages"] == [{"role": "user", "content": "What is {this} and $that?\nTell."}]
    server.stop()
    traces.check()


def test_options(shell):
    server = start(shell, says="yes")
    cell(shell, "who = 'a pirate'; heat = 0.5")
    cell(shell, "%%vllm tiny --system 'You are {who}.' --temperature $heat --max-tokens 7 --as kept\nx")
    (sent,) = asked(server)
    assert sent["messages"][0] == {"role": "system", "content": "You are a pirate."}
    assert (sent["temperature"], sent["max_tokens"]) == (0.5, 7)
    assert shell.user_ns["kept"] == "yes"


def test_a_conversation(shell):
    server = start(shell, says="yes")
    for words in ("--history --system Hm.", "", "--history", "--new", "--history"):
        cell(shell, f"%%vllm {words}\n{words or 'alone'}")
    said = [[message["content"] for message in one["messages"]] for one in asked(server)]
    first = "--history --system Hm."
    assert said == [
        ["Hm.", first],
        ["alone"],
        ["Hm.", first, "yes", "--history"],
        ["--new"],
        ["--new", "yes", "--history"],
    ]
    again = shell.run_line_magic("vllm", "restart")
    cell(shell, "%%vllm --history\nnew")
    assert [len(one["messages"]) for one in asked(again)] == [1]


def test_json(shell):
    class Person(pydantic.BaseModel):
        name: str

    server = start(shell, says='{"name": "Ada"}')
    shell.user_ns.update(Person=Person, schema={"type": "object"}, number=3)
    for words in ("schema", "{schema}", "$schema", """'{"type": "object"}'"""):
        cell(shell, f"%%vllm --as kept --json {words}\nWho?")
        assert shell.user_ns.pop("kept") == {"name": "Ada"}
    assert [one["response_format"]["json_schema"]["schema"] for one in asked(server)] == [
        {"type": "object"}
    ] * 4
    cell(shell, "%%vllm --as kept --json Person\nWho?")
    assert shell.user_ns.pop("kept") == Person(name="Ada")
    assert "allow more tokens" in cell(shell, "%%vllm --as kept --json Person --max-tokens 1\nWho?")
    assert "kept" not in shell.user_ns
    for words in ("nobody", "[]", "number"):
        assert f"UsageError: --json {words}: " in cell(shell, f"%%vllm --json {words}\nWho?")


def test_a_model_without_a_chat_template(shell):
    server = start(shell, chat_template=False)
    seen = cell(shell, "%%vllm --system Hm.\nOnce upon")
    assert seen.startswith(
        "The model of tiny has no chat template: it continues the text of the cell.\n word0 "
    )
    assert "128 out" in seen
    assert "cut at the limit of tokens" in seen
    assert asked(server)[-1]["prompt"] == "Hm.\n\nOnce upon"


def test_thoughts_and_refusals(shell):
    start(shell, thinks="Let me see.", says="It is 4.")
    assert cell(shell, "%%vllm\n2+2").startswith("(thinking) Let me see.\n\nIt is 4.\n(")
    start(shell, "--name no", refuses="I will not.")
    assert cell(shell, "%%vllm no\n2+2").startswith("The model refuses: I will not.\n(")


def test_nothing_that_a_terminal_obeys(shell):
    start(shell, says="\x1b[31mred \x1b]0;title\x07 \x9b2J a\rb \x08c \u202eevil tab\tend")
    seen = cell(shell, "%%vllm\nx")
    assert seen.partition("\n(")[0] == "red  2J ab c evil tab\tend"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "UsageError: The cell is empty. Write a text for the model in the lines below %%vllm."),
        (
            "start",
            "UsageError: %%vllm sends the cell to a server. To run a command, write %vllm start in a line of its own.",
        ),
        ("nobody", "UsageError: No server is called nobody"),
        ("tiny more", "UsageError: Unrecognized arguments: more"),
        ("--temperature hot", "UsageError: Argument --temperature"),
        ("--max-tokens 0", "UsageError: Argument --max-tokens: '0' is not a whole number of 1 or more"),
        ("--as 1x", "UsageError: --as 1x: this is not a valid name of a variable"),
        ("--as if", "not a valid name of a variable"),
        ("--system {nobody}", "UsageError: {nobody}: name 'nobody' is not defined"),
    ],
)
def test_mistakes_are_one_line(shell, words, says):
    start(shell)
    seen = cell(shell, f"%%vllm {words}\n \n" if not words else f"%%vllm {words}\nx")
    assert says in seen
    assert "Traceback" not in seen


def test_no_server_several_and_one_that_starts(shell):
    assert "UsageError: No server runs. Start one" in cell(shell, "%%vllm\nx")
    start(shell, "--no-wait", import_s=60.0)
    seen = cell(shell, "%%vllm\nx")
    assert "RequestFailed: tiny is still starting: " in seen
    assert "Traceback" not in seen
    start(shell, "--no-wait --name two")
    assert "UsageError: Which one? There are tiny, two." in cell(shell, "%%vllm\nx")
    manager.stop_all(grace=0)


def test_an_interrupt_while_it_waits_for_its_turn(shell):
    """Nothing was said yet: the request is still in vLLM's queue."""
    server = start(shell, "--max-num-seqs 1", token_s=0.05)
    before = server.chat("x", stream=True, max_tokens=1000)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with once(server, lambda now: now.in_flight == 2, lambda: os.kill(os.getpid(), signal.SIGINT)):
            seen = cell(shell, "%%vllm --as kept\nx")
        assert in_flight(server) >= 1  # it did not wait for the one before
    finally:
        signal.signal(signal.SIGINT, handler)
        before.close()
    assert seen == "Interrupted: the server ends this answer too. The text so far is kept.\n"
    assert "kept" not in shell.user_ns


def test_an_engine_that_dies_in_the_middle(shell):
    server = start(shell, token_s=0.05, dead_exit_s=5.0)
    (engine,) = [one.identity.pid for one in server.processes() if "EngineCor" in one.name]
    with once(server, lambda now: now.served > 4, lambda: os.kill(engine, signal.SIGKILL)):
        seen = cell(shell, "%%vllm --as kept --max-tokens 2000\nx")
    text, _, below = seen.partition("\n(")
    assert text.startswith(" word0 word1")
    assert below.startswith("broken off · 1 tokens in, ")
    assert "RequestFailed: tiny answers 500: EngineCore encountered an issue" in below
    assert shell.user_ns["kept"] == text


def test_an_answer_as_a_value(shell):
    server = start(shell, says="one <b>\n\ttwo\x1b[1m")
    shown_as = shell.display_formatter.format(server.chat("x"))[0]
    assert shown_as["text/plain"].startswith("one <b>\n\ttwo\n(1 tokens in, 3 out · ")
    assert "one &lt;b&gt;\n\ttwo\n(" in shown_as["text/html"]


def test_an_embedding_model_says_what_it_is_for(shell):
    start(shell, task="embed")
    assert "tiny generates no text. Use server.embed" in cell(shell, "%%vllm\nx")


class Kernel:
    """A real kernel with the extension, and every message that its cells cause."""

    def __init__(self, env: dict[str, str]) -> None:
        self.manager = KernelManager(kernel_name="python3", transport_encryption="auto")
        self.manager.start_kernel(env=env)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT)

    def run(self, code: str, on_message=None) -> list[tuple[str, dict]]:
        messages = []

        def hear(message) -> None:
            messages.append((message["msg_type"], message["content"]))
            if on_message:
                on_message(message)

        self.client.execute_interactive(code, timeout=LIMIT, output_hook=hear)
        return messages

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel(home, executable):
    says = stand_in.options(says="**one** two " + "three " * 60, token_s=0.02)
    kernel = Kernel({**os.environ, "VLLM_MAGIC_EXECUTABLE": executable, **says})
    kernel.run(
        "%load_ext vllm_magic\n%config VllmMagics.display = 'update'\ns = %vllm start tiny --max-model-len 4096"
    )
    yield kernel
    kernel.close()


RUNNING = "import httpx; print(httpx.get(s.url + '/metrics', trust_env=False).text)"


def test_in_a_kernel(kernel):
    """One output that is updated in place; an interrupt ends it here and on the server."""
    messages = kernel.run("%%vllm --as kept --max-tokens 100\nx")
    shows = [content for kind, content in messages if kind == "display_data"]
    updates = [content for kind, content in messages if kind == "update_display_data"]
    answer, below = shows
    assert updates
    assert {one["transient"]["display_id"] for one in (answer, *updates)} == {
        answer["transient"]["display_id"]
    }
    texts = [one["data"]["text/plain"] for one in (answer, *updates)]
    assert all(later.startswith(sooner) for sooner, later in itertools.pairwise(texts))
    assert texts[-1] == "**one** two " + "three " * 60
    assert "1 tokens in, 62 out" in below["data"]["text/plain"]

    (result,) = [content for kind, content in kernel.run("kept") if kind == "execute_result"]
    assert result["data"]["text/plain"] == repr(texts[-1])

    interrupted = threading.Event()

    def interrupt(message) -> None:
        if message["msg_type"] == "update_display_data" and not interrupted.is_set():
            interrupted.set()
            kernel.manager.interrupt_kernel()

    messages = kernel.run("%%vllm --history --max-tokens 100\nx", interrupt)
    assert [content["ename"] for kind, content in messages if kind == "error"] == ["Interrupted"]
    (error,) = [content["traceback"] for kind, content in messages if kind == "error"]
    assert error == ["Interrupted: the server ends this answer too. The text so far is kept."]
    *_, kept, below = [content["data"] for _, content in messages if "data" in content]
    assert kept["text/html"].startswith("<p><strong>one</strong> two")
    assert below["text/plain"].startswith("interrupted · 1 tokens in, ")
    deadline = time.monotonic() + LIMIT
    while True:
        (text,) = [content["text"] for kind, content in kernel.run(RUNNING) if kind == "stream"]
        if activity(text).in_flight == 0:
            break
        assert time.monotonic() < deadline


def test_a_saved_notebook(home, executable, traces, monkeypatch):
    """nbclient, as papermill and nbconvert use it: what was shown last is what stays."""
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", executable)
    for name, value in stand_in.options(says="# A title\n\nsome *text*", token_s=0.05).items():
        monkeypatch.setenv(name, value)
    cells = ["%load_ext vllm_magic\n%vllm start tiny", "%%vllm --as kept\nx", "%vllm stop"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    client = NotebookClient(
        notebook, kernel_name="python3", config=Config(KernelManager={"transport_encryption": "auto"})
    )
    client.execute()
    answer, below = notebook.cells[1].outputs
    assert answer["data"]["text/html"] == "<h1>A title</h1>\n<p>some <em>text</em></p>\n"
    assert answer["data"]["text/plain"] == "# A title\n\nsome *text*"
    assert "tokens/s" in below["data"]["text/html"]
    nbformat.validate(notebook)
    traces.check()
