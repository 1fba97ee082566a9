"""Environments of vLLM alone: which are used, in which order, and why the others are not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from vllm_magic.engine import environments
from vllm_magic.errors import InvalidOption, VllmMagicError
from vllm_magic.linux import folder_users


@pytest.fixture
def main(environments_folder) -> Path:
    """The main folder, which does not exist yet."""
    return environments_folder


def built(version: str, backend: str = "cpu", into: Path | None = None) -> Path:
    """Make an environment without its proof, as an installation leaves it before the last step."""
    path = environments.new_path(f"{version}-{backend}-py312", str(into) if into else None)
    (path / "bin").mkdir(parents=True)
    for name in ("python", "vllm"):
        (path / "bin" / name).write_text("#!/bin/sh\n")
        (path / "bin" / name).chmod(0o755)
    return path


def proved(version: str, backend: str = "cpu", into: Path | None = None) -> environments.InstalledEnvironment:
    """Make an environment with its proof."""
    return environments.write_proof(
        built(version, backend, into), version=version, package="vllm", python="3.12", backend=backend
    )


class TestPlace:
    def test_the_order_of_the_places(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("VLLM_MAGIC_ENVIRONMENTS", raising=False)
        monkeypatch.setenv("XDG_DATA_HOME", "relative")
        assert environments.main_folder() == tmp_path / ".local/share/vllm_magic/environments"
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
        assert environments.main_folder() == tmp_path / "data/vllm_magic/environments"
        monkeypatch.setenv("VLLM_MAGIC_ENVIRONMENTS", "~/own")
        assert environments.main_folder() == tmp_path / "own"

    def test_a_place_that_cannot_be_written(self, main, tmp_path):
        main.write_text("")
        with pytest.raises(
            VllmMagicError, match=r"^No environment can be kept in .* Set VLLM_MAGIC_ENVIRONMENTS"
        ):
            environments.new_path("0.17.0-cpu-py312")
        main.unlink()
        (tmp_path / "file").write_text("")
        with pytest.raises(
            VllmMagicError, match=r"^--into .*/file cannot be used: .* Name another folder\.$"
        ):
            environments.new_path("0.17.0-cpu-py312", str(tmp_path / "file"))

    def test_no_home(self, monkeypatch):
        monkeypatch.setenv("VLLM_MAGIC_ENVIRONMENTS", "~nosuchuser/x")
        with pytest.raises(VllmMagicError, match="no user nosuchuser"):
            environments.new_path("0.17.0-cpu-py312")
        assert environments.installed() == []


class TestInstalled:
    def test_none(self, main):
        assert environments.installed() == environments.broken() == []
        assert not main.exists()

    def test_newest_first(self, main):
        for version in ("0.9.2", "0.17.0rc1", "0.17.0", "0.17.0.post1", "0.33.0"):
            proved(version)
        found = [one.version for one in environments.installed()]
        assert found == ["0.33.0", "0.17.0.post1", "0.17.0", "0.17.0rc1", "0.9.2"]
        assert environments.broken() == []

    def test_what_a_proof_says(self, main):
        made = proved("0.17.0", "cu128")
        assert environments.installed() == [made]
        assert made.name == "0.17.0-cu128-py312"
        assert made.path == str(main / made.name)
        assert made.executable == str(main / made.name / "bin/vllm")
        assert (made.version, made.package, made.python, made.backend) == ("0.17.0", "vllm", "3.12", "cu128")
        assert made.size >= 2 * 512
        assert made.when > 1e9

    def test_into_another_folder(self, main, tmp_path):
        made = proved("0.17.0", into=tmp_path / "scratch")
        assert made.path == str(tmp_path / "scratch" / "0.17.0-cpu-py312")
        assert environments.installed() == [made]
        shutil.rmtree(tmp_path / "scratch")
        assert environments.installed() == []
        assert [one.problem for one in environments.broken()] == ["the folder to which it is a link is gone"]

    def test_a_file_with_several_names_counts_once(self, main):
        path = built("0.17.0")
        (path / "large").write_bytes(b"x" * 100_000)
        os.link(path / "large", path / "same")
        made = environments.write_proof(path, version="0.17.0", package="vllm", python="3.12", backend="cpu")
        assert 100_000 <= made.size < 150_000


class TestBroken:
    def check(self, main: Path, problem: str) -> None:
        """The only environment is left out, for this reason."""
        assert environments.installed() == []
        (one,) = environments.broken()
        assert problem in one.problem
        assert one.path == str(main / one.name)

    def test_an_installation_that_was_interrupted(self, main):
        built("0.17.0")
        self.check(main, environments.UNFINISHED)

    def test_its_python_is_gone(self, main, tmp_path):
        made = proved("0.17.0")
        Path(made.path, "bin/python").unlink()
        Path(made.path, "bin/python").symlink_to(tmp_path / "uninstalled")
        self.check(main, "its Python is gone")

    def test_its_executable_is_gone(self, main):
        made = proved("0.17.0")
        Path(made.executable).unlink()
        self.check(main, f"{made.executable} is gone")

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "null", '{"version": "0.17.0"}', "[" * 10_000, "\udcff"]
    )
    def test_a_torn_proof(self, main, content):
        made = proved("0.17.0")
        Path(made.path, environments.PROOF).write_bytes(content.encode(errors="surrogateescape"))
        self.check(main, "proved.json is torn")

    @pytest.mark.parametrize("field", ["path", "version", "executable", "size", "when"])
    def test_a_proof_with_a_value_of_another_kind(self, main, field):
        made = proved("0.17.0")
        proof = Path(made.path, environments.PROOF)
        proof.write_text(json.dumps(json.loads(proof.read_text()) | {field: ["x"]}))
        self.check(main, "proved.json is torn")

    def test_it_was_moved(self, main):
        made = proved("0.17.0")
        Path(made.path).rename(main / "other")
        self.check(main, f"it was made as {made.path}, and an environment cannot be moved")

    def test_a_copy_beside_it(self, main):
        made = proved("0.17.0")
        shutil.copytree(made.path, main / "copy")
        assert environments.installed() == [made]
        assert [one.name for one in environments.broken()] == ["copy"]

    @pytest.mark.parametrize("file", [".", environments.PROOF])
    def test_it_belongs_to_another_user(self, main, monkeypatch, file):
        made = proved("0.17.0")
        if os.getuid() == 0:
            os.chown(Path(made.path, file), 4711, -1)
        else:  # only root can give a file away
            monkeypatch.setattr(os, "getuid", lambda: 4711)
        self.check(main, "belongs to another user")

    def test_others_can_write_it(self, main):
        made = proved("0.17.0")
        Path(made.path).chmod(0o777)
        self.check(main, "others can write it")

    def test_a_main_folder_that_is_a_file(self, main):
        main.write_text("")
        assert environments.installed() == []
        (one,) = environments.broken()
        assert (one.path, one.problem) == (str(main), "it cannot be read: Not a directory")

    def test_a_proof_is_written_only_for_what_would_be_used(self, main):
        path = built("0.17.0")
        (path / "bin/vllm").unlink()
        with pytest.raises(VllmMagicError, match=r"cannot be used: .*bin/vllm is gone\.$"):
            environments.write_proof(path, version="0.17.0", package="vllm", python="3.12", backend="cpu")

    def test_a_disk_without_room(self, main, monkeypatch):
        path = built("0.17.0")
        monkeypatch.setattr(
            os, "fdopen", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(VllmMagicError, match=r"cannot be written: No space left on device\.$"):
            environments.write_proof(path, version="0.17.0", package="vllm", python="3.12", backend="cpu")
        monkeypatch.undo()
        assert not [name for name in os.listdir(path) if name != "bin"]


class TestChoice:
    def test_without_one_the_newest_is_used(self, main):
        assert environments.used() is None
        proved("0.17.0")
        newest = proved("0.33.0")
        assert environments.used() == newest
        assert environments.chosen() is None

    def test_a_choice_stays(self, main):
        older = proved("0.17.0")
        proved("0.33.0")
        assert environments.choose("0.17.0") == older
        assert environments.used() == environments.chosen() == older
        proved("0.34.0")
        assert environments.used() == older
        assert environments.choose("newest").version == "0.34.0"
        assert environments.chosen() is None
        assert environments.used().version == "0.34.0"

    def test_a_choice_that_does_not_work_any_more(self, main):
        older = proved("0.17.0")
        newest = proved("0.33.0")
        environments.choose(older.name)
        Path(older.executable).unlink()
        assert environments.chosen() is None
        assert environments.chosen_name() == older.name
        assert environments.used() == newest

    @pytest.mark.parametrize(
        "content", [b"", b"../0.17.0-cpu-py312", b"/", b".", b"\xff", b"a\0b", b"x" * 1000, b"no-such"]
    )
    def test_a_choice_that_makes_no_sense(self, main, content):
        newest = proved("0.17.0")
        (main / "chosen").write_bytes(content)
        assert environments.chosen() is None
        assert environments.used() == newest

    @pytest.mark.parametrize("wanted", ["0.17.1", "0.17", "0", "0.17.1-cpu-py312"])
    def test_the_ways_to_name_one(self, main, wanted):
        proved("0.17.0")
        meant = proved("0.17.1")
        assert environments.named(wanted) == meant

    def test_of_two_builds_of_a_version_the_later_is_meant(self, main):
        proved("0.17.0", "cpu")
        later = proved("0.17.0", "cu128")
        assert environments.named("0.17.0") == later
        assert environments.named("0.17.0-cpu-py312").backend == "cpu"

    @pytest.mark.parametrize(
        ("wanted", "text"),
        [
            ("0.18.0", "vLLM 0.18.0 is not installed. Installed: 0.33.0, 0.17.0. Install it: "),
            ("0.1", "vLLM 0.1 is not installed."),
            (
                "0.2.0",
                "0.2.0-cpu-py312 is not used: it is not proved: its installation is under way, or was interrupted.",
            ),
            ("abc", "vLLM abc is not installed."),
        ],
    )
    def test_one_that_is_not_installed(self, main, wanted, text):
        for version in ("0.17.0", "0.33.0"):
            proved(version)
        built("0.2.0")
        for function in (environments.named, environments.choose):
            with pytest.raises(InvalidOption) as caught:
                function(wanted)
            assert str(caught.value).startswith(text)
        assert not (main / "chosen").exists()

    def test_none_is_installed(self, main):
        with pytest.raises(InvalidOption, match="No vLLM is installed in an environment of its own"):
            environments.choose("newest")
        with pytest.raises(InvalidOption, match=r"vLLM 0\.17\.0 is not installed\. Install it"):
            environments.choose("0.17.0")

    def test_a_choice_that_cannot_be_stored(self, main):
        proved("0.17.0")
        (main / "chosen").mkdir()
        with pytest.raises(
            VllmMagicError, match=r"^The choice cannot be stored in .*: Is a directory\. Name the version"
        ):
            environments.choose("0.17.0")


class TestRemove:
    """Environments that no process uses; tests/process/test_environments.py has the others."""

    @pytest.fixture(autouse=True)
    def unused(self, monkeypatch):
        """On a busy machine the memory of some process may not be read in time."""
        monkeypatch.setattr(folder_users, "find", lambda _: [])

    def test_the_files_are_gone(self, main):
        made, other = proved("0.17.0"), proved("0.33.0")
        environments.choose("0.17.0")
        assert environments.remove(environments.removable("0.17.0")) == []
        assert os.listdir(main) == [other.name]
        assert environments.used() == other
        with pytest.raises(
            InvalidOption, match=rf"^There is no environment 0\.17\.0\. There are: {other.name}\.$"
        ):
            environments.removable(made.version)

    def test_one_in_another_folder(self, main, tmp_path):
        made = proved("0.17.0", into=tmp_path / "scratch")
        environments.remove(made)
        assert os.listdir(main) == os.listdir(tmp_path / "scratch") == []

    @pytest.mark.parametrize("where", ["main", "scratch"])
    def test_a_removal_that_was_interrupted_goes_on(self, main, tmp_path, monkeypatch, where):
        made = proved("0.17.0", into=tmp_path / "scratch" if where == "scratch" else None)
        rmtree = shutil.rmtree
        monkeypatch.setattr(shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            environments.remove(made)
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        assert environments.installed() == []
        (left,) = environments.broken()
        assert left.problem in {"its removal was interrupted", "the folder to which it is a link is gone"}
        environments.remove(left)
        assert os.listdir(main) == []
        assert where == "main" or os.listdir(tmp_path / "scratch") == []

    def test_what_was_left_of_an_earlier_removal(self, main):
        made = proved("0.17.0")
        (main / f"{made.name}.removed-1234").mkdir()
        (main / f"{made.name}.removed-1234" / "left").write_text("")
        assert environments.removable("0.17.0") == made
        environments.remove(made)
        assert os.listdir(main) == []

    def test_one_that_does_not_work(self, main):
        made = proved("0.17.0")
        Path(made.path, "bin/python").unlink()
        environments.remove(environments.removable("0.17.0"))
        assert environments.broken() == []

    def test_an_installation_that_was_interrupted(self, main):
        (built("0.17.0") / "pyvenv.cfg").write_text("")
        environments.new_path("0.33.0-cpu-py312").mkdir()
        for name in ("0.17.0", "0.33.0"):
            assert environments.remove(environments.removable(name)) == []
        assert os.listdir(main) == []

    def test_what_is_no_environment_stays(self, main, tmp_path):
        """$VLLM_MAGIC_ENVIRONMENTS may name a folder that has other things in it."""
        for folder in (main / "documents", tmp_path / "mine"):
            folder.mkdir(parents=True)
            (folder / "file").write_text("")
        (main / "link").symlink_to(tmp_path / "mine")
        with pytest.raises(
            VllmMagicError, match=r"documents cannot be removed: it is no environment of Python\. Remove it"
        ):
            environments.remove(environments.removable("documents"))
        environments.remove(environments.removable("link"))
        assert os.listdir(main) == ["documents"]
        assert (tmp_path / "mine" / "file").exists()
        assert (main / "documents" / "file").exists()

    def test_two_builds_of_one_version(self, main):
        proved("0.17.0", "cpu")
        proved("0.17.0", "cu128")
        with pytest.raises(
            InvalidOption, match=r"more than one vLLM 0\.17\.0\. Name one: .*-cu128-py312, .*-cpu-py312"
        ):
            environments.removable("0.17.0")
        assert environments.removable("0.17.0-cpu-py312").version == "0.17.0"
