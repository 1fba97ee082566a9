"""No key and no token in anything that is shown, wherever it came from."""

from __future__ import annotations

import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vllm_magic import cli
from vllm_magic.doctor import gpus, survey
from vllm_magic.engine import log
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption, NameInUse, StartFailed
from vllm_magic.jupyter import arguments, start_words, verbs, views
from vllm_magic.linux import processes
from vllm_magic.masking import SHORTEST, SHOWN, known, mask, mask_words

many = settings(max_examples=300, derandomize=True, deadline=None, database=None)

HF = "hf_" + "aBcDeFgH" * 4
SK = "sk-proj-0123456789_abcdef"


class TestMask:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (f"token {HF}.", "token ***."),
            (f"x_{HF}", "x_***"),
            (f"key={SK} b", "key=*** b"),
            ("Authorization: Bearer abcdefgh.ijk", "Authorization: Bearer ***"),
            ("s3://me:pw@host/model", "s3://***@host/model"),
            ("HF_TOKEN=abc x", "HF_TOKEN=*** x"),
            ("AWS_SECRET_ACCESS_KEY=a/b+c= x", "AWS_SECRET_ACCESS_KEY=*** x"),
            ("--api-key=abc --port 1", "--api-key=*** --port 1"),
            ("{'api_key': ['a', 'b'], 'port': 1}", "{'api_key': ***, 'port': 1}"),
            ('{"a": {"password": "a b, c", "d": 2}}', '{"a": {"password": ***, "d": 2}}'),
            (r'"{\"client_secret\": \"abc\"}"', r'"{\"client_secret\": ***}"'),
            ("ghp_0123456789abcdefghijklmn", "***"),
        ],
    )
    def test_what_looks_like_a_secret(self, text, shown):
        assert mask(text) == shown

    @pytest.mark.parametrize(
        "text",
        [
            "set HF_TOKEN in the environment",
            "--api-key takes one key here: --api-key KEY.",
            "hf_overrides={'pad_token': '<pad>', 'hf_token': ",
            "hf_quant_config task-force risk-averse sk-learn",
            "Avg generation throughput: 10 tokens/s, KV cache usage: 0.1%",
            "http://127.0.0.1:8001/v1 https://host/a:b@c",
            "tokenizer='x' ssl_keyfile=/a/b monkey=1",
            "",
        ],
    )
    def test_what_is_none_stays(self, text):
        assert mask(text) == text

    @many
    @given(st.text(), st.text(min_size=SHORTEST), st.text())
    @example("", "*****a", "***a")
    def test_what_is_known_is_never_shown(self, before, secret, after):
        assume("*" not in before + secret + after)
        assert secret not in mask(f"{before}{secret}{after}", [secret[:SHORTEST], secret])

    @many
    @given(
        st.lists(
            st.sampled_from(
                [
                    "api_key",
                    "password: ",
                    "=",
                    "[",
                    "'",
                    '"',
                    "\\",
                    "{",
                    HF,
                    SK,
                    "://a:b@",
                    "Bearer ",
                    "--x-token ",
                ]
            )
            | st.text(max_size=6)
        ).map("".join)
    )
    def test_masking_twice_does_no_harm(self, text):
        once = mask(text)
        assert mask(once) == once
        assert HF not in once

    def test_words(self):
        said = [
            "serve",
            "m",
            "--api-key",
            "a",
            "b",
            "--port",
            "1",
            "--hf_token",
            "c",
            "--x-secret=d",
            "sh -c 'x --api-key e'",
        ]
        shown = [
            "serve",
            "m",
            "--api-key",
            SHOWN,
            SHOWN,
            "--port",
            "1",
            "--hf_token",
            SHOWN,
            "--x-secret=***",
        ]
        assert mask_words(said) == [*shown, "sh -c 'x --api-key ***'"]
        assert mask_words(["--tokenizer", "t", "--max-num-seqs", "8"]) == [
            "--tokenizer",
            "t",
            "--max-num-seqs",
            "8",
        ]

    def test_variables(self):
        environ = {
            "HF_TOKEN": "tokentoken",
            "AWS_SECRET_ACCESS_KEY": "awsawsaws",
            "my_password": "swordfish",
            "SSH_KEY": "-----BEGIN\nbase64base64\n",
            "SHORT_KEY": "1",
            "TOKENIZERS_PARALLELISM": "falsefalse",
            "PATH": "/usr/bin",
        }
        assert known(environ) == ["tokentoken", "awsawsaws", "swordfish", "-----BEGIN", "base64base64"]

    @pytest.mark.parametrize("place", [0, 1960, 1990, 1999, 2000, 3000])
    def test_a_token_at_the_cut_of_a_line(self, place):
        assert "hf_a" not in log.clean("模".encode() * place + f" {HF}".encode())

    def test_most_lines_cost_little(self):
        line = (
            "(EngineCore pid=1) INFO 01-01 00:00:00 [core.py:1] Initializing a V1 LLM engine " + "x" * 100_000
        )
        began = time.process_time()
        for _ in range(100):
            mask(line)
        assert time.process_time() - began < 5


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
        manager.start(ServerSpec("tiny", name="tiny"))
    said = views.lines(one.name, one.log(500))
    assert SHOWN in check(
        said,
        views.server(one),
        views.status([one], now),
        gpus.view(*survey.holders(manager.probe)),
        gpus.view(now, gpus.uses(now, processes.table(), {}, ())),
        views.doctor(survey.survey(manager.probe, executable)),
        caught.value,
    )
    assert SHOWN in check((one.log_path.parent / "record.json").read_text())
    assert any(SHOWN in processes.title(process.identity.pid) for process in one.processes())
    check(
        one, one.spec, one._command, one.log(500), one.processes(), *map(processes.title, processes.table())
    )
    for command in (["logs", "tiny"], ["ps"], ["ps", "--json"], ["doctor"], ["doctor", "--json"], ["gpu"]):
        cli.main(command)
        check(capsys.readouterr().out)
    cli.main(["logs", "tiny", "-n", "500"])
    assert SHOWN in check(capsys.readouterr().out)
    release = one.stop()
    check(release, views.release(release), views.releases([release, release]))
    check(one, views.lines(one.name, one.log(500)), views.server(one))
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
    assert SHOWN in check(caught.value, one.error, views.server(one), views.status([one], None))
    check(one.release, one.log(500))


def test_what_the_guards_refuse(manager, talkative, tmp_path):
    with pytest.raises(StartFailed, match=r"could not be executed: No such file.*\*\*\*") as caught:
        manager.start(talkative("exit 0", cwd=str(tmp_path / HF)), timeout=60)
    check(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        lambda: verbs.verb([HF]),
        lambda: arguments.stop(["a", HF]),
        lambda: start_words.start(["m", "--name", f" {HF}"]),
        lambda: start_words.start(["m", "--port", HF]),
        lambda: start_words.start(["m", "--env", PLANTED["aws"]]),
        lambda: start_words.start(["m", "--api-key", PLANTED["flag"], PLANTED["env"]]),
    ],
)
def test_words_that_do_not_fit(said):
    with pytest.raises(InvalidOption) as caught:
        said()
    check(caught.value)


def test_the_title_of_somebody_elses_process():
    script = "print(flush=True); input()"
    words = [sys.executable, "-c", script, "serve", "--api-key", PLANTED["flag"], PLANTED["env"], f"--x={HF}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert PLANTED["flag"] in Path(f"/proc/{other.pid}/cmdline").read_text()
        assert check(processes.title(other.pid)).endswith("serve --api-key *** *** --x=***'")
        other.communicate(b"\n")
