"""`%vllm fit`: what a model needs against what there is, what would help, and the warning of a start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import checkpoints
import pytest
from fake_gpu import fakegpu
from hub_on_loopback import Hub
from IPython.core.error import UsageError
from IPython.utils.capture import capture_output

import vllm_magic
from vllm_magic.engine.capacity.advice import FitOutcome
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption

LLAMA = checkpoints.LLAMA_3_8B
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    """Llama-3-8B: 15 GiB of weights, 131,072 bytes of KV cache a token."""
    return str(checkpoints.model(tmp_path_factory.mktemp("models") / "llama", LLAMA))


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
        assert "gave no data of some/llama" in asked(hub, tmp_path / "home", "some/llama", HF_TOKEN=hub.token)
        assert "gave no data of some/llama" in asked(hub, tmp_path / "home", "some/llama", "--revision", "v2")
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
            assert said.startswith("An estimate cannot be made: the Hub gave no data of some/llama: ")
            assert said.isprintable()

    def test_what_the_hub_does_not_have(self, hub, tmp_path):
        said = asked(hub, tmp_path / "home", "some/other")
        assert said.startswith("An estimate cannot be made: the Hub gave no data of some/other: ")
        assert said.isprintable()

    def test_nobody_answers(self, hub, tmp_path):
        hub.close()
        said = asked(hub, tmp_path / "home", "some/llama")
        assert said.startswith("An estimate cannot be made: the Hub gave no data of some/llama: ")

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
            ("fit {llama} --max-model-len x", "is not a length"),
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
        monkeypatch.setattr("vllm_magic.jupyter.commands.lifecycle.WARNING_LIMIT", 60.0)
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
        assert not manager.warn_early(ServerSpec(model, args)).warning(60)

    def test_memory_that_others_hold_is_not_its_business(self, manager, llama, fake_gpus):
        fakegpu.configure(fake_gpus, total_mib=24576)
        with fakegpu.holding(fake_gpus, 4, 0):
            assert manager.fit(ServerSpec(llama)).outcome is FitOutcome.NOT_NOW
            assert not manager.warn_early(ServerSpec(llama)).warning(60)

    def test_it_goes_online_never(self, manager, hub, tmp_path, monkeypatch):
        checkpoints.model(hub.folder / "some" / "llama", LLAMA)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        manager.warn_early(ServerSpec("some/llama")).warning(60)
        cached = tmp_path / "home" / "hub" / "models--some--llama"
        (cached / "snapshots" / ("a" * 40)).mkdir(parents=True)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("a" * 40)
        assert not manager.warn_early(ServerSpec("some/llama")).warning(60)
        assert hub.requests == 0


def test_a_fit_in_a_program(fake_gpus, home, llama):
    vllm_magic.manager.manager.manager.probe.close()  # it may have looked at other GPUs before
    found = vllm_magic.fit(llama, "--max-model-len", "4096")
    assert isinstance(found, vllm_magic.Fit)
    assert found.fits
    assert "10 requests of 4,096 tokens" in found.view().headline
    with pytest.raises(InvalidOption):
        vllm_magic.fit(llama, gpus="7")
    vllm_magic.manager.manager.manager.probe.close()
