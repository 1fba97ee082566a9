"""How far a start is: the share of its time, the time left, what is downloaded, and what a person sees of it."""

from __future__ import annotations

from vllm_magic.engine.startup import history
from vllm_magic.engine.startup.estimate import Estimate
from vllm_magic.engine.startup.stages import Stage
from vllm_magic.jupyter.display import progress


def test_the_second_start_knows_how_long_the_first_took(manager, spec):
    first = manager.start(spec(), timeout=60).server
    assert first.status.estimate == Estimate(1.0)
    taken = first.status.stages
    assert {Stage.IMPORTING, Stage.ENGINE, Stage.LOADING, Stage.SERVING} <= set(taken)
    assert sum(taken.values()) <= first.ready_after
    assert "is ready after" in progress.ready(first)
    manager.stop()
    seen = []
    second = manager.start(spec(), timeout=60, report=lambda one: seen.append(one.status.estimate)).server
    assert any(one.left is not None and 0 < one.share < 1 for one in seen)
    assert second.stop().verified


def test_a_download_is_seen_while_it_lasts(manager, spec, tmp_path):
    """The stand-in loads while a file grows in the cache, as huggingface_hub's do."""
    blobs = tmp_path / "hub" / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "weights.incomplete").write_bytes(bytes(2**20))
    seen = []

    def report(server):
        seen.append(server.progress.download)
        if seen[-1] is not None and (blobs / "weights.incomplete").exists():
            (blobs / "weights.incomplete").rename(blobs / "weights")

    wanted = spec("org/tiny", env={"HF_HUB_CACHE": str(tmp_path / "hub")}, faults={"load_s": 2.0})
    server = manager.start(wanted, timeout=60, report=report).server
    assert 2**20 in [one.done for one in seen if one]
    assert server.status.stages == {}
    assert history.earlier(wanted) == {}
    assert server.stop().verified
