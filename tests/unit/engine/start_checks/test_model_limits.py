"""What a model cannot do is said before the start, by its config.json; where vLLM may see it otherwise, nothing is said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from vllm_magic.engine.capacity.architecture import ANY_LENGTH
from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import model_limits
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import InvalidOption, StartFailed

if TYPE_CHECKING:
    from pathlib import Path

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "hidden_size": 896,
    "max_position_embeddings": 4096,
}
TABLE = FlagTable(
    "0.32.0",
    (FlagOption(("--max-model-len",), "int"),),
    ("LlamaForCausalLM", "Qwen2ForCausalLM", "BertModel", "Terratorch"),
)


@pytest.fixture
def check(tmp_path):
    """Return a function that checks a start of a model with this config.json."""

    def make(*args: str, table: FlagTable | None = TABLE, env: dict | None = None, **config: Any) -> None:
        folder = model(tmp_path, **config)
        start = PlannedStart(ServerSpec(str(folder), args), env or {}, "/nowhere/vllm")
        start.table = table
        model_limits.check(start)

    return make


def model(tmp_path: Path, **config: Any) -> Path:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    return folder


def yarn(**more: Any) -> dict[str, Any]:
    return {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, **more}}


class TestLength:
    @pytest.mark.parametrize(
        ("words", "config"),
        [
            ("--max-model-len 4096", {}),
            ("--max-model-len 4k", {}),
            ("--max-model-len -1", {}),
            ("--max-model-len auto", {}),
            ("--max-model-len many", {}),  # another check says so
            ("--max-model-len 8192", {"max_position_embeddings": None}),
            ("--max-model-len 8192", {"model_max_length": 8192}),
            ("--max-model-len 8192", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
            ("--max-model-len 16384", yarn(original_max_position_embeddings=4096)),  # vLLM up to 0.28
            ('--max-model-len 8192 --hf-overrides {"max_position_embeddings":8192}', {}),
            ("--max-model-len 8192 --hf-overrides.max_position_embeddings 8192", {}),
            ("--max-model-len 8192 --hf-config-path /elsewhere", {}),
            ("--max-model-len 8192 --config-format mistral", {}),
            ("--max-model-len 8192", {"speculators_config": {}}),
            ("--max-model-len 8192", {"llm_config": {"max_position_embeddings": 1}}),
            ("--max-model-len 8192 --trust-remote-code", {"auto_map": {"AutoConfig": "a.B"}}),
            ("--max-model-len 8192", {"text_config": {"max_position_embeddings": 8192}}),
            ("--max-model-len 8192", {"max_position_embeddings": "4096"}),
        ],
    )
    def test_what_vllm_may_accept(self, check, words, config):
        check(*words.split(), **config)

    @pytest.mark.parametrize(
        ("words", "config", "longest"),
        [
            ("--max-model-len 4097", {}, 4096),
            ("--max_model_len=8k", {}, 4096),
            ("--max-model-len 1M", {}, 4096),
            ("--max-model-len 4097", {"model_max_length": 4096}, 4096),
            ("--max-model-len 2049", {"max_seq_len": 2048}, 2048),  # the smallest counts
            ("--max-model-len 8193", {"rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
            ("--max-model-len 4097", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 4096),
            ("--max-model-len 16385", yarn(), 16384),
            ("--max-model-len 4097", yarn(original_max_position_embeddings=1024), 4096),
            ('--max-model-len 4096 --hf-overrides {"max_position_embeddings":2048}', {}, 2048),
            ("--max-model-len 8193", {"text_config": {"max_position_embeddings": 8192}}, 8192),
        ],
    )
    def test_what_no_vllm_accepts(self, check, words, config, longest):
        with pytest.raises(
            InvalidOption, match=f"context of {longest} tokens. Use --max-model-len {longest}"
        ):
            check(*words.split(), **config)

    def test_the_user_may_insist(self, check):
        for value in ("0", "", "false"):
            with pytest.raises(InvalidOption):
                check("--max-model-len", "8192", env={ANY_LENGTH: value})
        check("--max-model-len", "8192", env={ANY_LENGTH: "1"})

    @pytest.mark.parametrize("name", ["params.json", "sentence_bert_config.json"])
    def test_a_model_with_another_configuration_beside(self, check, tmp_path, name):
        (model(tmp_path) / name).write_text("{}")
        check("--max-model-len", "8192")

    def test_no_model_here(self):
        for name in ("an/other", "/nowhere"):
            spec = ServerSpec(name, ("--max-model-len", "999999"))
            model_limits.check(PlannedStart(spec, {}, "/nowhere/vllm"))


class TestHeads:
    @pytest.mark.parametrize(
        ("words", "config"),
        [
            ("", {}),
            ("-tp 1", {}),
            ("-tp 4", {}),
            ("--tensor-parallel-size=28", {}),
            ("-tp many", {}),
            ("-tp 3", {"num_attention_heads": None, "model_type": "mamba"}),
            ("-tp 3", {"thinker_config": {"num_attention_heads": 28}}),
            ("-tp 3", {"model_type": "cohere_asr"}),
            ("-tp 3 --trust-remote-code", {"auto_map": {"AutoConfig": "a.B"}}),
            ('-tp 3 --hf-overrides {"num_attention_heads":27}', {}),
        ],
    )
    def test_what_vllm_may_accept(self, check, words, config):
        check(*words.split(), **config)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ("-tp 3", "--tensor-parallel-size 3 does not divide the model's 28 attention heads. Use 2 or 4."),
            ("--tensor-parallel-size=8", "Use 7 or 14."),
            ("-tp 56", "Use 28."),
        ],
    )
    def test_what_vllm_refuses(self, check, words, said):
        with pytest.raises(InvalidOption) as refused:
            check(*words.split())
        assert str(refused.value).endswith(said)

    def test_in_the_language_model_of_another(self, check):
        with pytest.raises(InvalidOption, match=r"16 attention heads. Use 2 or 4"):
            check("-tp", "3", text_config={**LLAMA, "num_attention_heads": 16})


class TestArchitecture:
    @pytest.mark.parametrize(
        ("words", "config"),
        [
            ("", {}),
            ("", {"architectures": None}),
            ("", {"architectures": ["ZorgForCausalLM", "LlamaForCausalLM"]}),
            ("", {"architectures": ["LlamaForSequenceClassification"]}),  # vLLM takes the one for the other
            ("", {"architectures": ["BertForMaskedLM"]}),
            ("", {"architectures": ["Terratorch"]}),
            ("", {"architectures": ["ZorgForCausalLM"], "auto_map": {"AutoModel": "a.B"}}),
            ("--model-impl transformers", {"architectures": ["ZorgForCausalLM"]}),
            ('--hf-overrides {"architectures":["LlamaForCausalLM"]}', {"architectures": ["ZorgForCausalLM"]}),
        ],
    )
    def test_what_vllm_may_serve(self, check, words, config):
        check(*words.split(), **config)

    @pytest.mark.parametrize("words", ["", "--model-impl vllm", "--model-impl auto"])
    def test_what_it_does_not_know(self, check, words):
        with pytest.raises(StartFailed) as refused:
            check(*words.split(), architectures=["ZorgForCausalLM"])
        assert refused.value.cause == "vLLM 0.32.0 does not know the model's architecture, ZorgForCausalLM"
        assert refused.value.hint.startswith("Use a newer vLLM")

    @pytest.mark.parametrize("table", [None, FlagTable("0.32.0", TABLE.options)])
    def test_where_the_architectures_are_not_known(self, check, table):
        check(table=table, architectures=["ZorgForCausalLM"])
