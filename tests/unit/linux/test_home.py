"""A path with ``~`` gives a result, or an error of one line: no such user, no home folder, or no answer."""

from __future__ import annotations

import os
import pwd
import threading
from pathlib import Path

import pytest

from vllm_magic import cli, ledger
from vllm_magic.doctor import checks, survey
from vllm_magic.engine import cache, executable
from vllm_magic.engine.models import hf_cache, model_files
from vllm_magic.engine.models.download import Downloads
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup import history
from vllm_magic.errors import ExecutableNotFound, InvalidOption, StartFailed
from vllm_magic.jupyter import on_disk
from vllm_magic.jupyter.commands import settings
from vllm_magic.linux import home, lookups
from vllm_magic.provisioning import launch
from vllm_magic.recovery import kept_servers

NOBODY = "~nosuchuser/x"
VARIABLES = ("HOME", "VLLM_MAGIC_HOME", "VLLM_MAGIC_CACHE", "VLLM_MAGIC_EXECUTABLE", "JUPYTER_RUNTIME_DIR")
OTHERS = ("JUPYTER_DATA_DIR", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME", "HF_HUB_CACHE")


@pytest.fixture
def homeless(monkeypatch):
    """A container that runs under a user id without a name, and without HOME."""
    for name in (*VARIABLES, *OTHERS, "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(_: object) -> pwd.struct_passwd:
        raise KeyError("no such user")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    lookups.user.cache_clear()
    yield
    lookups.user.cache_clear()


def test_a_tilde_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    assert home.expanded("~/a/~b") == "/home/x/a/~b"
    assert home.expanded("~") == "/home/x"
    assert home.expanded("a/~b") == "a/~b"
    assert home.expanded("~root/a") == os.path.expanduser("~root/a")
    for path in (NOBODY, "~\0/x", "~\ud800/x", "~nosuchuser"):
        with pytest.raises(FileNotFoundError, match="there is no user"):
            home.expanded(path)


def test_a_directory_of_users_that_does_not_answer(monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(lookups, "USER_LIMIT", 0.1)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: end.wait(60))
    try:
        with pytest.raises(TimeoutError):
            home.expanded("~somebody/x")
    finally:
        end.set()


def test_a_user_without_a_home(homeless, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"no home folder\. Set HOME"):
        home.expanded("~/x")
    with pytest.raises(OSError, match="home"):
        ledger.state_path()
    with pytest.raises(OSError, match="home"):
        cache.path("flags")
    with pytest.raises(InvalidOption, match=r"^~/model: .* home folder.*\.$"):
        ServerSpec("~/model")
    spec = ServerSpec("m", ("--download-dir", "~/d"), executable="~/vllm")
    with pytest.raises(ExecutableNotFound, match=r"^~/vllm .*\.$"):
        executable.find("~/vllm")
    with pytest.raises(InvalidOption, match="home"):
        settings.profile("x")
    assert model_files.cache_folder({}) == Path("~/.cache/huggingface/hub")  # as huggingface_hub has it then
    assert hf_cache.folder(spec.args, {}) == Path("~/d")
    assert Downloads("m", spec.args, {}).progress() is None
    assert model_files.find(spec, {}) is None
    assert [*on_disk.cached_models()] == []
    assert [*on_disk.files("~/")] == []
    assert history.earlier(spec) is not None


@pytest.mark.parametrize("whose", ["", NOBODY])
def test_a_state_folder_below_a_missing_home(homeless, monkeypatch, capsys, whose):
    if whose:
        monkeypatch.setenv("VLLM_MAGIC_HOME", whose)
    assert ledger.full_disk() == ""
    assert ledger.kept_logs() == []
    assert kept_servers.notices() == []
    found = survey.read_ledger()
    assert found.entries == ()
    (finding,) = checks.folders(found.problem, "")
    assert "VLLM_MAGIC_HOME=/" in finding.command
    for words in (["ps"], ["logs", "x"], ["stop", "x"]):
        assert cli.main(words) == cli.TO_DO
        said = capsys.readouterr().err
        assert said.startswith("vllm-magic: ")
        assert said.count("\n") == 1
    with pytest.raises(OSError, match="rite the whole path") as caught:
        ledger.state_folder()
    assert isinstance(launch.unusable(caught.value), StartFailed)


def test_caches_below_a_missing_home(monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_CACHE", NOBODY)
    monkeypatch.setenv("XDG_CONFIG_HOME", NOBODY)
    monkeypatch.setenv("VLLM_MAGIC_EXECUTABLE", NOBODY)
    assert cache.read("flags", "x") is None
    assert cache.names("flags") == []
    with pytest.raises(InvalidOption, match="no user nosuchuser"):
        settings.profile("x")
    with pytest.raises(ExecutableNotFound, match=NOBODY):
        executable.find()
    assert model_files.cache_folder({"HF_HOME": NOBODY}) == Path(NOBODY, "hub")
    assert model_files.cache_folder({"HF_HUB_CACHE": NOBODY}) == Path(NOBODY)
