"""The memory that a model needs, by hand: what vLLM 0.32 keeps for each token, and what of the weights on each GPU."""

from __future__ import annotations

import contextlib

import checkpoints
import pytest
from architectures import (
    DEEPSEEK_V3,
    FALCON_7B,
    GEMMA_2_9B,
    GEMMA_3_4B,
    GPT_2,
    GPT_OSS_20B,
    LLAMA_3_8B,
    LLAMA_3_70B,
    MISTRAL_7B,
    QWEN3_06B,
    QWEN3_NEXT,
    QWEN25_7B,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllm_magic.engine.capacity import architecture, sharding, weights
from vllm_magic.engine.capacity.kv_cache import layout
from vllm_magic.engine.capacity.layers import Layer
from vllm_magic.engine.capacity.memory_need import need
from vllm_magic.errors import InvalidOption, NoEstimate

GIB = 2**30
many = settings(max_examples=200, derandomize=True, deadline=None, database=None)

NO_WEIGHTS = weights.Weights(0, (), "nothing")


def of(config: dict, *args: str, memory: int | None = 24 * GIB, stored=NO_WEIGHTS):
    return need(config, stored, args, memory)


@pytest.mark.parametrize(
    ("config", "token"),
    [
        (LLAMA_3_8B, 2 * 32 * 8 * 128 * 2),  # keys and values, layers, heads, head size, bytes: 131,072
        (LLAMA_3_70B, 2 * 80 * 8 * 128 * 2),  # 327,680
        (QWEN3_06B, 2 * 28 * 8 * 128 * 2),  # 114,688; its heads are larger than hidden_size / heads
        (QWEN25_7B, 2 * 28 * 4 * 128 * 2),  # 57,344; its window is not used
        (DEEPSEEK_V3, 61 * (512 + 64) * 2),  # 70,272; one latent vector for keys and values
        (GPT_OSS_20B, 2 * 12 * 8 * 64 * 2),  # 24,576; the other 12 layers keep a window
        (QWEN3_NEXT, 2 * 12 * 2 * 256 * 2),  # 24,576; every fourth layer has attention
        (FALCON_7B, 2 * 32 * 1 * 64 * 2),  # 8,192; one head
        (GPT_2, 2 * 12 * 12 * 64 * 2),  # 36,864; as many heads as there are
        (MISTRAL_7B, 0),  # no layer keeps all tokens
    ],
    ids=lambda value: value.get("model_type", "") if isinstance(value, dict) else value,
)
def test_bytes_a_token(config, token):
    assert of(config).kv.token == token
    assert of(config, "--kv-cache-dtype", "fp8").kv.token == token // 2
    assert of(config, "--dtype", "float32").kv.token == 2 * token
    assert of(config, "--dtype", "float32", "--kv-cache-dtype", "bfloat16").kv.token == token


@pytest.mark.parametrize(
    ("config", "args", "token"),
    [
        (LLAMA_3_70B, ("-tp", "2"), 327_680 // 2),
        (LLAMA_3_70B, ("-tp", "8"), 327_680 // 8),
        (LLAMA_3_70B, ("-tp", "16"), 327_680 // 8),  # of 8 heads each GPU keeps one; two keep the same
        (LLAMA_3_70B, ("-pp", "2"), 327_680 // 2),
        (LLAMA_3_70B, ("-pp", "3"), 327_680 * 27 // 80),  # 27, 27 and 26 layers
        (LLAMA_3_70B, ("-tp", "4", "-pp", "2"), 327_680 // 8),
        (LLAMA_3_70B, ("-dp", "4"), 327_680),  # each replica has all of it
        (DEEPSEEK_V3, ("-tp", "8"), 70_272),  # the latent vector is on each GPU
        (DEEPSEEK_V3, ("-pp", "2"), 31 * 576 * 2),
    ],
)
def test_bytes_a_token_on_one_of_several_gpus(config, args, token):
    found = of(config, *args)
    assert found.kv.token == token
    assert found.kv_doubts == ()


class TestRequests:
    def test_one_request_takes_whole_blocks(self):
        kv = of(LLAMA_3_8B, "--max-model-len", "8192").kv
        assert kv.request(8192) == 8192 * 131_072
        assert kv.request(8193) == kv.request(8208) == 513 * 16 * 131_072
        assert kv.needed(8192) == 513 * 16 * 131_072  # one block is never used

    def test_how_many_are_in_it_at_once(self):
        kv = of(LLAMA_3_8B).kv
        assert kv.requests(12 * GIB, 8192) == 12.0
        assert kv.requests(12 * GIB + 1, 8192) == 12.0
        assert kv.requests(12 * GIB - 1, 8192) == (6144 - 1) / 512
        assert kv.requests(-GIB, 8192) == 0

    def test_the_longest_that_has_room(self):
        kv = of(LLAMA_3_8B).kv
        assert kv.longest(GIB, 131_072) == 8192 - 16
        assert kv.longest(GIB, 4096) == 4096
        assert kv.longest(0, 4096) == kv.longest(-GIB, 4096) == kv.longest(16 * 131_072, 4096) == 0

    def test_a_block_is_as_long_as_it_is_told(self):
        assert of(LLAMA_3_8B, "--block-size", "64").kv.block == 64 * 131_072
        assert of(LLAMA_3_8B, memory=None).kv.block_size == 128  # vLLM's CPU build

    def test_windows_alone(self):
        """Mistral: 4,095 tokens before the one that is computed, and two batches of 2,048 on their way."""
        kv = of(MISTRAL_7B).kv
        kept = 4095 + 2 * 2048
        assert kv.groups == (kept,)
        assert kv.request(100_000) == (-(-kept // 16) + 1) * 16 * 131_072
        assert kv.request(16) == 2 * 16 * 131_072
        assert of(MISTRAL_7B, "--max-num-batched-tokens", "1024").kv.groups == (4095 + 2048,)
        assert of(MISTRAL_7B, memory=80 * GIB).kv.groups == (4095 + 2 * 8192,)
        assert of(MISTRAL_7B, memory=180 * GIB).kv.groups == (4095 + 2 * 16384,)
        assert of(MISTRAL_7B, memory=None).kv.groups == (4095 + 2048,)

    def test_a_window_that_is_taken_away(self):
        found = of(MISTRAL_7B, "--disable-sliding-window")
        assert (found.kv.groups, found.kv.token, found.context) == ((None,), 131_072, 4096)

    def test_half_the_layers_have_windows(self):
        """gpt-oss: two groups of 12 layers, of which each takes blocks of its own."""
        kv = of(GPT_OSS_20B, "--max-num-batched-tokens", "2k").kv
        assert kv.block == 12 * 16 * 2 * 8 * 64 * 2
        assert kv.groups == (None, 127 + 2 * 2000)
        assert kv.request(131_072) == (8192 + 258 + 1) * kv.block

    def test_five_of_six_layers_have_windows(self):
        """Gemma 3: 5 layers keep all tokens and 29 a window: 6 groups of 5, of which the last is filled up."""
        found = of(GEMMA_3_4B)
        kv = found.kv
        assert found.model.layers.count(Layer.FULL) == 5
        assert kv.groups == (None, *[1023 + 2 * 2048] * 6)
        assert kv.block == 5 * 16 * 2 * 4 * 256 * 2
        assert found.context == 131_072  # not scaled once more

    def test_all_layers_keep_everything_where_vllm_is_told_so(self):
        kv = of(GEMMA_2_9B, "--disable-hybrid-kv-cache-manager").kv
        assert (kv.groups, kv.token) == ((None,), 42 * 2 * 8 * 256 * 2)
        assert of(GEMMA_2_9B).kv.token == 21 * 2 * 8 * 256 * 2

    @pytest.mark.parametrize(
        ("full", "sliding", "groups", "layers"),
        [
            (13, 12, 2, 13),
            (10, 20, 3, 10),
            (8, 12, 3, 8),
            (8, 11, 2, 11),
            (1, 0, 1, 1),
            (0, 7, 1, 7),
            (0, 0, 0, 0),
        ],
    )
    def test_groups_have_the_same_number_of_layers(self, full, sliding, groups, layers):
        """As in the examples of _get_kv_cache_groups_uniform_page_size."""
        kv = layout(full=full, sliding=sliding, window=9, page=1, block_size=1, in_flight=1)
        assert (len(kv.groups), kv.block) == (groups, layers)

    @many
    @given(
        st.builds(
            layout,
            full=st.integers(0, 9),
            sliding=st.integers(0, 9),
            window=st.integers(0, 50),
            page=st.integers(1, 9),
            block_size=st.integers(1, 20),
            in_flight=st.integers(0, 50),
            stages=st.integers(1, 4),
        ),
        st.integers(-10, 30_000),
        st.integers(1, 300),
    )
    def test_the_longest_is_the_longest(self, kv, room, most):
        longest = kv.longest(room, most)
        fitting = [tokens for tokens in range(1, most + 1) if kv.needed(tokens) <= room]
        assert longest == max(fitting, default=0)
        if kv.block and longest:
            assert kv.requests(room, longest) > 1


@pytest.mark.parametrize(
    ("changed", "layers"),
    [
        ({"model_type": "bert"}, ()),
        ({"model_type": "falcon_mamba"}, (Layer.STATE,) * 4),
        ({"hybrid_override_pattern": "M-*M"}, (Layer.STATE, Layer.FULL, Layer.STATE)),
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, (Layer.STATE, Layer.FULL) * 2),
        ({"layers_block_type": ["mamba", "hybrid", "mamba", "attention"]}, (Layer.STATE, Layer.FULL) * 2),
        ({"layer_types": ["linear_attention", "full_attention"] * 2}, (Layer.STATE, Layer.FULL) * 2),
        ({"layer_types": ["chunked_attention"] * 4}, (Layer.FULL,) * 4),
        ({"layer_types": ["sliding_attention"] * 4}, (Layer.FULL,) * 4),  # without a window
        ({"layer_types": ["sliding_attention"] * 4, "sliding_window": 9}, (Layer.SLIDING,) * 4),
        ({"sliding_window": 9, "sliding_window_pattern": 2}, (Layer.SLIDING, Layer.FULL) * 2),
        ({"sliding_window": 0}, (Layer.FULL,) * 4),
        ({"sliding_window": 9, "use_sliding_window": False}, (Layer.FULL,) * 4),
        (
            {"model_type": "qwen2", "sliding_window": 9, "use_sliding_window": True, "max_window_layers": 3},
            (*[Layer.FULL] * 3, Layer.SLIDING),
        ),
        ({"num_kv_shared_layers": 1}, (Layer.FULL,) * 3),
    ],
    ids=str,
)
def test_what_layers_keep(changed, layers):
    found = architecture.read({**LLAMA_3_8B, "num_hidden_layers": 4, **changed})
    assert found.layers == layers
    assert found.depth == 4


@pytest.mark.parametrize(
    ("changed", "longest", "context"),
    [
        ({}, 8192, 8192),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 16384, 16384),
        ({"rope_parameters": {"full_attention": {"rope_type": "dynamic", "factor": 4}}}, 32768, 32768),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 8192, 8192),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 8192, 8192),
        (
            {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096},
            8192,
            4096,
        ),
        ({"max_position_embeddings": None}, 2048, 2048),
        ({"seq_length": 100}, 100, 100),
        ({"model_max_length": 131072}, 131072, 131072),
    ],
    ids=str,
)
def test_the_context_of_a_model(changed, longest, context):
    found = architecture.read({**LLAMA_3_8B, **changed})
    assert (found.longest, found.context) == (longest, context)


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ("4096", 4096),
        ("32k", 32_000),
        ("25.6k", 25_600),
        ("32K", 32_768),
        ("1M", 2**20),
        ("auto", 8192),
        ("-1", 8192),
    ],
)
def test_the_context_that_is_asked_for(said, tokens):
    found = of(LLAMA_3_8B, "--max-model-len", said)
    assert (found.context, found.automatic) == (tokens, said in {"auto", "-1"})


@pytest.mark.parametrize(
    "args",
    [
        ("--max-model-len", "many"),
        ("--max-model-len", "1.5K"),
        ("--max-model-len", "0"),
        ("--max-model-len", "999T"),
        ("--dtype", "strange"),
        ("--gpu-memory-utilization", "1.5"),
        ("--gpu-memory-utilization", "much"),
        ("-tp", "0"),
        ("-pp", "9" * 50),
        ("--hf-overrides", "{"),
    ],
)
def test_what_vllm_refuses(args):
    with pytest.raises(InvalidOption) as caught:
        of(LLAMA_3_8B, *args)
    assert "\n" not in str(caught.value)


def test_flags_that_change_the_model():
    assert of(LLAMA_3_8B, "--hf-overrides", '{"num_key_value_heads": 4}').kv.token == 65_536
    rope = '{"rope_scaling": {"factor": 2.0}}'
    config = {**LLAMA_3_8B, "rope_scaling": {"type": "linear", "factor": 8.0}}
    assert of(config, "--hf-overrides", rope).context == 16_384


@pytest.mark.parametrize(
    ("quantization", "token", "dtype"),
    [
        ({"quant_method": "fp8"}, 131_072, "16 bits"),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}, 65_536, "fp8"),
        ({"quant_method": "modelopt", "quantization": {"kv_cache_quant_algo": "FP8"}}, 65_536, "fp8"),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}, 131_072 * 9 // 32, "nvfp4"),
    ],
)
def test_a_checkpoint_that_asks_for_a_type_of_kv_cache(quantization, token, dtype):
    config = {**LLAMA_3_8B, "quantization_config": quantization}
    assert (of(config).kv.token, of(config).kv_dtype) == (token, dtype)
    assert of(config, "--kv-cache-dtype", "bfloat16").kv.token == 131_072


@pytest.mark.parametrize(
    ("config", "args", "doubt"),
    [
        (LLAMA_3_8B, ("--kv-cache-dtype", "fp8_per_token_head"), "besides its numbers"),
        (QWEN3_NEXT, (), "states of its layers"),
        (MISTRAL_7B, (), "--max-num-batched-tokens"),
        ({**DEEPSEEK_V3, "index_topk": 2048}, (), "indexer"),
        ({**LLAMA_3_8B, "is_encoder_decoder": True}, (), "encoder"),
    ],
)
def test_what_is_in_doubt(config, args, doubt):
    assert doubt in " ".join(of(config, *args).kv_doubts)


def test_what_is_not_counted():
    doubts = of(LLAMA_3_8B, "--enable-lora", "-tp", "2", stored=stored(LLAMA_3_8B)).doubts
    assert doubts == (
        "how the weights are divided among the GPUs",
        "what --enable-lora changes is not counted",
    )


def stored(config: dict, dtype: str = "BF16", **more) -> weights.Weights:
    tensors = {**checkpoints.llama(config, dtype), **more}
    return weights.of_tensors(weights.tensor(name, *one) for name, one in tensors.items())


class TestWeights:
    PARAMETERS = 8_030_261_248
    NORMS = 65 * 4096  # numbers in vectors
    EMBEDDING = 128256 * 4096

    def test_on_one_gpu(self):
        found = of(LLAMA_3_8B, stored=stored(LLAMA_3_8B))
        assert (found.parameters, found.weights) == (self.PARAMETERS, 2 * self.PARAMETERS)

    def test_vllm_makes_16_bits_of_32(self):
        assert of(LLAMA_3_8B, stored=stored(LLAMA_3_8B, "F32")).weights == 2 * self.PARAMETERS
        assert of(LLAMA_3_8B, "--dtype", "float32", stored=stored(LLAMA_3_8B)).weights == 4 * self.PARAMETERS

    def test_matrices_are_divided_and_vectors_are_not(self):
        found = of(LLAMA_3_8B, "-tp", "4", stored=stored(LLAMA_3_8B))
        assert found.weights == 2 * (self.PARAMETERS - self.NORMS) // 4 + 2 * self.NORMS
        assert found.gpus == 4

    def test_heads_that_are_on_several_gpus(self):
        keys = 2 * 32 * 1024 * 4096  # numbers, of keys and values
        found = of(LLAMA_3_8B, "-tp", "16", stored=stored(LLAMA_3_8B))
        rest = self.PARAMETERS - self.NORMS - keys
        assert found.weights == 2 * rest // 16 + 2 * keys // 8 + 2 * self.NORMS

    def test_the_pipeline_is_as_heavy_as_its_heaviest_stage(self):
        layer = (self.PARAMETERS - 2 * self.EMBEDDING - 4096) // 32
        found = of(LLAMA_3_8B, "-pp", "2", stored=stored(LLAMA_3_8B))
        assert found.weights == 2 * (16 * layer + self.EMBEDDING + 4096)  # the last has the norm besides
        found = of(LLAMA_3_8B, "-pp", "3", stored=stored(LLAMA_3_8B))
        assert found.weights == 2 * (11 * layer + self.EMBEDDING)  # 11, 11 and 10 layers

    def test_a_copy_of_the_embedding_is_not_loaded(self):
        config = {**LLAMA_3_8B, "tie_word_embeddings": True}
        copied = stored(config, **{"lm_head.weight": ("BF16", [128256, 4096])})
        assert of(config, stored=copied).parameters == self.PARAMETERS - self.EMBEDDING
        assert (
            of(config, "-pp", "2", stored=copied).weights > self.PARAMETERS - self.EMBEDDING
        )  # on both ends

    def test_layers_for_drafts_are_not_loaded(self):
        drafts = {"model.layers.32.mlp.up_proj.weight": ("BF16", [9, 9]), "mtp.layers.0.x": ("BF16", [9, 9])}
        assert of(LLAMA_3_8B, stored=stored(LLAMA_3_8B, **drafts)).parameters == self.PARAMETERS

    def test_what_is_stored_in_few_bits_stays_so(self):
        config = {**LLAMA_3_8B, "quantization_config": {"quant_method": "fp8"}}
        found = of(config, "--dtype", "bfloat16", stored=stored(config, "F8_E4M3"))
        assert (found.parameters, found.weights) == (None, self.PARAMETERS)

    def test_what_vllm_quantizes_itself(self):
        matrices = self.PARAMETERS - self.NORMS - 2 * self.EMBEDDING
        for name, part in (("fp8", 1), ("fp8_per_block", 1), ("bitsandbytes", 9 / 16)):
            found = of(LLAMA_3_8B, "--quantization", name, stored=stored(LLAMA_3_8B))
            assert found.weights == part * matrices + 2 * (self.PARAMETERS - matrices)
            assert found.doubts == ("what the weights take once vLLM has quantized them",)

    def test_only_the_size_is_known(self):
        found = of(LLAMA_3_8B, "-tp", "2", "-pp", "2", stored=weights.of_files([1000, 1000]))
        assert (found.weights, found.parameters) == (500, None)
        assert found.doubts == ("the weights, which are known by the sizes of the files only",)

    def test_what_stays_in_the_machines_memory(self):
        full = stored(LLAMA_3_8B)
        assert of(LLAMA_3_8B, "--cpu-offload-gb", "4", stored=full).weights == 2 * self.PARAMETERS - 4 * GIB
        for count in ("1e308", "-1", "x"):
            assert 0 <= of(LLAMA_3_8B, "--cpu-offload-gb", count, stored=full).weights <= 2 * self.PARAMETERS

    @pytest.mark.parametrize(
        ("name", "layer"),
        [
            ("model.layers.7.mlp.up_proj.weight", 7),
            ("model.language_model.layers.7.x", 7),
            ("language_model.model.layers.7.x", 7),
            ("transformer.h.7.x", 7),
            ("gpt_neox.layers.7.x", 7),
            ("model.visual.blocks.7.x", None),
            ("vision_tower.encoder.layers.7.x", None),
            ("model.embed_tokens.weight", None),
            ("model.layers.9999999.x", None),
        ],
    )
    def test_the_layer_of_a_tensor(self, name, layer):
        assert sharding._layer(name) == layer


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    sorted({
        *LLAMA_3_8B, *DEEPSEEK_V3, *GPT_OSS_20B, *GEMMA_3_4B, *QWEN3_NEXT, *FALCON_7B, *GPT_2,
        "rope_parameters", "quantization_config", "compression_config", "layers_block_type", "attn_layer_period",
        "attn_layer_offset", "hybrid_override_pattern", "sliding_window_pattern", "max_window_layers", "index_topk",
        "num_kv_shared_layers", "model_max_length", "original_max_position_embeddings", "is_encoder_decoder",
    })
)  # fmt: skip


@many
@given(
    st.sampled_from([{}, LLAMA_3_8B, DEEPSEEK_V3, GPT_OSS_20B, GEMMA_3_4B, QWEN3_NEXT]),
    st.dictionaries(keys, anything, max_size=4),
    st.sampled_from([None, 24 * GIB]),
)
@example(LLAMA_3_8B, {"num_hidden_layers": 10**9}, None)
@example(LLAMA_3_8B, {"num_hidden_layers": 10**5000}, None)
@example(LLAMA_3_8B, {"head_dim": -1}, None)
@example(LLAMA_3_8B, {"rope_scaling": {"type": "linear", "factor": float("nan")}}, None)
@example(LLAMA_3_8B, {"rope_scaling": {"type": "linear", "factor": 1e-300}}, None)
@example(LLAMA_3_8B, {"layer_types": [[]] * 32}, None)
@example(LLAMA_3_8B, {"num_attention_heads": 0, "num_key_value_heads": 0}, None)
@example({}, {"text_config": {"text_config": {}}}, None)
def test_any_config(config, changed, memory):
    with contextlib.suppress(NoEstimate):
        found = of(
            {**config, **changed}, "-tp", "2", "-pp", "2", memory=memory, stored=weights.of_files([10])
        )
        assert 0 <= found.kv.needed(found.context) < 10**60
        assert 0 <= found.kv.longest(GIB, found.model.longest) <= found.model.longest
        assert all(isinstance(doubt, str) for doubt in (*found.kv_doubts, *found.doubts))


@many
@given(
    st.lists(
        st.sampled_from(
            ["--max-model-len", "-tp", "-pp", "-dp", "--dtype", "--kv-cache-dtype", "--block-size", "--hf-overrides",
             "--max-num-seqs", "--gpu-memory-utilization", "--kv-cache-memory-bytes", "--cpu-offload-gb", "-q",
             "--max-num-batched-tokens", "{}", '{"a": {}}', "2", "0", "32k", "1e999", "9" * 5000, "٣", "auto"]
        ) | st.text(max_size=6),
        max_size=6,
    )
)  # fmt: skip
def test_any_flags(args):
    with contextlib.suppress(InvalidOption, NoEstimate):
        found = of(MISTRAL_7B, *args, stored=stored(LLAMA_3_8B))
        assert found.kv.needed(found.context) >= 0
        assert 0 < found.fraction <= 1
