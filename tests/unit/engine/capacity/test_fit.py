"""`%vllm fit`: what a model needs against what there is, what would help, and the warning of a start."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import checkpoints
import pytest

from vllm_magic.engine.capacity.advice import FitOutcome
from vllm_magic.engine.capacity.fit import fit
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import checks
from vllm_magic.errors import InvalidOption, NoEstimate, StartFailed
from vllm_magic.gpu.devices import Gpu, Snapshot
from vllm_magic.gpu.probe import Probe
from vllm_magic.monitoring.early_warning import EarlyWarning

GIB = 2**30
NO_GPU = Snapshot(0.0, (), None, "no driver")
LLAMA = checkpoints.LLAMA_3_8B


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    """Llama-3-8B: 15 GiB of weights, 131,072 bytes of KV cache a token."""
    return str(checkpoints.model(tmp_path_factory.mktemp("models") / "llama", LLAMA))


def gpu(index: int = 0, total: float = 24, free: float | None = None, name: str = "NVIDIA L4") -> Gpu:
    free = total if free is None else free
    return Gpu(
        index, f"GPU-{index}aaa", name, int(total * GIB), int((total - free) * GIB), int(free * GIB), ()
    )  # fmt: skip


ONE = (gpu(),)


def judged(model: str, *args: str, gpus=ONE, environ=None, **fields):
    return fit(
        ServerSpec(model, args, **fields), environ or {}, Snapshot(0.0, tuple(gpus), None, None), online=False
    )


class TestVerdict:
    """24 GiB x 0.92 = 22.08 GiB; 14.96 of weights and 1 to 3 besides leave 4.1 to 6.1 GiB, or 34 to 50 thousand tokens."""

    def test_it_fits(self, llama):
        found = judged(llama)
        assert (found.outcome, found.fits) == (FitOutcome.FITS, True)
        room = -(-24 * GIB * 92 // 100) - 2 * 8_030_261_248 - 2 * GIB
        assert found.kv_room == room
        blocks = room // (16 * 131_072)
        assert found.requests == blocks / 512
        assert found.kv_tokens == blocks * 16
        assert found.largest_context == 8192  # the model knows no more
        assert found.verdict == "Fits: 5 requests of 8,192 tokens at once; the largest context is 8,192."

    def test_the_requests_that_vllm_works_on_at_once(self, llama):
        assert "Fits: 3 requests of 8,192" in judged(llama, "--max-num-seqs", "3").verdict
        assert "Fits: 1 request of 8,192" in judged(llama, "--max-num-seqs", "1").verdict
        assert "Fits: 41 requests of 1,000" in judged(llama, "--max-model-len", "1k").verdict

    def test_it_is_too_large(self, llama):
        found = judged(llama, gpus=[gpu(total=16)])
        assert (found.outcome, found.fits) == (FitOutcome.TOO_LARGE, False)
        assert found.verdict == (
            "Does not fit: needs 17.0 GiB at least, and vLLM may use 14.7 GiB of GPU 0. Try a quantized model."
        )

    def test_what_would_help_does(self, llama):
        args = ["--hf-overrides", '{"max_position_embeddings": 131072}']
        found = judged(llama, *args, gpus=[gpu(0), gpu(1)])
        assert found.outcome is FitOutcome.TOO_LARGE
        assert found.verdict.endswith("Try --max-model-len 32768, -tp 2 or a quantized model.")
        assert judged(llama, *args, "--max-model-len", "32768", gpus=[gpu(0), gpu(1)]).fits
        assert judged(llama, *args, "-tp", "2", gpus=[gpu(0), gpu(1)]).fits
        assert not judged(llama, *args, "--max-model-len", str(50_000)).fits

    def test_a_larger_share_helps(self, llama):
        found = judged(llama, "--gpu-memory-utilization", "0.7")
        assert found.outcome is FitOutcome.TOO_LARGE
        assert found.verdict.endswith("Try --gpu-memory-utilization 0.79 or a quantized model.")
        assert judged(llama, "--gpu-memory-utilization", "0.79").fits
        assert not judged(llama, "--gpu-memory-utilization", "0.78").fits

    def test_only_gpus_with_room_are_advised(self, llama):
        args = ["--gpu-memory-utilization", "0.6"]
        assert "-tp 2" in judged(llama, *args, gpus=[gpu(0), gpu(1)]).verdict
        assert "-tp" not in judged(llama, *args, gpus=[gpu(0), gpu(1, free=10)]).verdict
        assert "-tp" not in judged(llama, *args, gpus=[gpu(0, free=10), gpu(1)]).verdict
        there = Snapshot(0.0, (gpu(0), gpu(1)), None, None)
        assert "-tp" not in fit(ServerSpec(llama, tuple(args), gpus="0"), {}, there).verdict
        assert "-tp 2" in fit(ServerSpec(llama, tuple(args), gpus="auto"), {}, there).verdict

    def test_a_share_that_others_hold_is_not_advised(self, llama):
        found = judged(llama, "--gpu-memory-utilization", "0.7", gpus=[gpu(free=18)])
        assert "--gpu-memory-utilization 0" not in found.verdict

    def test_others_hold_the_memory(self, llama):
        found = judged(llama, gpus=[gpu(free=21.5)])
        assert (found.outcome, found.fits) == (FitOutcome.NOT_NOW, False)
        assert found.verdict == (
            "Does not fit now: wants 22.1 GiB free, and GPU 0 has 21.5 GiB. "
            "Try --gpu-memory-utilization 0.85 or a quantized model."
        )
        assert judged(llama, "--gpu-memory-utilization", "0.85", gpus=[gpu(free=21.5)]).fits

    def test_the_estimate_cannot_tell(self, llama):
        found = judged(llama, "--gpu-memory-utilization", "0.75")
        assert (found.outcome, found.fits) == (FitOutcome.CLOSE, None)
        assert found.verdict.startswith(
            "It may just fit: needs 17.0 to 19.0 GiB, and has 18.0 GiB on GPU 0. Try "
        )

    def test_the_tightest_of_several(self, llama):
        found = judged(llama, "-tp", "2", gpus=[gpu(0, 24), gpu(1, 8), gpu(2, 24)])
        assert "vLLM may use 7.4 GiB of GPU 1" in found.verdict
        assert len(found.gpus) == 2

    def test_too_few_gpus(self, llama):
        found = judged(llama, "-tp", "4", gpus=[gpu(0), gpu(1)])
        assert (found.outcome, found.fits) == (FitOutcome.UNKNOWN, None)
        assert found.verdict.startswith(
            "Unknown: the server takes 4 GPUs, and the memory of 2 is known. Each"
        )

    def test_a_gpu_that_does_not_tell(self, llama):
        found = judged(llama, gpus=[replace(gpu(), total=None, used=None, free=None)])
        assert (found.outcome, found.gpus) == (FitOutcome.UNKNOWN, ())
        assert "Unknown: the server takes 1 GPU, and the memory of 0 is known" in found.verdict

    def test_a_context_that_the_model_does_not_know(self, llama):
        with pytest.raises(InvalidOption, match="longer than the model's context of 8192 tokens"):
            judged(llama, "--max-model-len", "9000")
        found = judged(llama, "--max-model-len", "9000", force=True)
        assert (found.outcome, found.fits) == (FitOutcome.REFUSED, False)
        assert "vLLM will refuse --max-model-len 9,000: 8,192 tokens are the longest" in found.verdict
        assert judged(llama, "--max-model-len", "9000", environ={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}).fits

    def test_the_context_is_made_as_long_as_there_is_room(self, llama):
        args = ["--hf-overrides", '{"max_position_embeddings": 131072}', "--max-model-len", "auto"]
        found = judged(llama, *args)
        assert found.fits
        assert found.context == found.largest_context == found.kv_room // (16 * 131_072) * 16 - 16
        assert found.verdict.startswith("Fits: 1 request of 4")
        assert not judged(llama, *args, gpus=[gpu(total=16)]).fits

    def test_a_kv_cache_of_a_size_of_its_own(self, llama):
        found = judged(llama, "--kv-cache-memory-bytes", "2G", "--max-model-len", "8000")
        assert (found.outcome, found.kv_room) == (FitOutcome.FITS, 2 * GIB)
        assert found.requests == 1024 / 500
        too_small = judged(llama, "--kv-cache-memory-bytes", "1G")  # one block is never used
        assert too_small.outcome is FitOutcome.TOO_LARGE
        assert "needs 1.00 GiB, and has 1.00 GiB" in too_small.verdict
        assert judged(llama, "--kv-cache-memory-bytes", "9G").outcome is FitOutcome.NOT_NOW
        assert judged(llama, "--kv-cache-memory-bytes", "7G").outcome is FitOutcome.CLOSE

    @pytest.mark.parametrize(
        ("gpus", "environ", "index"),
        [
            (None, {}, 0),
            ("1", {}, 1),
            ("auto", {}, 2),
            (None, {"CUDA_VISIBLE_DEVICES": "1,0"}, 1),
        ],
    )
    def test_the_gpu_that_it_would_use(self, llama, gpus, environ, index):
        there = Snapshot(0.0, (gpu(0, free=20), gpu(1, free=10), gpu(2)), None, None)
        found = fit(ServerSpec(llama, gpus=gpus), environ, there, online=False)
        assert [one.index for one in found.gpus] == [index]

    def test_where_the_order_of_gpus_is_not_known_the_freest_counts(self, llama):
        found = judged(llama, gpus=[gpu(0, 16, name="NVIDIA T4"), gpu(1, 24)])
        assert [one.index for one in found.gpus] == [1]

    def test_a_gpu_that_is_not_there(self, llama):
        with pytest.raises(InvalidOption, match="there is no GPU '7'"):
            fit(ServerSpec(llama, gpus="7"), {}, Snapshot(0.0, (gpu(),), None, None))


class TestWithoutGpus:
    def test_nothing_to_compare_with(self, llama):
        found = fit(ServerSpec(llama), {}, NO_GPU)
        assert (found.outcome, found.fits, found.kv_room, found.kv_tokens) == (
            FitOutcome.UNKNOWN,
            None,
            None,
            None,
        )
        assert found.verdict.startswith(
            "There is no GPU to compare with. A GPU needs 17.0 to 19.0 GiB for one"
        )
        assert "VLLM_CPU_KVCACHE_SPACE" in found.verdict

    @pytest.mark.parametrize("where", ["kernel", "server"])
    def test_the_cpu_builds_own_room(self, llama, where):
        space = {"VLLM_CPU_KVCACHE_SPACE": "4"}
        spec = ServerSpec(llama, env=tuple(space.items()) if where == "server" else ())
        found = fit(spec, space if where == "kernel" else {"VLLM_CPU_KVCACHE_SPACE": "0"}, NO_GPU)
        assert (found.fits, found.requests, found.kv_tokens) == (True, 4.0, 32_768)
        assert found.verdict == "Fits: 4 requests of 8,192 tokens at once; the largest context is 8,192."

    def test_the_cpu_builds_room_is_too_small(self, llama):
        found = fit(ServerSpec(llama), {"VLLM_CPU_KVCACHE_SPACE": "1"}, NO_GPU)
        assert found.fits is False
        assert found.verdict == (
            "Does not fit: the KV cache of one request of 8,192 tokens needs 1.02 GiB, and has 1.00 GiB. "
            "Try --max-model-len 7168 or a larger VLLM_CPU_KVCACHE_SPACE."
        )
        shorter = ServerSpec(llama, ("--max-model-len", "7168"))
        assert fit(shorter, {"VLLM_CPU_KVCACHE_SPACE": "1"}, NO_GPU).fits

    @pytest.mark.parametrize("space", ["", "much", "-1"])
    def test_a_room_that_is_none(self, llama, space):
        assert fit(ServerSpec(llama), {"VLLM_CPU_KVCACHE_SPACE": space}, NO_GPU).outcome is FitOutcome.UNKNOWN


def test_a_model_without_a_kv_cache(tmp_path):
    model = checkpoints.model(tmp_path / "m", {**LLAMA, "model_type": "bert", "num_hidden_layers": 2})
    found = judged(str(model))
    assert (found.requests, found.kv_tokens) == (None, None)
    assert found.verdict == "Fits: the model keeps no KV cache; the largest context is 8,192."


class TestNoEstimate:
    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ("[1]", "config.json does not hold a JSON object"),
            ("{", "config.json cannot be read as JSON"),
            ("[" * 100_000, "config.json cannot be read as JSON"),
            ("{}", "config.json has no num_hidden_layers"),
            ('{"num_hidden_layers": 1e9}', "num_hidden_layers in config.json is not a sensible number"),
        ],
    )
    def test_a_config_that_says_nothing(self, tmp_path, config, says):
        model = checkpoints.model(tmp_path / "m", LLAMA)
        (model / "config.json").write_text(config)
        with pytest.raises(NoEstimate, match=says) as caught:
            judged(str(model))
        assert str(caught.value).isprintable()

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(NoEstimate, match=r"has no config\.json"):
            judged(str(tmp_path))

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(NoEstimate, match=r"none is not there\. Nothing in"):
            fit(ServerSpec(str(tmp_path / "none")), {}, NO_GPU)

    def test_the_words_are_those_of_a_start(self, tmp_path):
        model = checkpoints.model(tmp_path / "m", LLAMA)
        (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
        spec = ServerSpec(str(model))
        with pytest.raises(StartFailed) as refused:
            checks.check(spec, {}, "/nowhere/vllm")
        with pytest.raises(NoEstimate) as caught:
            fit(spec, {}, NO_GPU)
        assert str(caught.value) == f"An estimate cannot be made: {refused.value}"
        with pytest.raises(NoEstimate, match="is a pointer of Git LFS"):  # there is nothing to estimate from
            fit(ServerSpec(str(model), force=True), {}, NO_GPU)

    @pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    def test_going_online_is_forbidden(self, tmp_path, name):
        with pytest.raises(NoEstimate, match=f"some/model is not on this machine, and {name} forbids"):
            fit(ServerSpec("some/model"), {"HF_HOME": str(tmp_path), name: "1"}, NO_GPU)


def test_without_huggingface_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NoEstimate, match="To ask the Hub for it: pip install huggingface_hub"):
        fit(ServerSpec("some/model"), {"HF_HOME": str(tmp_path)}, NO_GPU)


WARNING = "llama will probably not start. Does not fit: needs "


class TestWarning:
    def test_a_slow_driver_does_not_hold_up_a_start(self, llama):
        """The estimate waits, and the one who starts does not."""
        asked, answer = threading.Event(), threading.Event()

        class Slow:
            def snapshot(self) -> Snapshot:
                asked.set()
                answer.wait(60)
                return Snapshot(0.0, (gpu(total=16),), None, None)

        foresight = EarlyWarning(ServerSpec(llama), Slow())
        assert asked.wait(60)
        began = time.monotonic()
        assert not foresight.warning()
        assert time.monotonic() - began < 30
        answer.set()
        assert WARNING in foresight.warning(60)
        assert not foresight.warning()  # once

    def test_without_a_thread_nothing_is_foreseen(self, llama, monkeypatch):
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert not EarlyWarning(ServerSpec(llama), Probe()).warning()
