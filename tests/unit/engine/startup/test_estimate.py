"""How far a start is: the share of its time, the time left, what is downloaded, and what a person sees of it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from vllm_magic.engine import cache as cached
from vllm_magic.engine.models import hf_cache
from vllm_magic.engine.models.download import Download, Downloads
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.startup import history
from vllm_magic.engine.startup.estimate import USUAL, Estimate, Pace
from vllm_magic.engine.startup.stages import ORDER, Progress, Stage
from vllm_magic.jupyter.display import progress
from vllm_magic.server import progress_text

EARLIER = {Stage.IMPORTING: 10.0, Stage.ENGINE: 10.0, Stage.LOADING: 70.0, Stage.SERVING: 10.0}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def at(stage: Stage, counted: tuple[int, int] | None = None, download: Download | None = None) -> Progress:
    return Progress(stage, counted, download)


class TestPace:
    def test_by_an_earlier_start(self, clock):
        pace = Pace(EARLIER, clock)
        assert pace.estimate(at(Stage.QUEUED)) == Estimate(0.0)
        pace.move(at(Stage.IMPORTING))
        clock.now = 5.0
        assert pace.estimate(at(Stage.IMPORTING)) == Estimate(0.05, 95.0)
        pace.move(at(Stage.ENGINE))
        assert pace.estimate(at(Stage.ENGINE)) == Estimate(0.1, 90.0)
        pace.move(at(Stage.LOADING))
        clock.now += 7.0
        assert pace.estimate(at(Stage.LOADING)) == Estimate(0.27, 73.0)

    def test_what_is_counted_goes_before_the_clock(self, clock):
        pace = Pace(EARLIER, clock)
        pace.move(at(Stage.LOADING, (1, 2)))
        clock.now = 1000.0
        assert pace.estimate(at(Stage.LOADING, (1, 2))) == Estimate(0.55, 45.0, 70.0)

    def test_it_waits_at_the_end_of_a_stage_and_says_when_that_takes_long(self, clock):
        pace = Pace(EARLIER, clock)
        pace.move(at(Stage.IMPORTING))
        clock.now = 29.0
        assert pace.estimate(at(Stage.IMPORTING)) == Estimate(0.1, 90.0, is_least=True)
        clock.now = 31.0
        assert pace.estimate(at(Stage.IMPORTING)) == Estimate(0.1, 90.0, 10.0, is_least=True)

    @pytest.mark.parametrize(("loading", "longer_than"), [(70.0, 100.0), (60.0, None)])
    def test_a_start_that_takes_longer_than_before_is_no_longer_estimated(self, clock, loading, longer_than):
        pace = Pace(EARLIER, clock)
        for stage, seconds in ((Stage.QUEUED, 1000.0), *EARLIER.items(), (Stage.SERVING, 5.0)):
            pace.move(at(stage))
            clock.now += loading if stage is Stage.LOADING else seconds
        assert pace.estimate(at(Stage.SERVING)) == Estimate(1.0, 0.0, is_least=True, longer_than=longer_than)

    def test_a_short_stage_may_take_longer(self, clock):
        pace = Pace({**EARLIER, Stage.MEMORY: 0.1}, clock)
        pace.move(at(Stage.MEMORY))
        clock.now = 9.0
        assert pace.estimate(at(Stage.MEMORY)).late is None
        clock.now = 11.0
        assert pace.estimate(at(Stage.MEMORY)).late == 0.1

    def test_without_an_earlier_start_there_is_but_a_bar(self, clock):
        pace = Pace({}, clock)
        shares = []
        for stage in ORDER[1:]:
            pace.move(at(stage))
            shares.append(pace.estimate(at(stage)))
        assert all(one.left is None and one.late is None for one in shares)
        assert [one.share for one in shares] == sorted(one.share for one in shares)
        assert (shares[0].share, shares[-1].share) == (0.0, 1.0)

    def test_the_share_never_falls(self, clock):
        pace = Pace(EARLIER, clock)
        pace.move(at(Stage.LOADING))
        clock.now = 60.0
        before = pace.estimate(at(Stage.LOADING)).share
        assert pace.estimate(at(Stage.LOADING, (0, 8))).share == before > 0.7

    def test_a_download_has_no_time_left_and_is_not_remembered(self, clock):
        pace = Pace(EARLIER, clock)
        loading = at(Stage.LOADING, download=Download(1, None, None))
        pace.move(loading)
        assert pace.estimate(loading).left is None
        pace.move(at(Stage.READY))
        assert pace.taken() == {}

    def test_what_is_remembered(self, clock):
        pace = Pace({}, clock)
        for stage, seconds in (
            (Stage.QUEUED, 100.0),
            (Stage.IMPORTING, 8.0),
            (Stage.LOADING, 3.0),
            (Stage.SERVING, 1.0),
        ):
            pace.move(at(stage))
            clock.now += seconds
        assert pace.taken() == {Stage.IMPORTING: 8.0, Stage.LOADING: 3.0}
        pace.move(at(Stage.READY))
        assert pace.taken() == {Stage.IMPORTING: 8.0, Stage.LOADING: 3.0, Stage.SERVING: 1.0}

    def test_every_stage_but_the_first_and_the_last_takes_its_time(self):
        assert [*USUAL] == [*ORDER[1:-1]]


class TestHistory:
    def test_the_same_start_again(self, cache):
        spec = ServerSpec("tiny", ("--max-model-len", "64"))
        assert history.earlier(spec) == {}
        history.keep(spec, EARLIER)
        assert history.earlier(ServerSpec("tiny", ("--max-model-len", "64"), name="other")) == EARLIER
        assert history.earlier(ServerSpec("tiny")) == {}
        (file,) = (cache / "starts").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_nothing_is_no_start(self, cache):
        history.keep(ServerSpec("tiny"), {})
        assert not cache.exists()

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"null", b"\xff", b'{"LOADING": "x", "ENGINE": -1, "MEMORY": 1e99}', b"[" * 99999],
    )
    def test_a_file_that_makes_no_sense(self, cache, content):
        spec = ServerSpec("tiny")
        history.keep(spec, EARLIER)
        (cache / "starts" / history._file(spec)).write_bytes(content)
        assert history.earlier(spec) == {}
        history.keep(spec, EARLIER)
        assert history.earlier(spec) == EARLIER

    def test_a_folder_that_cannot_be_made(self, cache):
        cache.write_text("")
        history.keep(ServerSpec("tiny"), EARLIER)
        assert history.earlier(ServerSpec("tiny")) == {}

    def test_no_more_than_so_many(self, cache, monkeypatch):
        monkeypatch.setattr(history, "MOST_STARTS", 3)
        for number in range(5):
            spec = ServerSpec("tiny", (f"--seed={number}",))
            history.keep(spec, EARLIER)
            os.utime(cache / "starts" / history._file(spec), (number, number))
        assert len(list((cache / "starts").iterdir())) == 3

    def test_a_write_that_fails_leaves_nothing(self, cache):
        with pytest.raises(FileNotFoundError):
            cached.write("starts", "no/such/folder", b"x")
        assert list((cache / "starts").iterdir()) == []


class TestDownloads:
    @pytest.fixture
    def hub(self, tmp_path):
        return tmp_path / "hub"

    @pytest.fixture
    def blobs(self, hub) -> Path:
        folder = hub / "models--org--name" / "blobs"
        folder.mkdir(parents=True)
        return folder

    @pytest.fixture
    def downloads(self, hub, clock) -> Downloads:
        return Downloads("org/name", (), {"HF_HUB_CACHE": str(hub)}, clock)

    def test_bytes_and_speed(self, downloads, blobs, clock):
        assert downloads.progress() is None
        (blobs / "a").write_bytes(bytes(100))
        assert downloads.progress() is None
        part = blobs / "b.incomplete"
        part.write_bytes(bytes(1000))
        assert downloads.progress() == Download(1100, None, None)
        clock.now = 2.0
        part.write_bytes(bytes(5000))
        assert downloads.progress() == Download(5100, None, 2000.0)
        clock.now = 6.0
        assert downloads.progress() == Download(5100, None, 0.0)
        part.rename(blobs / "b")
        assert downloads.progress() is None

    def test_what_was_broken_off_is_no_download(self, downloads, blobs):
        (blobs / "a").write_bytes(bytes(7))
        old = blobs / "b.1234.incomplete"
        old.write_bytes(bytes(1000))
        os.utime(old, (1e9, 1e9))
        assert downloads.progress() is None
        (blobs / "b.5678.incomplete").write_bytes(bytes(10))
        assert downloads.progress().done == 17

    def test_the_whole_is_in_the_index(self, downloads, hub, blobs):
        (blobs / "b.incomplete").write_bytes(bytes(1000))
        snapshot = hub / "models--org--name" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        index = snapshot / "model.safetensors.index.json"
        for content, total in (
            ({"metadata": {"total_size": 4000}}, 4000),
            ({"metadata": {"total_size": 9}}, None),
            ([], None),
        ):
            index.write_text(json.dumps(content))
            assert downloads.progress() == Download(1000, total, None)

    def test_a_local_folder_is_not_downloaded(self, tmp_path, hub, blobs):
        (blobs / "b.incomplete").write_bytes(b"x")
        assert Downloads(str(tmp_path), (), {"HF_HUB_CACHE": str(hub)}).progress() is None

    def test_where_it_is(self):
        home = Path.home()
        assert hf_cache.folder((), {}) == home / ".cache/huggingface/hub"
        assert hf_cache.folder((), {"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/hub")
        assert hf_cache.folder((), {"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/h/hub")
        assert hf_cache.folder((), {"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}) == Path("/c")
        assert hf_cache.folder(("--download-dir", "~/d"), {"HF_HUB_CACHE": "/c"}) == home / "d"


class TestTold:
    @pytest.mark.parametrize(
        ("where", "estimate", "text"),
        [
            (at(Stage.IMPORTING), Estimate(0.1), "importing vLLM"),
            (at(Stage.LOADING, (3, 8)), Estimate(0.5, 10.0), "loading weights 3/8"),
            (at(Stage.LOADING), Estimate(0.5, 10.0, 70.0), "loading weights, which took 1 min 10 s before"),
            (at(Stage.LOADING, download=Download(2**30, None, None)), Estimate(0.5), "downloading 1.00 GiB"),
            (
                at(Stage.LOADING, download=Download(2**30, 2**31, 45e6)),
                Estimate(0.5),
                "downloading 1.00 GiB of 2.00 GiB, 45 MB/s",
            ),
        ],
    )
    def test_a_stage(self, where, estimate, text):
        assert progress_text.stage_text(where, estimate) == text

    @pytest.mark.parametrize(
        ("estimate", "text"),
        [
            (Estimate(0.1), ""),
            (Estimate(0.1, 73.0), "about 1 min 13 s left"),
            (Estimate(0.1, 73.0, is_least=True), "at least 1 min 13 s left"),
            (Estimate(1.0, 0.0, is_least=True), "at least 1 s left"),
            (Estimate(1.0, 0.0, is_least=True, longer_than=50.0), "longer than the last start (50 s)"),
        ],
    )
    def test_the_time_left(self, estimate, text):
        assert progress_text.left_text(estimate) == text

    def test_the_bar(self):
        assert [
            progress._bar(share).count("\N{BOX DRAWINGS HEAVY HORIZONTAL}") for share in (0.0, 0.5, 1.0)
        ] == [0, 6, 12]
        assert {len(progress._bar(share / 100)) for share in range(101)} == {12}
