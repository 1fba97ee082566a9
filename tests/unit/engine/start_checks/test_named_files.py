"""A file that a flag names, and that is not there, is told before the start."""

from __future__ import annotations

import pytest

from vllm_magic.engine.start_checks import named_files
from vllm_magic.errors import InvalidOption


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with files in it, and a vLLM with templates of its own."""
    for name in (
        "work/template.jinja",
        "work/key.pem",
        "work/cert.pem",
        "work/adapters/sql/adapter_config.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    built_in = tmp_path / "environment/lib/python3.12/site-packages/vllm/transformers_utils/chat_templates"
    built_in.mkdir(parents=True)
    (built_in / "template_chatml.jinja").write_text("x")
    vllm = tmp_path / "environment/bin/vllm"
    vllm.parent.mkdir()
    vllm.touch(0o755)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "work"))
    return tmp_path / "work"


@pytest.fixture
def check(planned, folder):
    def check(*args: str, **fields) -> None:
        named_files.check(planned(*args, executable=str(folder.parent / "environment/bin/vllm"), **fields))

    return check


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--chat-template", "template.jinja"),
        ("--chat-template=./template.jinja",),
        ("--chat-template", "{{ messages }}"),
        ("--chat-template", "a\nb"),
        ("--chat-template", "template_chatml.jinja"),  # one of vLLM's own
        ("--chat-template", ""),
        ("--chat-template",),
        ("--chat-template", "nothing.jinja", "--omni"),
        ("--ssl-keyfile", "key.pem", "--ssl-certfile", "cert.pem", "--ssl-ca-certs", "cert.pem"),
        ("--ssl-ca-certs", "nothing.pem"),  # read only with one of the others
        ("--lora-modules", "sql=adapters/sql", "other=~/adapters/sql"),
        ("--lora-modules", "sql=organisation/adapter", "b=adapter", "c=a.b/c-d_e"),  # on the Hub
        ("--lora-modules", "sql=s3://bucket/adapter", "a="),
        ("--lora-modules", '{"name": "sql", "path": "organisation/adapter", "base_model_name": "x"}'),
        ("--lora-modules", "sql=/nothing", "--lora-modules", "sql=adapters/sql"),  # the last flag counts
        ("--lora-modules", ""),
    ],
    ids=str,
)
def test_what_vllm_may_find_is_left_to_it(check, args):
    check(*args)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--chat-template", "templat.jinja"), "--chat-template templat.jinja is not there. Did you mean template.jinja?"),
        (("--chat-template", "./templat.jinja"), "Did you mean template.jinja?"),
        (("--chat-template", "~/template.jinja"), "--chat-template ~/template.jinja is not there. Write HERE/template.jinja."),
        (("--chat-template", "/nowhere/a/b.jinja"), "--chat-template /nowhere/a/b.jinja is not there. There is no folder /nowhere."),
        (("--chat-template", "template_chatm.jinja"), "Did you mean template_chatml.jinja?"),
        (("--chat-template", "zzz"), "--chat-template zzz is not there. Give the path of a file, or the template itself."),
        (("--ssl-keyfile", "key.pm", "--ssl-certfile", "cert.pem"), "--ssl-keyfile key.pm is not there. Did you mean key.pem?"),
        (("--ssl-certfile", "cert.pem", "--ssl-ca-certs", "zzz"), "--ssl-ca-certs zzz is not there. Correct the path."),
        (("--lora-modules", "sql=./adapters/sq"), "The LoRA adapter sql is not there: ./adapters/sq. Did you mean adapters/sql?"),
        (("--lora-modules", "sql=/nowhere/sql"), "There is no folder /nowhere."),
        (("--lora-modules", "sql=adapters/sql", "b=a/b/c"), "The LoRA adapter b is not there: a/b/c."),
        (("--lora-modules", '{"name": "sql", "path": "/nowhere/sql"}'), "The LoRA adapter sql is not there: /nowhere/sql."),
        (("--lora-modules", "a=x/y,b=x/z"), "Write a blank between two adapters: --lora-modules a=x/y b=x/z."),
        (("--lora-modules", "adapters/sql"), "--lora-modules adapters/sql is no adapter. Write --lora-modules NAME=adapters/sql."),
        (("--lora-modules", '{"name": "sql"}'), "has no name or no path. Write --lora-modules NAME=PATH, or"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_there_is_refused(check, folder, args, said):
    with pytest.raises(InvalidOption) as refused:
        check(*args)
    assert said.replace("HERE", str(folder)) in str(refused.value)


def test_a_relative_template_is_left_to_a_vllm_whose_own_are_not_known(planned, folder):
    named_files.check(planned("--chat-template", "nothing.jinja"))


def test_another_hub_has_other_names(check):
    check("--lora-modules", "sql=a/b/c", environ={"VLLM_USE_MODELSCOPE": "1"})


def test_a_path_is_relative_to_the_working_directory_of_the_server(check, folder, monkeypatch):
    monkeypatch.chdir("/")
    check("--chat-template", "template.jinja", cwd=str(folder))


@pytest.fixture
def configs(folder):
    for name in ("a.yaml", "a.yml", "yaml", "a.txt", "a", "A.YAML"):
        (folder / name).write_text("seed: 1")


@pytest.mark.parametrize("name", ["a.yaml", "./a.yml", "yaml"])
def test_a_config_that_vllm_reads(check, configs, name):
    check("--config", name)


@pytest.mark.parametrize(("name", "other"), [("a.txt", "a.yaml"), ("a", "a.yaml"), ("./A.YAML", "A.yaml")])
def test_a_config_that_vllm_does_not_read(check, configs, name, other):
    """vLLM looks at the end of the name."""
    with pytest.raises(InvalidOption) as refused:
        check("--config", name)
    assert str(refused.value) == (
        f"--config {name}: vLLM reads a file whose name ends with .yaml or .yml. Rename it to {other}."
    )


def test_two_configs(check, configs):
    with pytest.raises(InvalidOption, match=r"^vLLM takes one --config, and there are several"):
        check("--config", "a.yaml", "--config=a.yml")


def test_a_tokenizer_that_is_not_there(check, folder):
    (folder / "models/Qwen3-0.6B").mkdir(parents=True)
    path = f"{folder}/models/Qwen3-0.6b"
    with pytest.raises(InvalidOption) as refused:
        check("--tokenizer", path)
    assert str(refused.value) == f"--tokenizer {path} is not there. Did you mean {folder}/models/Qwen3-0.6B?"
    for args in (
        ("--tokenizer", f"{folder}/models/Qwen3-0.6B"),
        ("--tokenizer", "some/tokenizer"),
        ("--tokenizer", path, "--skip-tokenizer-init"),
        ("--tokenizer", path, "--tokenizer-mode", "of_a_plugin"),
    ):
        check(*args)


def test_all_files_are_told(check):
    with pytest.raises(InvalidOption) as refused:
        check(
            "--chat-template", "x.jinja", "--ssl-keyfile", "x.key", "--ssl-certfile", "x.crt",
            "--lora-modules", "a=/nowhere", "b=organisation/b", "c", "--tokenizer", "/nowhere",
        )  # fmt: skip
    assert [line.partition(" is ")[0] for line in refused.value.lines] == [
        "--chat-template x.jinja",
        "--ssl-keyfile x.key",
        "--ssl-certfile x.crt",
        "The LoRA adapter a",
        "--lora-modules c",
        "--tokenizer /nowhere",
    ]
