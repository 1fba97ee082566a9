"""No key and no token in anything that is shown, wherever it came from."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from vllm_magic import masking
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup import log
from vllm_magic.errors import InvalidOption, StartFailed
from vllm_magic.jupyter.commands import expansion, registry, start_arguments
from vllm_magic.jupyter.commands.help import HelpArguments
from vllm_magic.jupyter.display import views
from vllm_magic.masking import SHORTEST, SHOWN, mask, mask_words, secret_values

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
            ('{"auth": {"token": "abc", "d": 2}}', '{"auth": {"token": ***, "d": 2}}'),
            (r'"{\"token\": \"abc\"}"', r'"{\"token\": ***}"'),
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
            '{"token": 12, "tokenizer": "abcdefgh", "max_tokens": 4096}',
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
        assert secret_values(environ) == [
            "tokentoken",
            "awsawsaws",
            "swordfish",
            "-----BEGIN",
            "base64base64",
        ]

    @pytest.mark.parametrize("place", [0, 1960, 1990, 1999, 2000, 3000])
    def test_a_token_at_the_cut_of_a_line(self, place):
        assert "hf_a" not in log.clean("模".encode() * place + f" {HF}".encode())

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("api_key=['abc, 'def", "api_key=***"),
            ("password: 'abc def", "password: ***"),
            ('{"client_secret": "abc def', '{"client_secret": ***'),
        ],
    )
    def test_a_value_that_was_cut(self, text, shown):
        assert mask(text) == shown

    @pytest.mark.parametrize("end", ["", "]", "'", '"', "@", " x", "\n"])
    @pytest.mark.parametrize(
        "part",
        ["api_key=[,", "api_key=[", "api_key='", 'api_key="', 'api_key=\\"', "api_key:\\", "api_key ", "api_key=[ {",
         "--", "-", "--x", "--x-", "--x-token ", "--api-key=", "--hf-token '", "://", "://a", "://a:", "Bearer ", "_KEY=[",
         "sk-", "hf_", "_", "key-", "password:", "passwordpassword", "secret"],
    )  # fmt: skip
    def test_no_text_takes_long(self, part, end):
        """The time grows with the length, not with its square: what is masked may be another user's, of any length."""

        def seconds(length: int) -> float:
            text = (part * length)[:length] + end
            began = time.process_time()
            mask(text)
            mask_words([text, text])
            return time.process_time() - began

        if seconds(32_000) < 0.5:
            return  # whatever the shorter text takes
        took = min(seconds(32_000) for _ in range(2))
        assert took < 0.5 + 8 * 4 * min(seconds(8_000) for _ in range(2))
        assert took < 5

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
        lambda: registry.select([HF]),
        lambda: registry.commands()["stop"].parse(["a", HF]),
        lambda: registry.commands()["help"].run(None, HelpArguments(HF)),
        lambda: start_arguments.parse(["m", "--name", f" {HF}"]),
        lambda: start_arguments.parse(["m", "--port", HF]),
        lambda: start_arguments.parse(["m", "--env", PLANTED["aws"]]),
        lambda: start_arguments.parse(["m", "--api-key", PLANTED["flag"], PLANTED["env"]]),
    ],
)
def test_words_that_do_not_fit(said):
    with pytest.raises(InvalidOption) as caught:
        said()
    check(caught.value)


class TestKeysOfServers:
    KEY = "correct-horse-battery"

    @pytest.mark.parametrize(
        "key", ["ab\ncd", "ab\rcd", "ab cd", " abcd", "ab\tcd", "äbcd", "ab\udc80cd", "ab\x7fcd", "ab\x1bcd"]
    )
    @pytest.mark.parametrize("how", ["flag", "flag=", "env"])
    def test_one_that_no_header_takes_is_refused(self, key, how):
        """httpx and its kind quote it in what they raise."""
        args = {"flag": ("--api-key", key), "flag=": (f"--api-key={key}",), "env": ()}[how]
        with pytest.raises(InvalidOption) as caught:
            ServerSpec("m", args, env=(("VLLM_API_KEY", key),) if how == "env" else ())
        said = str(caught.value)
        assert "visible ASCII" in said
        assert not any(part in said for part in (key, repr(key)[1:-1], "abcd"))

    @pytest.mark.parametrize("key", ["a$b", "a{b}c", "'\"`\\\\", "sk-1_2.3~4+5/6=", "!~"])
    def test_what_a_header_takes_is_taken(self, key):
        assert ServerSpec("m", ("--api-key", key)).env == (("VLLM_API_KEY", key),)

    def test_it_is_in_no_error_whatever_quotes_it(self):
        ServerSpec("m", ("--api-key", self.KEY))
        made = Endpoint("127.0.0.1", 1, "random-bytes-1234")
        for error in (
            StartFailed(f"no {self.KEY}", f"or {made.api_key}", [f"with {self.KEY}"]),
            InvalidOption(f"{self.KEY}-{made.api_key}"),
        ):
            shown = "\n".join((str(error), repr(error), *error._render_traceback_(), *error.details))
            assert self.KEY not in shown
            assert "random-bytes-1234" not in shown

    def test_it_is_no_variable_that_a_traceback_shows(self):
        made = Endpoint("127.0.0.1", 1, self.KEY)
        assert made.api_key == self.KEY
        assert f"Bearer {made.api_key}" == f"Bearer {self.KEY}"
        assert repr(made.api_key) == "'***'"
        assert json.dumps(dataclasses.asdict(made)["api_key"]) == f'"{self.KEY}"'

    def test_only_so_many_are_known(self):
        for number in range(200):
            masking.remember(f"some-key-{number}")
        assert mask("some-key-199 and some-key-150") == "*** and ***"
        assert mask("some-key-1 ") == "some-key-1 "
        masking.remember("short")
        assert mask("short") == "short"


@pytest.mark.parametrize("cause", ["ab$zqx", "ab{zqx}", "ab{zqx + 1}", "ab{len(zqx)}", "{zqx!}"])
@pytest.mark.parametrize(
    "before", [["--api-key"], ["--api-k"], ["--seed", "1", "--hf-token"], ["--env"]], ids=" ".join
)
def test_what_is_expanded_is_not_quoted_where_it_is_secret(before, cause):
    word = f"NAME={cause}" if before == ["--env"] else cause
    for line in (
        [*before, word],
        [f"{before[-1]}={word}"] if "key" in before[-1] or "tok" in before[-1] else [*before, word],
    ):
        with pytest.raises(InvalidOption) as caught:
            expansion.expand(line, {})
        assert "zqx" not in str(caught.value)
        assert f"The value of {before[-1]}" in str(caught.value)
        assert "$$" in str(caught.value)


def test_what_is_not_secret_is_quoted():
    with pytest.raises(InvalidOption, match="zqx"):
        expansion.expand(["--seed", "$zqx"], {})
