"""No key and no token in anything that is shown, wherever it came from."""

from __future__ import annotations

import secrets
import time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vllm_magic.engine import log
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.jupyter import arguments, start_words, verbs, views
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
