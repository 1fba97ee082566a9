"""`%vllm fit`: what a model needs against what there is, what would help, and the warning of a start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import checkpoints
import pytest
from fake_gpu import fakegpu
from hub_on_loopback import Hub
from IPython.core.error import UsageError
from IPython.utils.capture import capture_output

import vllm_magic
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption, NoEstimate
from vllm_magic.gpu.devices import Gpu, Snapshot
from vllm_magic.gpu.probe import Probe
from vllm_magic.jupyter import views
from vllm_magic.life.fit import fit
from vllm_magic.life.foresight import Foresight
from vllm_magic.life.verdict import Outcome

GIB = 2**30
NO_GPU = Snapshot(0.0, (), None, "no driver")
LLAMA = checkpoints.LLAMA_3_8B
EVIL = "<script>alert(1)</script>"


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
        assert (found.outcome, found.fits) == (Outcome.FITS, True)
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
        assert (found.outcome, found.fits) == (Outcome.TOO_LARGE, False)
        assert found.verdict == (
            "Does not fit: needs 17.0 GiB at least, and vLLM may use 14.7 GiB of GPU 0. Try a quantised model."
        )

    def test_what_would_help_does(self, llama):
        args = ["--hf-overrides", '{"max_position_embeddings": 131072}']
        found = judged(llama, *args, gpus=[gpu(0), gpu(1)])
        assert found.outcome is Outcome.TOO_LARGE
        assert found.verdict.endswith("Try --max-model-len 32768, -tp 2 or a quantised model.")
        assert judged(llama, *args, "--max-model-len", "32768", gpus=[gpu(0), gpu(1)]).fits
        assert judged(llama, *args, "-tp", "2", gpus=[gpu(0), gpu(1)]).fits
        assert not judged(llama, *args, "--max-model-len", str(50_000)).fits

    def test_a_larger_share_helps(self, llama):
        found = judged(llama, "--gpu-memory-utilization", "0.7")
        assert found.outcome is Outcome.TOO_LARGE
        assert found.verdict.endswith("Try --gpu-memory-utilization 0.79 or a quantised model.")
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
        assert (found.outcome, found.fits) == (Outcome.NOT_NOW, False)
        assert found.verdict == (
            "Does not fit now: wants 22.1 GiB free, and GPU 0 has 21.5 GiB. "
            "Try --gpu-memory-utilization 0.85 or a quantised model."
        )
        assert judged(llama, "--gpu-memory-utilization", "0.85", gpus=[gpu(free=21.5)]).fits

    def test_the_estimate_cannot_tell(self, llama):
        found = judged(llama, "--gpu-memory-utilization", "0.75")
        assert (found.outcome, found.fits) == (Outcome.CLOSE, None)
        assert found.verdict.startswith(
            "It may just fit: needs 17.0 to 19.0 GiB, and has 18.0 GiB on GPU 0. Try "
        )

    def test_the_tightest_of_several(self, llama):
        found = judged(llama, "-tp", "2", gpus=[gpu(0, 24), gpu(1, 8), gpu(2, 24)])
        assert "vLLM may use 7.4 GiB of GPU 1" in found.verdict
        assert len(found.gpus) == 2

    def test_too_few_gpus(self, llama):
        found = judged(llama, "-tp", "4", gpus=[gpu(0), gpu(1)])
        assert (found.outcome, found.fits) == (Outcome.UNKNOWN, None)
        assert found.verdict.startswith(
            "It cannot be told: it takes 4 GPUs, and the memory of 2 is known. Each"
        )

    def test_a_gpu_that_does_not_tell(self, llama):
        found = judged(llama, gpus=[replace(gpu(), total=None, used=None, free=None)])
        assert (found.outcome, found.gpus) == (Outcome.UNKNOWN, ())
        assert "it takes 1 GPU, and the memory of 0 is known" in found.verdict

    def test_a_context_that_the_model_does_not_know(self, llama):
        found = judged(llama, "--max-model-len", "9000")
        assert (found.outcome, found.fits) == (Outcome.REFUSED, False)
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
        assert (found.outcome, found.kv_room) == (Outcome.FITS, 2 * GIB)
        assert found.requests == 1024 / 500
        too_small = judged(llama, "--kv-cache-memory-bytes", "1G")  # one block is never used
        assert too_small.outcome is Outcome.TOO_LARGE
        assert "needs 1.00 GiB, and has 1.00 GiB" in too_small.verdict
        assert judged(llama, "--kv-cache-memory-bytes", "9G").outcome is Outcome.NOT_NOW
        assert judged(llama, "--kv-cache-memory-bytes", "7G").outcome is Outcome.CLOSE

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
            Outcome.UNKNOWN,
            None,
            None,
            None,
        )
        assert found.verdict.startswith(
            "No GPU is in sight to compare with. A GPU needs 17.0 to 19.0 GiB for one"
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
        assert fit(ServerSpec(llama), {"VLLM_CPU_KVCACHE_SPACE": space}, NO_GPU).outcome is Outcome.UNKNOWN


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
            ('{"num_hidden_layers": 1e9}', "num_hidden_layers in config.json is no number"),
        ],
    )
    def test_a_config_that_says_nothing(self, tmp_path, config, says):
        model = checkpoints.model(tmp_path / "m", LLAMA)
        (model / "config.json").write_text(config)
        with pytest.raises(NoEstimate, match=says) as caught:
            judged(str(model))
        assert str(caught.value).isprintable()

    def test_a_folder_without_a_model(self, tmp_path):
        with pytest.raises(NoEstimate, match=r"config\.json cannot be read: No such file"):
            judged(str(tmp_path))

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(NoEstimate, match="there is no model at"):
            fit(ServerSpec(str(tmp_path / "none")), {}, NO_GPU)

    @pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
    def test_going_online_is_forbidden(self, tmp_path, name):
        with pytest.raises(NoEstimate, match="some/model is not on this machine, and HF_HUB_OFFLINE forbids"):
            fit(ServerSpec("some/model"), {"HF_HOME": str(tmp_path), name: "1"}, NO_GPU)


@pytest.fixture
def hub(tmp_path):
    """The Hub, played on the loopback address, and what `fit` needs to ask it."""
    with Hub(tmp_path / "served") as hub:
        hub.most = 10**6
        yield hub


# In a process of its own: huggingface_hub reads its variables when it is imported.
ASK = """
import json, sys, vllm_magic
try:
    found = vllm_magic.fit(*json.loads(sys.argv[1]))
    print(json.dumps([found.need.parameters, found.need.weights, found.need.source, found.need.kv.token]))
except vllm_magic.NoEstimate as error:
    print(json.dumps(str(error)))
"""


def asked(hub: Hub, home: Path, *words: str, **environ: str):
    """What `vllm_magic.fit` says of a model that only the Hub has."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", ASK, json.dumps(words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            **environ,
        },
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""  # no bar, no warning
    return json.loads(ended.stdout)


class TestHub:
    PARAMETERS = 8_030_261_248

    def test_one_file(self, hub, tmp_path):
        checkpoints.model(hub.folder / "some" / "llama", LLAMA)
        found = asked(hub, tmp_path / "home", "some/llama")
        assert found == [
            self.PARAMETERS,
            2 * self.PARAMETERS,
            "the headers of the safetensors files",
            131_072,
        ]
        assert hub.sent < 10**6

    def test_several_files(self, hub, tmp_path):
        folder = checkpoints.model(hub.folder / "some" / "llama", LLAMA, {})
        tensors = list(checkpoints.llama(LLAMA).items())
        where = {}
        for number in range(2):
            name = f"model-{number}.safetensors"
            checkpoints.safetensors(folder / name, dict(tensors[number::2]))
            where.update({tensor: name for tensor, _ in tensors[number::2]})
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
        assert asked(hub, tmp_path / "home", "some/llama")[0] == self.PARAMETERS

    def test_another_revision_and_a_token(self, hub, tmp_path):
        checkpoints.model(hub.folder / "some" / "llama", LLAMA)
        hub.revision, hub.token = "v2", "hf_" + "x" * 30
        assert "did not tell of some/llama" in asked(hub, tmp_path / "home", "some/llama", HF_TOKEN=hub.token)
        assert "did not tell of some/llama" in asked(hub, tmp_path / "home", "some/llama", "--revision", "v2")
        found = asked(hub, tmp_path / "home", "some/llama", "--revision", "v2", HF_TOKEN=hub.token)
        assert found[0] == self.PARAMETERS

    def test_files_of_torch(self, hub, tmp_path):
        folder = checkpoints.model(hub.folder / "some" / "llama", LLAMA, {})
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(bytes(5000))
        assert asked(hub, tmp_path / "home", "some/llama") == [None, 5000, "the sizes of the files", 131_072]

    def test_no_weights_that_are_known(self, hub, tmp_path):
        (checkpoints.model(hub.folder / "some" / "llama", LLAMA, {}) / "model.safetensors").unlink()
        assert "no weights of some/llama" in asked(hub, tmp_path / "home", "some/llama")

    def test_a_header_that_is_none(self, hub, tmp_path):
        folder = checkpoints.model(hub.folder / "some" / "llama", LLAMA, {})
        for raw in (b"", b"\xff" * 200, (2**40).to_bytes(8, "little") + b"{}"):
            (folder / "model.safetensors").write_bytes(raw)
            said = asked(hub, tmp_path / "home", "some/llama")
            assert said.startswith("An estimate cannot be made: the Hub did not tell of some/llama: ")
            assert said.isprintable()

    def test_what_the_hub_does_not_have(self, hub, tmp_path):
        said = asked(hub, tmp_path / "home", "some/other")
        assert said.startswith("An estimate cannot be made: the Hub did not tell of some/other: ")
        assert said.isprintable()

    def test_nobody_answers(self, hub, tmp_path):
        hub.close()
        said = asked(hub, tmp_path / "home", "some/llama")
        assert said.startswith("An estimate cannot be made: the Hub did not tell of some/llama: ")

    def test_it_is_not_asked_when_that_is_forbidden(self, hub, tmp_path):
        checkpoints.model(hub.folder / "some" / "llama", LLAMA)
        assert "forbids" in asked(hub, tmp_path / "home", "some/llama", HF_HUB_OFFLINE="1")
        assert hub.requests == 0

    def test_what_was_downloaded_is_not_asked_for(self, hub, tmp_path):
        """Only config.json is in the cache at first, as after a look at the Hub."""
        checkpoints.model(hub.folder / "some" / "llama", LLAMA)
        assert asked(hub, tmp_path / "home", "some/llama")[0] == self.PARAMETERS
        requests = hub.requests
        assert asked(hub, tmp_path / "home", "some/llama")[0] == self.PARAMETERS
        assert hub.requests > requests
        (snapshot,) = (tmp_path / "home" / "hub" / "models--some--llama" / "snapshots").iterdir()
        (snapshot / "model.safetensors").symlink_to(hub.folder / "some" / "llama" / "model.safetensors")
        requests = hub.requests
        assert asked(hub, tmp_path / "home", "some/llama")[0] == self.PARAMETERS
        assert hub.requests == requests


def test_without_huggingface_hub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(NoEstimate, match="To ask the Hub for it: pip install huggingface_hub"):
        fit(ServerSpec("some/model"), {"HF_HOME": str(tmp_path)}, NO_GPU)


def shown(shell, value) -> tuple[str, str]:
    data = shell.display_formatter.format(value)[0]
    return data["text/plain"], data["text/html"]


class TestMagic:
    def test_a_table(self, shell, fake_gpus, llama):
        with fakegpu.holding(fake_gpus, 2, 1):
            found = shell.run_line_magic("vllm", f"fit {llama} --gpus 1,0 -tp 2")
        plain, html = shown(shell, found)
        assert "vLLM may use" in plain
        assert "22.00 GiB" in plain
        assert "8,030,261,248 parameters, by the headers of the safetensors files" in plain
        assert "65,536 bytes a token on each GPU (16 bits, blocks of 16 tokens)" in plain
        assert "Exact: the KV cache of a request." in plain
        assert "<table>" in html
        assert vllm_magic.fit(llama, "-tp", "2", gpus="1,0").need == found.need

    def test_what_comes_from_outside_is_escaped(self, shell, tmp_path):
        model = checkpoints.model(tmp_path / "m", {**LLAMA, "quantization_config": {"quant_method": EVIL}})
        with capture_output():
            found = shell.run_line_magic("vllm", f"fit {model} --kv-cache-dtype '{EVIL}'")
        assert EVIL in shown(shell, found)[0]
        assert EVIL not in shown(shell, found)[1]

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("fit", "%vllm fit MODEL"),
            ("fit --max-model-len 8 tiny", "%vllm fit MODEL"),
            ("fit {llama} --max-model-len x", "no length"),
            ("fit {llama} --gpus 9", "GPU"),
        ],
    )
    def test_mistakes_are_one_line(self, shell, llama, line, says):
        shell.user_ns["llama"] = llama
        with pytest.raises(UsageError, match=says):
            shell.run_line_magic("vllm", line)

    def test_no_estimate_is_one_line(self, shell, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with capture_output() as seen:
            shell.run_cell("%vllm fit some/model-that-nobody-has")
        assert (
            "NoEstimate: An estimate cannot be made: some/model-that-nobody-has is not on this" in seen.stdout
        )
        assert "Traceback" not in seen.stdout


WARNING = "llama will probably not start. Does not fit: needs "


class TestWarning:
    @pytest.fixture(autouse=True)
    def small_gpus(self, fake_gpus):
        fakegpu.configure(fake_gpus, total_mib=16384)

    def test_a_start_that_will_fail_is_warned_of_and_goes_on(self, shell, llama):
        with capture_output() as seen:
            server = shell.run_line_magic("vllm", f"start {llama}")
        assert server.state == "ready"  # the stand-in holds less than a model would
        assert seen.stdout.count(WARNING) == 1
        assert seen.stdout.index(WARNING) < seen.stdout.index("is ready after")
        assert "(%vllm fit shows more.)" in seen.stdout
        with capture_output() as seen:
            assert shell.run_line_magic("vllm", f"start {llama}") is server
        assert "probably" not in seen.stdout  # it runs already

    def test_without_waiting(self, shell, llama, monkeypatch):
        monkeypatch.setattr("vllm_magic.jupyter.running.FORESIGHT", 60.0)
        with capture_output() as seen:
            shell.run_line_magic("vllm", f"start {llama} --no-wait")
        assert WARNING in seen.stdout

    def test_a_start_that_fits_is_not(self, shell, llama):
        with capture_output() as seen:
            shell.run_line_magic("vllm", f"start {llama} -tp 2 --max-model-len 512")
        assert "probably" not in seen.stdout

    @pytest.mark.parametrize(
        ("model", "args"),
        [
            ("tiny", ()),  # not on this machine
            ("LLAMA", ("--max-model-len", "strange")),
            ("LLAMA", ("-tp", "2")),
            ("BROKEN", ()),
        ],
    )
    def test_who_is_not_warned(self, manager, llama, tmp_path, model, args):
        broken = checkpoints.model(tmp_path / "broken", LLAMA)
        (broken / "model.safetensors").write_bytes(b"\xff" * 100)
        model = {"LLAMA": llama, "BROKEN": str(broken)}.get(model, model)
        assert not manager.foresee(ServerSpec(model, args)).warning(60)

    def test_memory_that_others_hold_is_not_its_business(self, manager, llama, fake_gpus):
        fakegpu.configure(fake_gpus, total_mib=24576)
        with fakegpu.holding(fake_gpus, 4, 0):
            assert manager.fit(ServerSpec(llama)).outcome is Outcome.NOT_NOW
            assert not manager.foresee(ServerSpec(llama)).warning(60)

    def test_it_goes_online_never(self, manager, hub, tmp_path, monkeypatch):
        checkpoints.model(hub.folder / "some" / "llama", LLAMA)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        manager.foresee(ServerSpec("some/llama")).warning(60)
        cached = tmp_path / "home" / "hub" / "models--some--llama"
        (cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("a" * 40)
        assert not manager.foresee(ServerSpec("some/llama")).warning(60)
        assert hub.requests == 0

    def test_a_slow_driver_does_not_hold_up_a_start(self, llama):
        """The estimate waits, and the one who starts does not."""
        asked, answer = threading.Event(), threading.Event()

        class Slow:
            def snapshot(self) -> Snapshot:
                asked.set()
                answer.wait(60)
                return Snapshot(0.0, (gpu(total=16),), None, None)

        foresight = Foresight(ServerSpec(llama), Slow())
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
        assert not Foresight(ServerSpec(llama), Probe()).warning()


def test_a_fit_in_a_program(fake_gpus, home, llama):
    vllm_magic.manager.manager.probe.close()  # it may have looked at other GPUs before
    found = vllm_magic.fit(llama, "--max-model-len", "4096")
    assert isinstance(found, vllm_magic.Fit)
    assert found.fits
    assert "10 requests of 4,096 tokens" in views.fit(found).headline
    with pytest.raises(InvalidOption):
        vllm_magic.fit(llama, gpus="7")
    vllm_magic.manager.manager.probe.close()
