"""Failures from public reports: each is explained, with a remedy, from the log that the report has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vllm_magic.engine.failures.explanations import Failure, explain
from vllm_magic.engine.failures.hints import HintContext
from vllm_magic.engine.failures.machine_facts import MachineFacts
from vllm_magic.engine.flags import flags
from vllm_magic.sizes import GIB

FILE = Path(__file__).parents[3] / "reported_failures.txt"
REPORTS = {
    part.split(maxsplit=1)[0]: part.rstrip("\n").split("\n")[1:]
    for part in re.split(r"^## ", FILE.read_text(), flags=re.MULTILINE)[1:]
}
LIMITED = MachineFacts(shared_memory=GIB // 16, memory_limit=16 * GIB, processes=512)

# By the name of the report: what is said of it. A part of each text suffices.
SAID = {
    "ninja": ("the program ninja is not found", "/v/bin/python -m pip install ninja"),
    "ninja_died": ("the program ninja is not found", "/v/bin/python -m pip install ninja"),
    "nvcc": ("there is no CUDA compiler (nvcc)", "flashinfer-jit-cache"),
    "python_h": ("The header files of Python are missing", "apt install python3-dev"),
    "driver_old": ("The NVIDIA driver runs CUDA 12.8 at most", "580 or newer runs CUDA 13"),
    "driver_old_infer": ("The NVIDIA driver runs CUDA 12.8 at most", "built for CUDA 12"),
    "mig_uuid": (
        "looks at the architecture LlamaForCausalLM has failed",
        "CUDA_VISIBLE_DEVICES: give indices",
    ),
    "shm_nccl": ("/dev/shm is full: it has 0.06 GiB", "--shm-size=8g"),
    "memory_profiling": ("gave back GPU memory", "Start it again"),
    "lora_rank": ("rank 64", "--max-lora-rank 64"),
    "fp8e4nv": ("compute capability 8.9", "quantized otherwise"),
    "compile_cache": ("cache of compiled models is damaged", "Remove ~/.cache/vllm/torch_compile_cache"),
    "uva": ("pinned memory", "--env VLLM_WSL2_ENABLE_PIN_MEMORY=1"),
    "dist_port": ("Port 29500 is taken", "not the server's own port"),
    "vllm_port": ("VLLM_PORT is tcp://10.96.193.120:6785", "enableServiceLinks: false"),
    "world": ("8 GPUs are asked for, and this machine shows 4", "--tensor-parallel-size to 4"),
    "notok": ("no tokenizer that can be loaded", "--tokenizer NAME"),
    "noconnect": ("https://huggingface.co cannot be reached", "HTTPS_PROXY, set HF_ENDPOINT"),
    "noconnect2": ("huggingface.co cannot be reached", "HTTPS_PROXY, set HF_ENDPOINT"),
    "numba": ("NumPy 2.3 is too new for the numba", "/v/bin/python -m pip install 'numpy<=2.2'"),
    "double_prefix": ("head_size 100 is strange", ""),
    "oom_host": ("did not say why", "the container may use 16.0 GiB"),
    "old_08": ("bfloat16 needs a GPU of compute capability 8.0", "--dtype half"),
    "mamba_blocks": ("118 fit", "--max-num-seqs 118"),
    "pidlimit": ("No more processes or threads can be made: the limit is 512", "ulimit -u"),
    "missing_lib": ("The library libGL.so.1 is missing", "libgl1"),
    "vocab": ("lm_head.weight_scale", "--quantization"),
    "t4_shared": ("needs 96 KiB of the GPU's shared memory, and this GPU has 64", "attention backend"),
    "bnb_version": (
        "bitsandbytes beside vLLM is too old",
        "/v/bin/python -m pip install 'bitsandbytes>=0.46.1'",
    ),
    "bnb_moe": ("cannot use BitsAndBytes with GptOssForCausalLM", "quantized otherwise"),
    "scheme_gpu": ("needs a GPU of compute capability 7.5, and this one has 7.0", "quantized otherwise"),
    "gguf_map": ("GGUF", "safetensors"),
    "config_attr": ("configuration (LlavaConfig) has no vision_config", "upgrade vLLM"),
    "processor_attr": (
        "transformers beside vLLM is too old or too new for this model: its Qwen3OmniMoeProcessor",
        "transformers that the model's page names",
    ),
    "no_llm": ("module vllm has no LLM: it is damaged", "Install vLLM again"),
    "fa3_c": ("module vllm.vllm_flash_attn has no _vllm_fa3_C: it is damaged", "Install vLLM again"),
    "address": ("this machine does not have it", "--host"),
    "w1_bias": (
        "FusedMoEModularKernel.forward() got an unexpected keyword argument 'w1_bias'",
        "another version",
    ),
    "num_splits": (
        "flash_attn_varlen_func() got an unexpected keyword argument 'num_splits'",
        "/v/bin/python -m pip check",
    ),
    "reasoning_config": ("vLLM does not know --reasoning-config", "use the vLLM that has it"),
    "serve_twice": ("contains serve twice", "--model HuggingFaceTB/SmolLM3-3B"),
    "nvcc_input": (
        "A kernel cannot be compiled: fatal   : A single input file is required",
        "flashinfer-jit-cache",
    ),
    "ucx_avx": ("This processor has no avx, for which the library UCX was built", "processor of its host"),
    "kv_e5m2": ("fp8_e5m2 does not work for the KV cache", "--kv-cache-dtype fp8"),
    "lmcache_module": (
        "The package lmcache beside vLLM has no module experimental",
        "/v/bin/python -m pip check",
    ),
    "lmcache_blend": ("vllm model for vllm-instance not found", "EngineCore_DP0 raised it; "),
    "gate_up": ("cannot be divided among so many GPUs (80 by 128)", "--enable-expert-parallel"),
    "size_k": ("cannot be divided among so many GPUs", "Lower --tensor-parallel-size"),
    "not_aligned": ("cannot be divided among so many GPUs", "Lower --tensor-parallel-size"),
    "ray_no_gpu": ("Ray has no GPU on the machine", "VLLM_HOST_IP"),
    "ray_driver": ("Ray has no GPU on the machine", "VLLM_HOST_IP"),
    "cutlass_internal": ("kernel of CUTLASS", "newer vLLM"),
    "cutlass_none": ("no kernel cutlass_scaled_mm for GPUs of compute capability 12.0", "newer vLLM"),
    "rope_type": ("rope_scaling does not say of which type", "rope_type"),
    "key_linear": ("KeyError: 'Linear'", "EngineCore_0 raised it; "),
    "v1_bert": ("cannot do ['BertModel'] with the engine that VLLM_USE_V1=1 asks for", "Remove VLLM_USE_V1"),
    "custom_op_backend": (
        "This build of vLLM has no _C::rms_norm for CUDA",
        "Install the vLLM for this machine's GPU",
    ),
    "no_platform": ("NotImplementedError", "vLLM raised it looking for GPUs"),
    "nvfp4_moe": ("no kernel for experts in NvFp4", "--moe-backend"),
    "harmony": ("vocabulary of gpt-oss", "TIKTOKEN_ENCODINGS_BASE"),
    "no_adapter": (
        "There is no adapter in /data/home/zhizhehui/dev/train/table_ocr/Reward_model_train/output/qwen_lora_output/checkpoint-57",
        "--lora-modules",
    ),
    "ray_segv": ("has crashed in addProxyOpIfNeeded", "another version"),
    "model_tag": ("which model to serve", "Name it before the options"),
    "invalid_configuration": (
        "A kernel failed on the GPU: invalid configuration argument",
        "--enforce-eager",
    ),
    "bad_array": ("has ended with std::bad_array_new_length", "/v/bin/python -m pip check"),
    "no_configuration": ("no configuration of a model in /model", "in a container it must be mounted"),
    "multiple_values": (
        "Glm4vProcessor.__init__() got multiple values for argument 'tokenizer'",
        "the transformers that the model's page names",
    ),
    "custom_all_reduce": (
        "all-reduce failed between the GPUs: invalid argument",
        "--disable-custom-all-reduce",
    ),
    "dynamo_unsupported": ("The model cannot be compiled: Observed exception", "--enforce-eager"),
    "not_inspected": (
        "looks at the architecture 'Qwen2AudioForConditionalGeneration' has failed",
        "The lines above",
    ),
    "unify_pages": (
        "AssertionError in unify_kv_cache_spec_page_size (kv_cache_utils.py)",
        "without --kv-cache-dtype",
    ),
    "hybrid_kv": ("needs the hybrid KV cache manager", "--kv-transfer-config out"),
    "flash_attn_layers": ("This vLLM has no part vllm_flash_attn.layers", "install vLLM again"),
    "sinks": ("cannot do this model's attention (sinks)", "--attention-backend TRITON_ATTN"),
    "long_int": ("numbers of the type Int where it takes Long", "--attention-backend"),
    "mm_item": ("up to 2496 tokens, and a step takes 512", "--max-num-batched-tokens 2496"),
    "mm_limit": ("takes the model for a text model", "a newer vLLM"),
    "tensor_size": ("The size of tensor a (2048) must match", "Worker_TP0 raised it loading the weights"),
    "xpu_memory": ("This Intel GPU does not tell", "oneAPI"),
    "kv_tokens": ("131072 tokens, and the KV cache takes 39024", "--max-model-len to 39024"),
    "size_mismatch": ("size mismatch, got input (512)", "in its code for this model"),
    "bmm_fp8": ("A library of CUDA failed: the library was not initialized", "LD_LIBRARY_PATH"),
    "merger_key": (
        "the weight merger.linear_fc1.weight, for which vLLM's code for the model has no place",
        "Leave --quantization out",
    ),
    "store_timeout": ("did not reach another at 172.17.0.9, port 46229", "VLLM_HOST_IP"),
    "cuda_unknown": ("CUDA cannot be initialised", "wsl --shutdown"),
    "wsl_segv": ("A compiled part of vLLM has crashed", "install vLLM again"),
    "included_router": (
        "'_IncludedRouter' object has no attribute 'path'",
        "this is often a fault of this version of vLLM",
    ),
    "prefix_chunked": (
        "Prefix cache and chunked prefill are currently not supported",
        "Change --enable-prefix-caching or --enable-chunked-prefill",
    ),
    "gloo_mesh": ("do not reach each other", "on several the name of the interface"),
    "xet": ("Xet", "HF_HUB_DISABLE_XET=1"),
    "ordinal": ("a GPU that is not there", "CUDA_VISIBLE_DEVICES"),
    "num_gpus": ("a GPU that is not there", "CUDA_VISIBLE_DEVICES"),
    "bank_memory": ("The device is out of memory: Not enough space", "--max-model-len"),
    "no_format": ("There is no model in mistralai/Mistral-7B-v0.1", "HF_TOKEN"),
    "nf4_shape": ("Tried to load weights of size", "try a newer one"),
    "root_cache": ("/.triton may not be read or written", "--env HOME=/tmp"),
    "kernels_package": ("Either a revision or a version must be specified", "in the package kernels"),
    "no_vllm": ("vLLM misses the module vllm", "has no vLLM: install it (%vllm install)"),
    "per_layer": ("AmbiguousGlobalPerLayerAttributeError", "try a newer vLLM"),
    "no_score": ("Weights are missing in the checkpoint: {'score.weight'}", "--hf-overrides"),
    "absmax": ("layers.0.mlp.down_proj.weight.absmax", "--quantization bitsandbytes"),
    "stale_code": ("expected size 250112==136064", "remove ~/.cache/vllm/torch_compile_cache"),
    "flashinfer_moe": ("FusedMoE flashinfer kernels are only supported for Llama4", "the variable VLLM_..."),
    "trtllm_moe": ("launchHistogramScoresKernel", "--moe-backend"),
    "text_config": ("does not have `num_attention_heads` attribute", "try a newer vLLM"),
    "layer_idx": ("got an unexpected keyword argument 'layer_idx'", "another --attention-backend"),
    "params_json": ("AssertionError in load_params_config (config.py)", "--config-format mistral"),
    "aiter": ("invalid argument for fmha_v3_varlen_fwd", "VLLM_ROCM_USE_AITER=0"),
    "layer_type": ("KeyError: 'full_attention'", "a newer vLLM may have a fix"),
    "nvcc_colon": ("there is no CUDA compiler (nvcc)", "CUDA_HOME"),
    "sm80_kernel": ("cutlass_scaled_mm_sm80_epilogue", "choose a model that is quantized otherwise"),
    "think_tokens": ("could not locate think start/end tokens", "Change --reasoning-parser"),
    "sparse_a100": ("No attention backend of vLLM does what this model", "some need a newer GPU"),
    "stage_layers": (
        "KeyError: 'language_model.model.layers.30.self_attn.attn'",
        "--tensor-parallel-size in place",
    ),
    "block16": ("Block size must be a multiple of 16", "Set --block-size to a multiple of 16"),
    "embed_tokens": ("the weight embed_tokens", "--runner pooling"),
    "kernel128": ("take blocks of 128 tokens", "Set --block-size to 128"),
    "flashinfer_sm75": ("the CUDA toolkit that it finds is too old", "VLLM_USE_FLASHINFER_SAMPLER=0"),
    "major12": ("the CUDA toolkit that it finds is too old", "Set CUDA_HOME"),
    "sm120only": ("built for sm120 alone", "newer vLLM"),
    "ascend_transport": ("The library ascend_transport.so is missing", "LD_LIBRARY_PATH"),
    "mla_gluon": ("requires gfx950", "VLLM_ROCM_USE_AITER=0"),
    "init_kwargs": ("has no init_kwargs", "Leave --tokenizer-mode mistral out"),
    "lmcache_cops": ("The package lmcache was built for another torch", "-m pip uninstall lmcache"),
    "hash_block": ("not divisible by hash_block_size", "check --kv-transfer-config"),
    "nixl_backend": ("cannot use the UCX", "LD_LIBRARY_PATH"),
    "deepgemm": ("DeepGEMM, which computes with FP8, fails", "VLLM_USE_DEEP_GEMM=0"),
    "modules_to_save": ("vLLM only supports modules_to_save being None", "Merge it into the model"),
    "lora_path": ("vLLM does not know --lora-path", "of this kind this one has --lora-modules"),
    "nemotron_tp8": ("cannot be divided among so many GPUs", "Lower --tensor-parallel-size"),
    "moe_backend_fp8": ("is not supported for FP8 MoE", "Choose from triton, deep_gemm"),
    "parser_plugin": (
        "nemotron_toolcall_parser_no_streaming.py is made for another version of vLLM",
        "--tool-parser-plugin",
    ),
    "cublas_exec": ("A library of CUDA failed: EXECUTION_FAILED", "without --speculative-config"),
    "deepep_topk": ("A kernel of FlashInfer or CUTLASS fails", "--all2all-backend"),
    "flash_attn_abi": ("The package flash_attn was built for another torch", "-m pip uninstall flash_attn"),
    "mistral_wk": ("the weight layers.0.attention.wk.weight", "--load-format mistral"),
    "expandable_cumem": ("The sleep mode does not work with expandable_segments", "PYTORCH_CUDA_ALLOC_CONF="),
    "hunyuan_fx": ("has no is_torch_fx_available", "leave --trust-remote-code out"),
    "spyre_plugin": (
        "The package sendnn_inference is made for another version of vLLM",
        "pip install -U sendnn_inference",
    ),
    "ze_ipc": ("The Intel GPUs cannot share memory", "CCL_TOPO_P2P_ACCESS=0"),
    "cc3": (
        "--compilation-config takes names with values, and not 3",
        "--compilation-config '{\"name\": 3}'",
    ),
    "spec_get": ("vLLM's own SpeculativeConfig has no get", "Try another version of vLLM"),
    "dcp_lse": (
        "DCP requires attention implementations",
        "Try a different backend by setting --attention-backend or disable DCP",
    ),
    "cpu_offload": ("when CPU weight offloading is enabled", "Leave --cpu-offload-gb out"),
    "hami": ("HAMi, which divides the GPU among containers, has failed", "Update HAMi"),
    "numa": ("may not choose the memory node (NUMA)", "--cap-add SYS_NICE"),
    "membind": ("may not choose the memory node (NUMA)", "Leave --numa-bind out"),
    "blobfile": ("vLLM misses the module blobfile", "pip install blobfile"),
    "cufile": ("GPUDirect Storage (cuFile) cannot be used", "Leave --load-format out"),
    "mat1mat2": ("mat1 and mat2 shapes cannot be multiplied", "try a newer vLLM"),
    "kvfp8": (
        "Only support per-tensor scaling factor for fp8 KV cache",
        "Change --kv-cache-dtype, or leave it out",
    ),
    "transformer_engine": (
        "The package transformer_engine was built for another torch",
        "pip uninstall transformer_engine",
    ),
    "max_pixels": (
        "At least 47041568 pixels are required",
        "--mm-processor-kwargs '{\"max_pixels\": 47041568}'",
    ),
    "ep_size": (
        "n_physical_experts=256 must be divisible by ep_size=3",
        "Choose a number of GPUs that divides 256",
    ),
    "template_path": ("There is no file examples/tool_chat_template_gemma4.jinja", "Give the path of a file"),
    "function_base": ("NumPy 2 has no numpy.lib.function_base", "pip install 'numpy<2'"),
    "nccl_buffsize": ("NCCL may not lock as much memory", "leave NCCL_BUFFSIZE out"),
}


def explained(name: str, machine: MachineFacts = LIMITED) -> Failure:
    return explain(REPORTS[name], 1, HintContext(flags.WELL_KNOWN, "some/model", "/v/bin/python", machine))


def test_each_report_is_tried():
    assert REPORTS.keys() == SAID.keys()


@pytest.mark.parametrize("name", SAID)
def test_it_is_explained(name):
    failure = explained(name)
    cause, hint = SAID[name]
    assert cause in failure.cause
    assert hint in failure.hint
    assert failure.lines
    assert not failure.port_taken


def test_memory_that_ran_out_for_certain():
    failure = explained("oom_host", MachineFacts(memory_limit=16 * GIB, was_out_of_memory=True))
    assert failure.cause == (
        "The engine ended, and the kernel has killed a process because memory ran out (the container may use 16.0 GiB)"
    )


def test_the_process_that_failed_first_has_the_cause():
    worker = "(Worker_TP0 pid=88) ERROR 06-20 12:27:30 [multiproc_executor.py:962] "
    said = [
        f"{worker}RuntimeError: No CUDA GPUs are available",
        "(EngineCore pid=77) ERROR 06-20 12:27:37 [core.py:1341] FileNotFoundError: [Errno 2] No such file or directory: 'ninja'",
    ]
    assert explain(said, 1).cause == "CUDA finds no GPU"
    assert explain(said[::-1], 1).cause == "A kernel is to be compiled, and the program ninja is not found"


@pytest.mark.parametrize("code", ["-9", "None"])
def test_an_error_before_the_end_of_a_process_is_the_cause_and_one_after_it_is_none(code):
    worker = "(Worker_TP0 pid=88) ERROR 06-20 12:27:30 [multiproc_executor.py:962] "
    error = f"{worker}ValueError: head_size 100 is strange"
    end = (
        "(EngineCore pid=77) ERROR 06-20 12:27:38 [multiproc_executor.py:315] Worker proc VllmWorker-0 died unexpectedly "
        f"(exit code: {code}), shutting down executor."
    )
    later = "(EngineCore pid=77) ERROR 06-20 12:27:39 [core.py:1341] RuntimeError: cancelled"
    assert explain([error, end, later], 1).cause == "head_size 100 is strange"
    assert explain([end, later], 1).cause.startswith("VllmWorker-0 ended")


@pytest.mark.parametrize(
    ("codes", "cause"),
    [
        ("{'EngineCore': -11}", "The engine ended by signal 11 (SIGSEGV), and did not say why"),
        ("{'EngineCore_DP0': -9}", "The engine ended by signal 9 (SIGKILL), and did not say why"),
        ("{'EngineCore': 1}", "The engine ended, and did not say why"),
        ("{}", "The engine ended, and did not say why"),
    ],
)
def test_the_signal_that_vllm_names_is_told(codes, cause):
    said = f"(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {codes}"
    failure = explain([said], 1)
    assert failure.cause == cause
    assert ("compiled part has crashed" in failure.hint) == ("-11" in codes)
