"""The command line and environment of a server: vLLM's own flags untouched, and no secret where others look."""

from __future__ import annotations

import dataclasses
import getpass
import os
import socket
import stat
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from vllm_magic.engine import address as address_module
from vllm_magic.engine import command, environments, executable, free_port
from vllm_magic.engine.endpoint import Endpoint
from vllm_magic.engine.spec import ServerSpec, default_name
from vllm_magic.errors import ExecutableNotFound, InvalidOption, StartFailed

KEY = "sk-do-not-show"


@pytest.fixture
def vllm(tmp_path) -> Path:
    """A program to be found; it is never run."""
    return program(tmp_path / "bin" / "vllm")


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def build(vllm):
    """Builds the command of a spec: ``build("--flag", env=...)``."""

    def make(*args: str, **fields) -> command.Command:
        return command.build(ServerSpec("m/Tiny", args, executable=str(vllm), **fields))

    return make


@pytest.fixture
def taken():
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


class TestArgv:
    @pytest.mark.parametrize(
        "args",
        [
            ("-O.level=3",),
            ("--hf-overrides", '{"a": {"b": 1}}'),
            ("--flag=value",),
            ("-tp", "2"),
            ("--served-model-name", "a", "b"),
            ("--max_model_len", "4k"),
            ("--chat-template", "{{ messages }} $x"),
        ],
    )
    def test_flags_of_vllm_go_to_it_as_they_stand(self, build, vllm, args):
        made = build(*args)
        assert made.argv == (
            str(vllm), "serve", "m/Tiny", *args, "--host", "127.0.0.1", "--port", str(made.endpoint.port),
        )  # fmt: skip

    @pytest.mark.parametrize(
        "args",
        [("--api-key", KEY), (f"--api-key={KEY}",), ("--api_key", KEY), ("--api-key", "x", "--api-key", KEY)],
    )
    def test_a_key_among_the_flags_moves_to_the_environment(self, build, tmp_path, args):
        spec = ServerSpec("m/Tiny", (*args, "--seed", "1"), executable=build().argv[0])
        made = command.build(spec)
        assert made.endpoint.api_key == KEY
        assert KEY not in " ".join(made.argv)
        assert made.argv[3:5] == ("--seed", "1")
        assert (
            command.environment(os.environ, spec, made.argv[0], made.endpoint, "id", tmp_path, None)[
                "VLLM_API_KEY"
            ]
            == KEY
        )

    def test_several_keys_are_refused_and_none_reaches_argv(self, build):
        # vLLM takes "--api-key one two" (cli_args.py: list[str]); the second must not be left behind.
        with pytest.raises(InvalidOption, match="one key"):
            build("--api-key", KEY, "another", "--seed", "1")

    def test_a_key_of_the_spec_environment_is_used(self, build):
        assert build(env=(("VLLM_API_KEY", KEY),)).endpoint.api_key == KEY

    def test_without_one_each_server_gets_a_key_of_its_own(self, build):
        keys = {build().endpoint.api_key for _ in range(3)}
        assert len(keys) == 3
        assert min(map(len, keys)) >= 32

    def test_nothing_that_is_shown_holds_the_key(self, build):
        for made in (
            ServerSpec("m", ("--api-key", KEY)),
            ServerSpec("m", (f"--api_key={KEY}",)),
            ServerSpec("m", env=(("VLLM_API_KEY", KEY),)),
            build("--api-key", KEY),
            build(env=(("VLLM_API_KEY", KEY),)),
        ):
            assert KEY not in repr(made)

    def test_the_key_is_part_of_what_makes_two_specs_equal(self):
        assert ServerSpec("m", ("--api-key", KEY)) == ServerSpec("m", (f"--api-key={KEY}",))
        assert ServerSpec("m", ("--api-key", KEY)) != ServerSpec("m", ("--api-key", "other"))

    @pytest.mark.parametrize("flag", ["--uds", "--headless"])
    def test_what_leaves_no_http_port_is_refused(self, build, flag):
        with pytest.raises(InvalidOption, match=flag):
            build(flag, "x")


class TestAddress:
    def test_without_a_port_there_is_a_free_one(self, build):
        made = build()
        with socket.create_server((made.endpoint.host, made.endpoint.port)):
            assert made.endpoint.url == f"http://127.0.0.1:{made.endpoint.port}"

    def test_no_free_port_is_given_twice(self, build):
        """A server binds its own some seconds later, and may have been started beside many others."""
        count = free_port.REMEMBERED
        assert len({build().endpoint.port for _ in range(count)}) == count

    def test_the_port_of_the_spec(self, build):
        free = build().endpoint.port
        assert build(port=free).endpoint.port == free

    @pytest.mark.parametrize("form", [("--port", "{}"), ("--port={}",), ("--port", "1", "--port={}")])
    def test_a_port_among_the_flags_wins_and_is_there_once(self, build, form):
        free = build().endpoint.port
        made = build(*(word.format(free) for word in form), port=1)
        assert made.endpoint.port == free
        assert made.argv[3:] == ("--host", "127.0.0.1", "--port", str(free))

    @pytest.mark.parametrize("text", ["http", "80.5", "-1", "0", "65536", "99999999999"])
    def test_what_is_no_port_is_refused(self, build, text):
        with pytest.raises(InvalidOption, match=r"--port"):
            build("--port", text)
        if text.lstrip("-").isdecimal():
            with pytest.raises(InvalidOption, match=r"--port"):
                build(port=int(text))

    def test_a_taken_port_names_its_holder(self, build, taken):
        with pytest.raises(StartFailed) as caught:
            build(port=taken)
        assert caught.value.cause.startswith(f"Port {taken} is taken by ")
        assert caught.value.cause.endswith(f" (pid {os.getpid()}, {getpass.getuser()})")
        assert "--port" in caught.value.hint

    def test_a_host_that_is_not_ours(self, build):
        with pytest.raises(StartFailed, match=r"192\.0\.2\.1.*--host"):
            build("--host", "192.0.2.1")  # TEST-NET-1 (RFC 5737)

    @pytest.mark.parametrize("host", ["no such host", "x" * 70])
    def test_a_host_that_is_none(self, build, host):
        with pytest.raises(StartFailed, match=r"--host"):
            build("--host", host)

    def test_an_empty_host_of_a_config_file(self, build, tmp_path):
        config = tmp_path / "config.yaml"
        config.write_text("host:\n")
        with pytest.raises(InvalidOption, match="--host is empty"):
            build("--config", str(config))

    def test_without_ipv6_an_ipv6_host_is_one_line(self, build, monkeypatch):
        def without(family: int) -> socket.socket:
            raise OSError(97, "Address family not supported by protocol")

        monkeypatch.setattr(free_port.socket, "socket", without)
        with pytest.raises(StartFailed, match="Address family not supported"):
            build("--host", "::1")

    @pytest.mark.parametrize(
        ("host", "url", "exposed"),
        [
            ("127.0.0.1", "http://127.0.0.1:8000", False),
            ("127.0.0.2", "http://127.0.0.2:8000", False),
            ("::1", "http://[::1]:8000", False),
            ("0.0.0.0", "http://127.0.0.1:8000", True),
            ("::", "http://127.0.0.1:8000", True),
            ("10.0.0.5", "http://10.0.0.5:8000", True),
        ],
    )
    def test_where_it_is_reached_and_who_can(self, host, url, exposed):
        made = Endpoint(host, 8000, KEY)
        assert (made.url, made.exposed) == (url, exposed)

    def test_a_name_is_no_host_of_a_command(self):
        with pytest.raises(ValueError, match="localhost"):
            Endpoint("localhost", 8000, KEY)

    @pytest.mark.parametrize(
        ("host", "found", "address"),
        [
            ("localhost", ("::1", "127.0.0.1"), "127.0.0.1"),
            ("localhost", ("127.0.0.1", "::1"), "127.0.0.1"),
            ("localhost", ("::1",), "::1"),
            ("gpu-box", ("127.0.1.1", "127.0.0.1"), "127.0.1.1"),
            ("0", ("0.0.0.0",), "0.0.0.0"),
            ("0:0:0:0:0:0:0:1", None, "::1"),
            ("::ffff:127.0.0.1", None, "127.0.0.1"),
            ("127.0.0.3", None, "127.0.0.3"),
        ],
    )
    def test_a_name_becomes_one_address_for_both_sides(self, build, monkeypatch, host, found, address):
        def look_up(name, *_, **__):
            assert name == host
            return [(0, 0, 0, "", (one, 0)) for one in found]

        monkeypatch.setattr(address_module.socket, "getaddrinfo", look_up)
        monkeypatch.setattr(free_port, "choose", lambda _: 8000)
        made = build("--host", host)
        assert made.argv[3:] == ("--host", address, "--port", "8000")
        assert (made.endpoint.host, made.endpoint.url) == (address, Endpoint(address, 8000, KEY).url)

    def test_every_address(self, build):
        made = build("--host", "0.0.0.0")
        assert made.endpoint.exposed
        assert made.argv[3:5] == ("--host", "0.0.0.0")
        assert made.endpoint.url.startswith("http://127.0.0.1:")

    def test_a_certificate_means_https(self, build):
        assert build("--ssl-certfile", "a.pem", "--ssl-keyfile", "b.pem").endpoint.url.startswith("https://")
        assert build("--ssl_certfile=a.pem").endpoint.secure
        assert not build("--ssl-ca-certs", "a.pem").endpoint.secure


@pytest.mark.parametrize("args", [("--hf-token", "hf_secret"), ("--hf-token=hf_secret",)])
def test_a_token_among_the_flags_moves_to_the_environment(args):
    spec = ServerSpec("m/Tiny", ("--seed", "1", *args, "--enforce-eager"))
    assert spec.args == ("--seed", "1", "--enforce-eager")
    assert dict(spec.env) == {"HF_TOKEN": "hf_secret"}
    assert "hf_secret" not in repr(spec)


def test_the_token_that_is_logged_in_stays_a_flag():
    spec = ServerSpec("m/Tiny", ("--hf-token", "--enforce-eager"))
    assert spec.args == ("--hf-token", "--enforce-eager")


class TestEnvironment:
    def environment(self, tmp_path, visible=None, **fields) -> dict[str, str]:
        spec = ServerSpec("m/Tiny", **fields)
        return command.environment(
            os.environ, spec, "/v/bin/vllm", Endpoint("127.0.0.1", 8000, KEY), "3f9a", tmp_path, visible
        )

    def test_what_keeps_a_server_together(self, tmp_path):
        env = self.environment(tmp_path)
        assert env["TMPDIR"] == env["VLLM_RPC_BASE_PATH"] == str(tmp_path)
        assert env["MAGIC_VLLM_SERVER"] == "3f9a"
        assert env["VLLM_API_KEY"] == KEY
        assert env["SPT_NOENV"] == "1"
        assert env["HOME"] == os.environ["HOME"]

    def test_programs_beside_vllm_are_found_first(self, tmp_path, vllm, monkeypatch):
        """FlashInfer runs ninja, which pip has put beside vLLM."""
        assert self.environment(tmp_path)["PATH"] == f"/v/bin{os.pathsep}{os.environ['PATH']}"
        assert self.environment(tmp_path, env=(("PATH", "/x"),))["PATH"] == f"/v/bin{os.pathsep}/x"
        link = tmp_path / "vllm"
        link.symlink_to(vllm)
        made = command.common_environment({}, ServerSpec("m/Tiny"), str(link))
        assert made["PATH"] == f"{vllm.parent.resolve()}{os.pathsep}{os.defpath}"

    def test_what_kubernetes_sets_for_a_service_that_is_called_vllm(self, tmp_path, monkeypatch):
        """vLLM fails with VLLM_PORT=tcp://..., and warns of the other ones."""
        theirs = {
            "VLLM_PORT": "tcp://10.96.193.120:6785",
            "VLLM_PORT_6785_TCP": "tcp://10.96.193.120:6785",
            "VLLM_PORT_6785_TCP_ADDR": "10.96.193.120",
            "VLLM_SERVICE_HOST": "10.96.193.120",
            "VLLM_SERVICE_PORT": "6785",
            "VLLM_SERVICE_PORT_HTTP": "6785",
        }
        for name, value in theirs.items():
            monkeypatch.setenv(name, value)
        assert not theirs.keys() & self.environment(tmp_path).keys()
        monkeypatch.setenv("VLLM_PORT", "6785")
        assert self.environment(tmp_path)["VLLM_PORT"] == "6785"
        assert self.environment(tmp_path, env=(("VLLM_PORT", "tcp://x"),))["VLLM_PORT"] == "tcp://x"

    def test_the_spec_cannot_undo_that(self, tmp_path):
        ours = {"TMPDIR": "/x", "VLLM_RPC_BASE_PATH": "/x", "MAGIC_VLLM_SERVER": "x", "SPT_NOENV": ""}
        env = self.environment(tmp_path, env=tuple(ours.items()))
        assert not ours.items() & env.items()

    def test_the_spec_comes_before_the_kernel(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "kernel")
        assert self.environment(tmp_path)["HF_TOKEN"] == "kernel"
        assert self.environment(tmp_path, env=(("HF_TOKEN", "spec"),))["HF_TOKEN"] == "spec"

    def test_what_is_the_kernels_alone_stays_there(self, tmp_path, monkeypatch):
        for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME", "JPY_INTERRUPT_EVENT", "MPLBACKEND"):
            monkeypatch.setenv(name, "1")
        assert not {
            name for name in self.environment(tmp_path) if name.startswith("JPY_") or name == "MPLBACKEND"
        }
        assert self.environment(tmp_path, env=(("MPLBACKEND", "agg"),))["MPLBACKEND"] == "agg"

    def test_the_working_directory_shadows_no_module(self, tmp_path, vllm):
        """Unless the user says otherwise, or vLLM is run by a wrapper, which may need it."""

        def made(path, **env):
            return command.common_environment({}, ServerSpec("m/Tiny", env=tuple(env.items())), str(path))

        script = tmp_path / "vllm"
        script.write_text(f"#!{sys.executable}\nfrom vllm.entrypoints.cli.main import main\nmain()\n")
        wrapper = tmp_path / "wrapper"
        wrapper.write_text('#!/bin/sh\nexec python -m my_vllm "$@"\n')
        assert made(script)["PYTHONSAFEPATH"] == "1"
        assert made(script, PYTHONSAFEPATH="")["PYTHONSAFEPATH"] == ""
        assert "PYTHONSAFEPATH" not in made(wrapper)

    def test_no_variable_of_ours_is_in_the_namespace_of_vllm(self, tmp_path, monkeypatch):
        """vLLM warns of unknown variables that begin with VLLM_, and fails with --fail-on-environ-validation."""
        before = {name for name in os.environ if name.startswith("VLLM_")}
        for name in ("VLLM_MAGIC_HOME", "VLLM_MAGIC_EXECUTABLE", "VLLM_MAGIC_CLUSTER_LEASE"):
            monkeypatch.setenv(name, "1")
        known = {"VLLM_API_KEY", "VLLM_RPC_BASE_PATH"}  # vllm/envs.py
        there = {name for name in self.environment(tmp_path) if name.startswith("VLLM_")}
        assert there == known | {name for name in before if not name.startswith("VLLM_MAGIC_")}

    def test_gpus_are_named_in_the_order_of_the_bus(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
        left = self.environment(tmp_path)
        assert left["CUDA_VISIBLE_DEVICES"] == "3"
        assert "CUDA_DEVICE_ORDER" not in left
        chosen = self.environment(tmp_path, visible="GPU-a,GPU-b", env=(("CUDA_VISIBLE_DEVICES", "0"),))
        assert chosen["CUDA_VISIBLE_DEVICES"] == "GPU-a,GPU-b"
        assert chosen["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"

    def test_compiled_kernels_outlive_the_private_tmpdir(self, tmp_path):
        assert not self.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"].startswith(str(tmp_path))
        own = self.environment(tmp_path, env=(("TORCHINDUCTOR_CACHE_DIR", "/cache"),))
        assert own["TORCHINDUCTOR_CACHE_DIR"] == "/cache"

    def test_compiled_kernels_of_another_user_are_not_executed(self, tmp_path, cache, monkeypatch):
        """The name of torch's folder in /tmp is known: anybody can make it first."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setattr(getpass, "getuser", lambda: "me")
        theirs, ours = tmp_path / "torchinductor_me", str(cache / "torchinductor")
        theirs.symlink_to(tmp_path / "elsewhere")
        assert self.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == ours
        theirs.unlink()
        theirs.mkdir()
        theirs.chmod(0o777)
        assert self.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == ours
        theirs.chmod(0o755)
        assert self.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == str(theirs)
        theirs.rmdir()
        assert self.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == str(theirs)  # made here
        assert theirs.stat().st_mode & 0o777 == 0o700
        lstat = os.lstat
        stranger = SimpleNamespace(st_uid=os.getuid() + 1, st_mode=0o40700)
        monkeypatch.setattr(os, "lstat", lambda path: stranger if str(path) == str(theirs) else lstat(path))
        assert self.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == ours

    def test_no_temporary_folder_can_be_written_to(self, tmp_path, cache, monkeypatch):
        """As in a container with a read-only root, or on a full disk."""

        def none() -> str:
            raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")

        monkeypatch.setattr(tempfile, "gettempdir", none)
        assert self.environment(tmp_path)["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "torchinductor")
        cache.joinpath("torchinductor").rmdir()
        cache.rmdir()
        cache.write_text("")  # nor a cache folder
        assert "TORCHINDUCTOR_CACHE_DIR" not in self.environment(tmp_path)

    def test_a_user_without_a_name_can_start_one_too(self, tmp_path, monkeypatch):
        # As in a container that was started with a bare uid.
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 54321)
        assert command._user() == "54321"


class TestNumbers:
    @pytest.mark.parametrize(
        ("args", "count"),
        [
            ((), 1),
            (("-tp", "2"), 2),
            (("--tensor-parallel-size=2", "-pp", "3"), 6),
            (("-tp", "2", "--pipeline_parallel_size", "2", "-dp=2"), 8),
            (("-tp", "many"), 1),
        ],
    )
    def test_how_many_gpus(self, args, count):
        assert command.gpu_count(args) == count

    def test_share_of_memory_and_time_to_drain(self):
        assert command.memory_fraction(()) == 0.92
        assert command.memory_fraction(("--gpu-memory-utilization=0.5",)) == 0.5
        assert command.shutdown_timeout(()) == 0.0
        assert command.shutdown_timeout(("--shutdown-timeout", "30")) == 30.0
        assert command.shutdown_timeout(("--shutdown-timeout", "nan")) == 0.0

    @pytest.mark.parametrize(
        ("value", "seconds"), [("20", 20.0), (None, 0.0), ("", 0.0), ("x", 0.0), ("-1", 0.0)]
    )
    def test_time_to_clean_up(self, value, seconds):
        environ = {} if value is None else {"VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS": value}
        assert command.cleanup_timeout(environ) == seconds


class TestExecutable:
    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path, monkeypatch):
        """No vLLM on this machine, until a test puts one there."""
        monkeypatch.delenv("VLLM_MAGIC_EXECUTABLE", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path / "path"))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python" / "python3"))
        monkeypatch.chdir(tmp_path)

    def test_the_order_of_the_places(self, tmp_path, monkeypatch):
        with pytest.raises(ExecutableNotFound, match="--executable"):
            executable.find()
        last = program(tmp_path / "path" / "vllm")
        assert executable.find() == str(last)
        environment = environments.new_path("0.17.0-cpu-py312")
        for name in ("python", "vllm"):
            program(environment / "bin" / name)
        assert executable.find() == str(last)  # not proved
        environments.write_proof(environment, version="0.17.0", package="vllm", python="3.12", backend="cpu")
        assert executable.find() == str(environment / "bin" / "vllm")
        beside = program(tmp_path / "python" / "vllm")
        assert executable.find() == str(beside)
        named = program(tmp_path / "named" / "vllm")
        monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", str(named))
        assert executable.find() == str(named)
        wanted = program(tmp_path / "wanted" / "my-vllm")
        assert executable.find(str(wanted)) == str(wanted)

    def test_an_environment_that_does_not_work_is_named(self, environments_folder):
        environment = environments.new_path("0.17.0-cpu-py312")
        for name in ("python", "vllm"):
            program(environment / "bin" / name)
        environments.write_proof(environment, version="0.17.0", package="vllm", python="3.12", backend="cpu")
        (environment / "bin" / "python").unlink()
        with pytest.raises(
            ExecutableNotFound, match=r"0\.17\.0-cpu-py312 is not used: its Python is gone\. Install it"
        ):
            executable.find()

    def test_a_name_is_looked_up_and_a_path_is_not(self, tmp_path):
        program(tmp_path / "path" / "vllm-2")
        assert executable.find("vllm-2") == str(tmp_path / "path" / "vllm-2")
        program(tmp_path / "vllm-2")
        assert executable.find("./vllm-2") == str(tmp_path / "vllm-2")

    def test_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        program(tmp_path / "vllm")
        assert executable.find("~/vllm") == str(tmp_path / "vllm")

    def test_what_cannot_be_run(self, tmp_path):
        (tmp_path / "text").write_text("")
        for path in ("text", str(tmp_path / "text"), str(tmp_path), "/no/such"):
            with pytest.raises(ExecutableNotFound, match="not a program"):
                executable.find(path)


class TestSpec:
    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("Qwen/Qwen3-0.6B", "qwen3-0.6b"),
            ("/models/My Model/", "my-model"),
            ("./.hidden", "hidden"),
            ("org/模型", "model"),
            ("x" * 100, "x" * 64),
            ("a/" + "b" * 63 + "-c", "b" * 63 + "-"),
        ],
    )
    def test_the_name_that_follows_from_the_model(self, model, name):
        assert default_name(model) == name
        assert ServerSpec(model).name == name

    @pytest.mark.parametrize("name", ["../x", "a/b", "-x", "a b", "x" * 65, "<b>", "a\n"])
    def test_a_name_is_safe_in_a_path_and_in_html(self, name):
        with pytest.raises(InvalidOption, match="cannot be a name"):
            ServerSpec("m", name=name)

    @pytest.mark.parametrize("model", ["x" * 300, "a/" + "x" * 248, "/models/" + "x" * 256])
    def test_a_model_whose_name_no_file_can_have(self, model):
        with pytest.raises(InvalidOption, match="longer than a file name may be") as caught:
            ServerSpec(model, name="m")
        assert len(str(caught.value)) < 150

    def test_the_error_of_a_long_name_is_short(self):
        with pytest.raises(InvalidOption) as caught:
            ServerSpec("m", name="x" * 100_000)
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("model", ["", " ", "--seed"])
    def test_a_model_is_needed(self, model):
        with pytest.raises(InvalidOption, match="Which model"):
            ServerSpec(model)

    def test_a_folder_is_meant_from_here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/x")
        assert ServerSpec("./model").model == str(tmp_path / "model")
        assert ServerSpec("~/model").model == "/home/x/model"
        assert ServerSpec("org/model").model == "org/model"

    def test_the_working_directory_does_not_make_another_server(self, tmp_path, monkeypatch):
        before = ServerSpec("m")
        monkeypatch.chdir(tmp_path)
        assert ServerSpec("m") == before
        assert dataclasses.replace(before, args=("--seed", "1")) != before
