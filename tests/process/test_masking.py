"""No key and no token in anything that is shown, wherever it came from."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vllm_magic import cli
from vllm_magic.doctor import gpus, survey
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption, NameInUse, StartFailed
from vllm_magic.jupyter.display import views
from vllm_magic.linux import processes
from vllm_magic.masking import SHOWN

HF = "hf_" + "aBcDeFgH" * 4


# What is planted: by form, by the name of a variable, by the flag.
PLANTED = {
    "form": HF,
    "flag": "flag-" + secrets.token_hex(8),
    "env": "env-" + secrets.token_hex(8),
    "aws": "aws/+" + secrets.token_hex(8),
    "kernel": "kernel-" + secrets.token_hex(8),
}
SPEAK = (
    'env; printf "%s\\n" "$*"; echo "Bearer $VLLM_API_KEY, $HF_TOKEN $AWS_SECRET_ACCESS_KEY and $TEAM_TOKEN"'
)


@pytest.fixture
def talkative(tmp_path, monkeypatch):
    """Makes specs of a vLLM that logs all that it knows, and then does what the shell words say."""
    monkeypatch.setenv("TEAM_TOKEN", PLANTED["kernel"])

    def make(then: str, *args: str, **fields) -> ServerSpec:
        script = tmp_path / "vllm"
        script.write_text(f"#!/bin/sh\n{SPEAK}\n{then}\n")
        script.chmod(0o755)
        overrides = f'{{"token": "{HF}"}}'
        return ServerSpec(
            "tiny",
            ("--hf-overrides", overrides, "--api-key", PLANTED["flag"], *args),
            executable=str(script),
            env=(("AWS_SECRET_ACCESS_KEY", PLANTED["aws"]), ("HF_TOKEN", PLANTED["env"])),
            **fields,
        )

    return make


def check(*shown: object) -> str:
    """None of the secrets is in any of it, as text, as repr, as HTML."""
    texts = []
    for one in shown:
        texts += [str(one), repr(one)]
        if isinstance(one, views.View):
            texts.append(one._repr_html_())
        if isinstance(one, StartFailed):
            texts += [one.cause, one.hint, *one.log_tail]
        if isinstance(one, Exception):
            texts += [*getattr(one, "_render_traceback_", list)(), *map(str, one.args)]
    whole = "\n".join(texts)
    assert {name: secret for name, secret in PLANTED.items() if secret in whole} == {}
    return whole


def test_every_view_of_a_server_that_runs(manager, executable, talkative, fake_gpus, traces, capsys):
    wanted = talkative(f'exec {shlex.quote(executable)} "$@"')
    one = manager.start(wanted, timeout=60).server
    assert all(secret in one.log_path.read_text() for secret in PLANTED.values())  # there to be shown
    now = manager.gpus()
    assert any(gpu.processes for gpu in now.gpus)
    with pytest.raises(NameInUse) as caught:
        manager.start(ServerSpec("tiny", name="tiny", executable=wanted.executable))
    said = views.lines(one.name, one.log(500))
    assert SHOWN in check(
        said,
        one.status.view(),
        views.status([one.status], now),
        gpus.view(*survey.holders(manager.probe)),
        gpus.view(now, gpus.uses(now, processes.table(), {}, {})),
        views.doctor(survey.survey(manager.probe, executable)),
        caught.value,
    )
    assert SHOWN in check((one.log_path.parent / "record.json").read_text())
    assert any(SHOWN in processes.title(process.identity.pid) for process in one.processes())
    check(
        one,
        one.spec,
        one._run.command,
        one.log(500),
        one.processes(),
        *map(processes.title, processes.table()),
    )
    for command in (["logs", "tiny"], ["ps"], ["ps", "--json"], ["doctor"], ["doctor", "--json"], ["gpu"]):
        cli.main(command)
        check(capsys.readouterr().out)
    cli.main(["logs", "tiny", "-n", "500"])
    assert SHOWN in check(capsys.readouterr().out)
    release = one.stop()
    check(release, release.view(), views.releases([release, release]))
    check(one, views.lines(one.name, one.log(500)), one.status.view())
    traces.check()


@pytest.mark.parametrize(
    "then",
    [
        'echo "RuntimeError: no access with $HF_TOKEN, $AWS_SECRET_ACCESS_KEY, $VLLM_API_KEY or $TEAM_TOKEN"; exit 1',
        'echo "vllm: error: unrecognized arguments: $*"; exit 2',
        'echo "error: argument --x: Invalid: $HF_TOKEN"; exit 2',
        "exit 3",  # the last lines that it said
    ],
    ids=[
        "error",
        "unrecognized",
        "argument",
        "nothing",
    ],  # the test's name is in the environment, and so in the log
)
def test_every_view_of_a_server_that_failed(manager, talkative, then):
    with pytest.raises(StartFailed) as caught:
        manager.start(talkative(then), timeout=60)
    one = manager.get("tiny")
    assert SHOWN in check(caught.value, one.error, one.status.view(), views.status([one.status], None))
    check(one.release, one.log(500))


def test_what_the_guards_refuse(manager, talkative, tmp_path):
    with pytest.raises(InvalidOption, match=r"The working directory of tiny, .*\*\*\*, is gone") as caught:
        manager.start(talkative("exit 0", cwd=str(tmp_path / HF)), timeout=60)
    check(caught.value)


def test_the_title_of_somebody_elses_process():
    script = "print(flush=True); input()"
    words = [sys.executable, "-c", script, "serve", "--api-key", PLANTED["flag"], PLANTED["env"], f"--x={HF}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert PLANTED["flag"] in Path(f"/proc/{other.pid}/cmdline").read_text()
        assert check(processes.title(other.pid)).endswith("serve --api-key *** *** --x=***'")
        other.communicate(b"\n")


@pytest.mark.parametrize(
    "words",
    [
        ["api_key=[," * 12_000] * 4,
        ["x" * (processes.LONGEST_TITLE - 100), HF, "x" * 5000],
        ["x" * (processes.LONGEST_TITLE - 90), HF, "x" * 5000],
        ["x" * 100_000],
    ],
    ids=range(4),
)
def test_a_command_line_that_is_made_to_take_long(words):
    """Anybody can make one of 128 kB a word; it is not searched for keys as a whole, and its cut shows none."""
    code = "import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code, *words]) as process:
        try:
            until = time.monotonic() + 60
            while code not in (shown := processes.title(process.pid)):  # executed by now
                assert time.monotonic() < until
            began = time.process_time()
            processes.title(process.pid)
            took = time.process_time() - began
        finally:
            process.kill()
    assert took < 1
    assert len(shown) <= processes.LONGEST_TITLE
    assert HF[:8] not in shown


@pytest.mark.parametrize("key", ["ab\\nzqxzqx", "ab zqxzqx", "äbzqxzqx"])
def test_a_key_that_no_header_takes_is_in_no_traceback(shell, capsys, key):
    shell.run_line_magic("xmode", "Verbose")
    shell.user_ns["the_key"] = key.encode().decode("unicode_escape") if "\\" in key else key
    for cell in (
        "import vllm_magic; vllm_magic.start('tiny', '--api-key', the_key).chat('hi')",
        "vllm_magic.start('tiny', env={'VLLM_API_KEY': the_key}).client()",
        "%vllm start tiny --api-key {the_key}",
    ):
        assert not shell.run_cell(cell).success
        said = "".join(capsys.readouterr())
        assert "visible ASCII" in said
        assert "zqx" not in said


def test_an_interrupt_shows_no_key(shell, monkeypatch, capsys):
    """In the middle of a request, with a traceback that shows variables."""
    shell.run_line_magic("xmode", "Verbose")
    shell.run_cell("import vllm_magic; server = vllm_magic.start('tiny', '--api-key', 'k-' + 'zqx' * 3)")
    capsys.readouterr()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    wire = "vllm_magic.engine.client.exchange._Wire"
    for place in (f"{wire}.connect", f"{wire}.sendall", f"{wire}.receive_into", "openai.OpenAI.__init__"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            shell.run_cell(
                "server.client() if PLACE else server.complete('hi')".replace("PLACE", str("openai" in place))
            )
        said = "".join(capsys.readouterr())
        assert "KeyboardInterrupt" in said
        assert "zqx" not in said
    shell.run_cell("vllm_magic.stop()")
