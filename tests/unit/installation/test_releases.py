"""The tables of releases: what each row must have, and how versions are ordered."""

from __future__ import annotations

import pytest

from vllm_magic.engine import versions
from vllm_magic.installation import releases
from vllm_magic.installation.plan import Backend


@pytest.mark.parametrize("table", [releases.GPU_RELEASES, releases.CPU_RELEASES])
def test_each_version_has_one_row_the_newest_first(table) -> None:
    keys = [releases.order(one.version) for one in table]
    assert keys == sorted(set(keys), reverse=True)
    assert len({one.package for one in table}) == 1


def test_the_newest_is_one_that_is_tested() -> None:
    assert versions.parse(releases.GPU_RELEASES[0].version) == versions.NEWEST


@pytest.mark.parametrize("release", releases.GPU_RELEASES, ids=lambda one: one.version)
def test_each_build_has_a_name_and_a_driver(release) -> None:
    cuda = release.torch.cuda
    assert Backend(f"cu{cuda[0]}{cuda[1]}")
    assert releases.DRIVER_OF[cuda] >= releases.LEAST_DRIVER[cuda[0]]
    assert all(other.value.startswith(f"cu{cuda[0]}") for other in release.torch.others)
    # Where the package index has no build with CUDA, PyTorch's index has one.
    assert release.torch.others or set(release.glibc) <= set(release.torch.index_architectures)


def test_versions_are_ordered_as_the_package_index_orders_them() -> None:
    names = [
        "0.8.5",
        "0.8.5.post1",
        "0.9.0.dev1",
        "0.9.0rc1",
        "0.9.0rc2",
        "0.9.0",
        "0.9.0.1",
        "0.9.2",
        "0.10.0",
        "0.33.0",
    ]
    assert sorted(sorted(names), key=releases.order) == names
