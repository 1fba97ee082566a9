"""Models in the notation of other programs are answered with the one of vLLM."""

from __future__ import annotations

import pytest

from vllm_magic.engine import similar_paths
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import foreign_names
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import StartFailed

OLLAMA = "is a name of Ollama, and vLLM takes the name on the Hub. "
URL = "is a URL that vLLM does not read. "


def check(tmp_path, model: str) -> None:
    (tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc").mkdir(parents=True, exist_ok=True)
    environ = {"HF_HUB_CACHE": str(tmp_path)}
    foreign_names.check(PlannedStart(ServerSpec(model, name="m", cwd=str(tmp_path)), environ, None))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("qwen3:0.6b", f"{OLLAMA}Did you mean Qwen/Qwen3-0.6B?"),
        ("library/qwen3:0.6b", f"{OLLAMA}Did you mean Qwen/Qwen3-0.6B?"),
        ("qwen3-0.6b:latest", f"{OLLAMA}Did you mean Qwen/Qwen3-0.6B?"),
        ("mistral:7b-instruct-q4_K_M", f"{OLLAMA}Give a name such as Qwen/Qwen3-0.6B; "),
        ("tiny:Q4_K_M", OLLAMA),
        ("hf.co/Qwen/Qwen3-GGUF:Q4_K_M", f"{OLLAMA}Give Qwen/Qwen3-GGUF"),
        ("ollama://qwen3:0.6b", f"{URL}Did you mean Qwen/Qwen3-0.6B?"),
        ("file:///models/a%20b", f"{URL}Give the path: /models/a b"),
        ("hf://Qwen/Qwen3-0.6B", f"{URL}Give Qwen/Qwen3-0.6B"),
        ("https://example.org/model", f"{URL}Give a name on the Hub"),
        ("C:\\models\\x", "is a path of Windows. vLLM runs on Linux"),
        ("d:/models/x", "is a path of Windows. vLLM runs on Linux"),
    ],
)
def test_another_notation(tmp_path, model, said):
    with pytest.raises(StartFailed) as refused:
        check(tmp_path, model)
    assert str(refused.value).startswith(f"{model} {said}")


def test_a_path_of_windows_that_is_mounted(tmp_path, monkeypatch):
    monkeypatch.setattr(similar_paths, "exists", lambda path, _: path == "/mnt/c/models/x")
    with pytest.raises(StartFailed, match="Give /mnt/c/models/x"):
        check(tmp_path, "C:\\models\\x")


@pytest.mark.parametrize(
    "model",
    [
        "Qwen/Qwen3-0.6B",
        "gpt2",
        "Qwen/Qwen3-GGUF:Q4_K_M",
        "unsloth/Qwen3-GGUF:UD-Q4_K_XL",
        "unsloth/Qwen3-GGUF:BF16",
        "https://example.org/model.gguf",
        "s3://bucket/model",
        "gs://bucket/model",
        "az://bucket/model",
        "of-a-plugin://model",
    ],
)
def test_what_vllm_or_a_plugin_may_read(tmp_path, model):
    check(tmp_path, model)
