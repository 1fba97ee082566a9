"""JSON on a command line: what vLLM reads as JSON, and what was meant by a text that is none."""

from __future__ import annotations

import shlex

import pytest

from vllm_magic.engine.flags import json_notation


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', "[]", "1", "null", "NaN", ' {"a": [1, {"b": "c"}]} ', '{"a": "80m"}',
     '{"a": "line\n"}', "9" * 10_000, "[" * 100_000],
)  # fmt: skip
def test_json_for_vllm(text):
    assert json_notation.is_json(text)


@pytest.mark.parametrize(
    "text", ["", "a", "{'a': 1}", "{a: 1}", '{"a": 1', '{"a": 1},', "image=2", '{"a": 80x}', "True"]
)
def test_no_json(text):
    assert not json_notation.is_json(text, with_amounts=True)
    assert not json_notation.is_json(text)


def test_amounts_are_json_in_some_flags():
    for text in ('{"bytes": 80m, "b": 2.5K}', "8k"):
        assert json_notation.is_json(text, with_amounts=True)
        assert not json_notation.is_json(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("image=2", '{"image": 2}'),
        ("image=2,video=1", '{"image": 2, "video": 1}'),
        ("image=2, video=1", '{"image": 2, "video": 1}'),
        ("image:2", '{"image": 2}'),
        ("method=ngram,on=True", '{"method": "ngram", "on": true}'),
        ("{image: 2}", '{"image": 2}'),
        ("{image:2,video:1}", '{"image": 2, "video": 1}'),
        ("{'image': 2}", '{"image": 2}'),
        ("{'a': True, 'b': None}", '{"a": true, "b": null}'),
        ("{a: null}", '{"a": null}'),
        ("{method:ngram,model:org/name,url:http://x:1}", '{"method": "ngram", "model": "org/name", "url": "http://x:1"}'),
        ("[a, b]", '["a", "b"]'),
        ("{rope_scaling:{factor:4.0}}", '{"rope_scaling": {"factor": 4.0}}'),
        ("{it's: 1}", '{"it\'s": 1}'),
    ],
)  # fmt: skip
def test_what_was_meant(text, meant):
    shown = json_notation.suggestion(text)
    assert shown
    assert shlex.split(shown) == [meant]
    assert json_notation.is_json(meant)


@pytest.mark.parametrize(
    "text", ["", "ngram", "{a", "{a}", "{", "a=", "=1", "[" * 500, "{" * 5000, "a=1,b", '{"a": !!python/x 1}']
)
def test_what_is_not_known(text):
    assert json_notation.suggestion(text) is None
