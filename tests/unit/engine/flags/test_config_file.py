"""The file of `--config`: what is in it, and what would hold the kernel up or eat its memory."""

from __future__ import annotations

import os
import time

import pytest

from vllm_magic.engine.flags import config_file
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption

CALM = 5.0  # seconds of the processor; each takes less than a tenth of that
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}{', *a'.join(['', *[str(n - 1)] * 8])}]\n" for n in range(1, 12)
)
MERGE_BOMB = "m0: &m0 {a: 1, b: 2}\n" + "".join(
    f"m{n}: &m{n}\n  <<: [*m{n - 1}, *m{n - 1}, *m{n - 1}, *m{n - 1}]\n" for n in range(1, 20)
)


def words(tmp_path, text: str | bytes) -> tuple[str, ...]:
    path = tmp_path / "v.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return named(path)


def named(path) -> tuple[str, ...]:
    began = time.thread_time()
    try:
        return config_file.read_flags(("--config", str(path)), "/", lambda: None)
    finally:
        assert time.thread_time() - began < CALM


def test_what_is_in_it(tmp_path):
    text = "# as vLLM takes it\nmax_model_len: 4096\nlora-modules: [a, b]\nenforce-eager: true\nfoo: false\nempty: []\nxyz: {x: 1}\n"
    assert words(tmp_path, text) == (
        "--max-model-len", "4096", "--lora-modules", "a", "b", "--enforce-eager", "--no-foo", "--xyz", '{"x": 1}',
    )  # fmt: skip


def test_what_is_said_once_and_used_twice(tmp_path):
    text = "x1: &name {x: 1}\nx2: *name\nx3:\n  <<: *name\n  y: 2\n"
    assert words(tmp_path, text) == ("--x1", '{"x": 1}', "--x2", '{"x": 1}', "--x3", '{"x": 1, "y": 2}')
    template = "x" * 4000
    assert words(tmp_path, f"x1: &name {template}\nx2: [*name, *name, *name]\n")[-1] == template


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BOMB, id="aliases"),
        pytest.param(MERGE_BOMB, id="merges"),
        pytest.param("a: &a {b: *a}", id="a mapping in itself"),
        pytest.param("&a [*a]", id="a list in itself"),
        pytest.param("a: &a\n  <<: *a\n", id="merged with itself"),
        pytest.param("a: " + "[" * 20_000, id="deep, never closed"),
        pytest.param("a: " + "[" * 100 + "]" * 100, id="deep"),
        pytest.param(
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60)), id="deep aliases"
        ),
        pytest.param("a: " + "{b: " * 100 + "c" + "}" * 100, id="deep mappings"),
        pytest.param("- " * 20_000, id="deep blocks"),
        pytest.param('a: !!int ""', id="no number"),
        pytest.param("a: !!bool maybe", id="neither true nor false"),
        pytest.param("a: !!timestamp soon", id="no time"),
        pytest.param("a: !!python/object:os.system x", id="an object"),
        pytest.param("a: 2001-99-99", id="no day"),
        pytest.param("a: " + "9" * 20_000, id="a long number"),
        pytest.param("a: " + ":".join(["1"] * 20_000), id="a long number by sixties"),
        pytest.param("? [a]\n: b", id="a list as a name"),
        pytest.param("on: 1", id="a name that YAML reads as true"),
        pytest.param("a: {b: 2024-01-01}", id="a date in JSON"),
        pytest.param("a: \0", id="a character that YAML has not"),
        pytest.param(b"a: \xff\xfe", id="no text"),
        pytest.param("a: 1\n---\nb: 2\n", id="two documents"),
        pytest.param("just text", id="no options"),
        pytest.param("", id="nothing"),
        pytest.param("a: b\n" * 2**20, id="a large one"),
    ],
)
def test_refused(tmp_path, text):
    with pytest.raises(InvalidOption, match=r"^--config .*\.$") as raised:
        words(tmp_path, text)
    assert len(str(raised.value)) < 500


def test_as_large_as_it_may_be(tmp_path):
    line = "some-option: [a, 'b', {c: 1}]\n"
    count = config_file.LONGEST // (2 * len(line))
    text = "".join(line.replace("option", f"option-{n}") for n in range(count))
    try:
        assert words(tmp_path, text)
    except InvalidOption as error:
        assert "values" in str(error)  # noqa: PT017 - either is right, and both are fast


def test_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "v.yaml")
    with pytest.raises(InvalidOption, match=r"cannot be read: it is no regular file\. Check the path"):
        named(tmp_path / "v.yaml")


def test_a_device():
    with pytest.raises(InvalidOption, match=r"--config /dev/zero cannot be read: it is no regular file"):
        named("/dev/zero")


def test_a_folder(tmp_path):
    with pytest.raises(InvalidOption, match="cannot be read: Is a directory"):
        named(tmp_path)


def test_a_file_with_a_hole(tmp_path):
    with (tmp_path / "v.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InvalidOption, match="is larger than"):
        named(tmp_path / "v.yaml")


@pytest.mark.parametrize("name", ["", "no/such/file", "a\0b", "x" * 5000])
def test_no_file(name):
    with pytest.raises(InvalidOption):
        named(name)


def test_a_file_that_is_not_there(tmp_path):
    (tmp_path / "serve.yaml").write_text("seed: 1")
    with pytest.raises(
        InvalidOption, match=r"^--config serv\.yaml is not there\. Did you mean serve\.yaml\?$"
    ):
        config_file.read_flags(("--config", "serv.yaml"), str(tmp_path), lambda: None)
    with pytest.raises(InvalidOption, match=r"^--config ~/none\.yaml is not there\. Correct the path\.$"):
        config_file.read_flags(("--config", "~/none.yaml"), str(tmp_path), lambda: None)


def test_one_word(tmp_path):
    """vLLM accepts --config=FILE, and does not read the file."""
    (tmp_path / "v.yaml").write_text("model: org/m\nseed: 1")
    assert config_file.read_model(("--config=v.yaml",), str(tmp_path)) == "org/m"
    spec = ServerSpec("m", ("--config=v.yaml", "--seed=2"), cwd=str(tmp_path))
    assert spec.args == ("--config", "v.yaml", "--seed=2")
    assert spec.in_file == ("--model", "org/m", "--seed", "1")
