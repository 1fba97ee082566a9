"""Defaults of each start: %config VllmMagics, profiles, and vLLM's own file of options."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import pytest

from vllm_magic.engine import command
from vllm_magic.engine.flags import config_file
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands import start_arguments
from vllm_magic.jupyter.commands.lifecycle import StopCommand
from vllm_magic.jupyter.commands.settings import Settings, profiles_path
from vllm_magic.provisioning import serialization


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """The folder of the profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    profiles_path().parent.mkdir(parents=True)


def profiles(text: str) -> None:
    profiles_path().write_text(text)


def spec(line: str, **defaults: str) -> ServerSpec:
    return start_arguments.parse(shlex.split(line), Settings(**defaults)).spec


def refusal(line: str, **defaults: str) -> str:
    with pytest.raises(InvalidOption) as caught:
        spec(line, **defaults)
    return str(caught.value)


class TestSettings:
    def test_they_come_before_the_line(self):
        made = spec(
            "m -tp 2", flags="--ttl 30m --enforce-eager --env A=1", gpus="0,1", host="::1", executable="/v"
        )
        assert made.args == ("--host", "::1", "--enforce-eager", "-tp", "2")
        assert (made.gpus, made.ttl, made.executable, made.env) == ("0,1", 1800.0, "/v", (("A", "1"),))

    def test_the_line_wins(self):
        made = spec("m --ttl 1h --gpus auto --env A=2", flags="--ttl 30m --env A=1 --env B=1", gpus="0")
        assert (made.ttl, made.gpus, made.env) == (3600.0, "auto", (("A", "2"), ("B", "1")))

    def test_what_does_not_fit(self):
        assert "'extra' among the default flags" in refusal("m", flags="extra --x")
        assert refusal("m", flags="'").startswith("No closing quotation")
        assert "--ttl" in refusal("m", flags="--ttl x")

    def test_the_grace_of_a_stop(self):
        stopped = []
        manager = SimpleNamespace(
            servers=dict,
            get=lambda _: SimpleNamespace(name="tiny"),
            stop=lambda _, **times: stopped.append(times["grace"]),
            stop_all=lambda **times: stopped.append(times["grace"]) or [],
        )
        for configured in (3.0, None):
            context = SimpleNamespace(manager=manager, grace=configured)
            for words in ([], ["--all"], ["--grace", "1"], ["--grace", "0"]):
                StopCommand().run(context, StopCommand().parse(words))
        assert stopped == [3.0, 3.0, 1.0, 0.0, None, None, 1.0, 0.0]


class TestProfiles:
    def test_the_words_of_a_profile(self):
        profiles(
            '[big]\nmodel = "org/m"\nflags = "--max-model-len 32768 --hf-overrides \'{\\"a\\": 1}\'"\ngpus = "0,1"\n'
            'ttl = "30m"\nport = 8001\nforce = true\nenv = { A = "1" }\n'
        )
        made = spec("--profile big")
        assert (made.model, made.name, made.gpus, made.ttl, made.port, made.force, made.env) == (
            "org/m", "m", "0,1", 1800.0, 8001, True, (("A", "1"),)
        )  # fmt: skip
        assert made.args == ("--max-model-len", "32768", "--hf-overrides", '{"a": 1}')

    def test_line_over_profile_over_settings(self):
        profiles('[p]\nflags = ["-tp", "2"]\nttl = "2m"\nname = "p"')
        made = spec("--profile p other -tp 4 --name x", flags="-tp 1 --ttl 1m")
        assert (made.model, made.name, made.ttl) == ("other", "x", 120.0)
        assert made.args == ("-tp", "1", "-tp", "2", "-tp", "4")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[other]\n[third]", "It has the profiles other, third."),
            ("", "It has no profile."),
            ("[p", "is not valid TOML"),
            ("[p]\nmodel = 3", "model in profile p"),
            ("[p]\nmodel = 'm'\ngpu = '0'", "Did you mean gpus?"),
            ("[p]\nmodel = 'm'\nmax_model_len = 3", "Options of vLLM go into flags."),
            ("[p]\nmodel = 'm'\nflags = 3", "flags in profile p"),
            ("[p]\nmodel = 'm'\nenv = 'A=1'", "env in profile p"),
            ("[p]\nmodel = 'm'\nttl = 'x'", "'x' is not a time"),
            ("[p]\nmodel = 'm'\nflags = 'word'", "'word' among the default flags"),
            ("p = 3", "It has no profile."),
            ("[p]\nttl = '1m'", "Which model?"),
        ],
    )
    def test_what_does_not_fit(self, text, said):
        profiles(text)
        assert said in refusal("--profile p")

    def test_there_is_no_file(self):
        assert refusal("m --profile p").startswith(
            f"There are no profiles: {profiles_path()} does not exist."
        )

    def test_a_file_that_cannot_be_read(self):
        profiles_path().mkdir()
        assert "cannot be read: Is a directory" in refusal("m --profile p")


class TestConfigFile:
    @pytest.fixture
    def file(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def write(text: str) -> None:
            (tmp_path / "v.yaml").write_text(text)

        return write

    def test_as_vllm_reads_it(self, file, tmp_path):
        file(
            "port: 8123\nmax_model_len: 64\nenforce-eager: true\nenable-lora: false\nmodules: [a, b]\nnone: []\ncc: {a: {b: 1}}"
        )
        assert config_file.read_flags(("--config", "v.yaml"), str(tmp_path), lambda: None) == (
            "--port", "8123", "--max-model-len", "64", "--enforce-eager", "--no-enable-lora", "--modules", "a", "b",
            "--cc", json.dumps({"a": {"b": 1}}),
        )  # fmt: skip

    def test_host_and_port_are_respected(self, file, executable):
        file("port: 28123\nhost: 127.0.0.2")
        made = command.build(ServerSpec("m", ("--config", "v.yaml"), executable=executable))
        assert made.endpoint.url == "http://127.0.0.2:28123"
        assert made.argv[-4:] == ("--host", "127.0.0.2", "--port", "28123")
        assert "--config" in made.argv
        file("port: 28123\nhost: 0.0.0.0")
        flags = ("--config", "v.yaml", "--host", "127.0.0.1", "--port", "28124")
        assert (
            command.build(ServerSpec("m", flags, executable=executable)).endpoint.url
            == "http://127.0.0.1:28124"
        )
        assert command.build(ServerSpec("m", ("--config", "v.yaml"), executable=executable)).endpoint.exposed

    def test_what_else_is_read_of_it(self, file, executable):
        file("tensor-parallel-size: 2\ngpu-memory-utilization: 0.5\nshutdown-timeout: 7\nssl-certfile: x")
        args = ServerSpec("m", ("--config", "v.yaml", "-tp", "4")).all_args
        assert (command.gpu_count(args), command.memory_fraction(args), command.shutdown_timeout(args)) == (
            4,
            0.5,
            7.0,
        )
        assert command.build(ServerSpec("m", ("--config", "v.yaml"), executable=executable)).endpoint.secure

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("api-key: secret-key-123", "api-key in v.yaml"),
            ("api_key: [secret-key-123]", "api-key in v.yaml"),
            ("hf_token: secret-key-123", "hf-token in v.yaml"),
            ("a: [", "is no YAML"),
            ("- a", "holds no options"),
            ("", "holds no options"),
            ("a: !!python/object/apply:os.system [ls]", "is no YAML"),
            ("uds: /x", "a Unix socket"),
            ("headless: true", "no HTTP server"),
            ("port: 99999", "is not a port"),
        ],
    )
    def test_what_is_refused(self, file, executable, text, said):
        file(text)
        with pytest.raises(InvalidOption) as caught:
            command.build(ServerSpec("m", ("--config", "v.yaml"), executable=executable))
        assert said in str(caught.value)
        assert "secret-key-123" not in str(caught.value)

    def test_a_file_that_is_not_there(self):
        with pytest.raises(InvalidOption, match=r"^--config v\.yaml is not there\. Correct the path\.$"):
            ServerSpec("m", ("--config", "v.yaml"))

    def test_another_content_is_another_server(self, file):
        file("max-model-len: 64")
        one = ServerSpec("m", ("--config", "v.yaml"))
        assert one == ServerSpec("m", ("--config", "v.yaml"))
        file("max-model-len: 128")
        assert one != ServerSpec("m", ("--config", "v.yaml"))

    def test_who_takes_the_server_over_needs_no_file(self, file, executable, tmp_path):
        file("max-model-len: 64")
        made = ServerSpec("m", ("--config", "v.yaml"), executable=executable)
        packed = json.loads(json.dumps(serialization.pack_owner(made, command.build(made))))
        (tmp_path / "v.yaml").unlink()
        again, _ = serialization.unpack_owner(packed)
        assert again == made
        assert again.all_args == ("--max-model-len", "64", "--config", "v.yaml")
