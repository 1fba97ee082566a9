"""Failures of flags whose values do not fit the model, the machine or each other."""

from __future__ import annotations

from vllm_magic.engine.failures import hints, machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

SIGNS = (
    Sign(  # vllm/lora/peft_helper.py
        r"LoRA rank (\d{1,9}) is greater than max_lora_rank (\d{1,9})",
        "The adapter has rank {0}, and the server takes {1} at most",
        machine_hints.lora_rank,
    ),
    Sign(  # vllm/config/scheduler.py
        r"max_num_batched_tokens \((\d{1,9})\) is smaller than max_model_len \((\d{1,9})\)",
        "A step takes {0} tokens, and one request may have {1}",
        "Set --max-num-batched-tokens {1}, lower --max-model-len to {0}, or add --enable-chunked-prefill",
    ),
    Sign(  # vllm/config/scheduler.py
        r"max_num_batched_tokens \((\d{1,9})\) must be greater than or equal to max_num_seqs \((\d{1,9})\)",
        "A step takes {0} tokens, and --max-num-seqs wants {1} requests in it",
        "Set --max-num-seqs {0}, or --max-num-batched-tokens {1}",
    ),
    Sign(  # vllm/entrypoints/openai/cli_args.py
        r"--enable-auto-tool-choice requires --tool-call-parser",
        "--enable-auto-tool-choice needs --tool-call-parser",
        "Add --tool-call-parser NAME, such as hermes for Qwen; vllm serve --help=tool-call-parser lists them",
    ),
    Sign(  # vllm/entrypoints/openai/api_server.py
        r"invalid (tool call|reasoning) parser: (\S{1,100}) \(chose from \{ (.{1,1000}?) \}\)",
        "There is no {0} parser {1}",
        "Choose from {2}",
    ),
    Sign(  # vllm/entrypoints/chat_utils.py
        r"The supplied chat template \((.{1,300}?)\) looks like a file path, but it failed to be opened",
        "There is no chat template {0}",
        "Check the path after --chat-template",
    ),
    Sign(
        r"does not support LoRA|LoRA is not supported for this model",
        "This model takes no LoRA adapters",
        "Leave --enable-lora and --lora-modules out",
    ),
    Sign(  # vllm/v1/structured_output, config/kv_transfer.py and others
        r"This model does not support `?--(?:runner|task) (\w{1,40})`?",
        "This model cannot be used for {0}",
        "Leave --runner and --task out: vLLM chooses what the model can do",
    ),
    Sign(  # vllm/lora/utils.py, lora/lora_model.py
        r"(\S{1,300}) is unsupported LoRA weight",
        "The adapter changes {0}, which vLLM cannot do with an adapter",
        "Train it without modules_to_save, or merge it into the model (merge_and_unload in peft)",
    ),
    Sign(  # vllm/lora/lora_model.py
        r"While loading (\S{1,300}?), expected target modules in .{1,500}? but received (.{1,300}?)\. Please verify",
        "The adapter {0} changes modules that this model does not have, or that vLLM cannot change: {1}",
        "Check that it was trained for this model, or merge it into the model (merge_and_unload in peft)",
    ),
    Sign(  # vllm/config/speculative.py
        r"(?:speculative_)?draft_tensor_parallel_size=(\d{1,4}) cannot be other value than",
        "The draft model cannot be divided among {0} GPUs",
        "Leave draft_tensor_parallel_size out of --speculative-config, or set it to 1",
    ),
    Sign(  # vllm/config/compilation.py
        r"Can't determine cudagraph shapes that are both a multiple of (\d{1,9}) .{1,100}? and (\d{1,9})",
        "No batch size is a multiple of {0} (the speculative tokens plus 1) and of {1} (GPUs)",
        "Change num_speculative_tokens in --speculative-config, or --tensor-parallel-size",
    ),
    Sign(
        r"\[Errno 98\]",
        "The port is taken",
        "Choose another --port, or leave it out for a free one",
        port_taken=True,
    ),
    Sign(
        r"port must be 0-65535",
        "The number of the port is not valid",
        "Use 1 to 65535, or leave --port out for a free one",
    ),
    Sign(  # vllm/config/model.py
        r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)",
        "The model takes {1} tokens, and --max-model-len asks for {0}",
        "Lower --max-model-len to {1}",
    ),
    Sign(  # vllm/config/model.py
        r"Sleep mode is not supported on current platform",
        "Sleep mode is not supported on this platform",
        "Leave --enable-sleep-mode out: it needs a GPU",
    ),
    Sign(  # vllm/config/vllm.py
        r"torch\.(\w+) is not supported for quantization method (\w+)\.? ?(?:Supported dtypes: \[(.{0,300}?)\])?",
        "{1} does not work with {0}",
        hints.dtypes,
    ),
    Sign(  # vllm/config/vllm.py
        r"\b(\w{1,20}) kv-cache is not supported with fp8 checkpoints",
        "{0} does not work for the KV cache of a model with FP8 weights",
        "Set --kv-cache-dtype fp8, or leave it out",
    ),
    Sign(  # vllm/engine/arg_utils.py, up to vLLM 0.10
        r"VLLM_USE_V1=1 is not supported with (.{1,200}?)\.?$",
        "This vLLM cannot do {0} with the engine that VLLM_USE_V1=1 asks for",
        "Remove VLLM_USE_V1 from the environment (%env VLLM_USE_V1=), or install a newer vLLM",
    ),
    Sign(  # vllm/exceptions.py
        r"Loading lora (\S{1,100}) failed: No adapter found for (.{1,300}?)[\"\]]{0,3}$",
        "There is no adapter in {1}",
        "Check the path after --lora-modules: the folder needs adapter_config.json and adapter_model.safetensors",
    ),
    Sign(
        r"\[Errno 99\] (?:Cannot|error while attempting to bind on).{0,100}",
        "The server cannot listen on its address: this machine does not have it",
        "Leave --host out, or set it to 127.0.0.1 or 0.0.0.0; VLLM_HOST_IP must be an address of this machine too",
    ),
    Sign(  # vllm/v1/core/kv_cache_utils.py
        r"Hybrid KV cache manager is disabled but failed to convert",
        "This model needs the hybrid KV cache manager, which is off: by its flag, or since a KV connector cannot work with it",
        "Leave --disable-hybrid-kv-cache-manager and --kv-transfer-config out",
    ),
    Sign(  # vllm/v1/worker/utils.py, prepare_kernel_block_sizes
        r"None of the kernel sizes \[([\d, ]{1,60})\] can divide physical block size (\d{1,6})",
        "The attention kernels take blocks of {0} tokens, and a block of the KV cache has {1}",
        "Set --block-size to {0}",
    ),
    Sign(  # vllm/v1/core/encoder_cache_manager.py
        r"max_tokens_per_mm_item \((\d{1,9})\) is larger than max_num_batched_tokens \((\d{1,9})\)",
        "One image or video of this model has up to {0} tokens, and a step takes {1}",
        "Set --max-num-batched-tokens {0}, or add --language-model-only if you send text alone",
    ),
    Sign(  # vllm/config/model.py
        r"`limit_mm_per_prompt` is only supported for multimodal models",
        "--limit-mm-per-prompt is given, and this vLLM takes the model for a text model",
        "Leave it out; if the model takes images, a newer vLLM or transformers knows it",
    ),
    Sign(  # vllm/reasoning/abs_reasoning_parsers.py, vllm/tool_parsers/abstract_tool_parser.py
        r"(Reasoning|Tool) parser '(.{1,100}?)' not found\.(?: Available parsers: (.{1,1000}))?",
        "There is no parser {1} in this vLLM",
        machine_hints.parsers,
    ),
    Sign(  # vllm/config/vllm.py
        r"KV connector (\S{1,100}) is incompatible with PYTORCH_CUDA_ALLOC_CONF=expandable_segments",
        "The KV connector {0} does not work with expandable_segments in PYTORCH_CUDA_ALLOC_CONF",
        "Remove it from the environment: %env PYTORCH_CUDA_ALLOC_CONF=",
    ),
    Sign(  # vllm/device_allocator/cumem.py, up to vLLM 0.20
        r"Expandable segments are not compatible with",
        "The sleep mode does not work with expandable_segments in PYTORCH_CUDA_ALLOC_CONF",
        "Remove it from the environment (%env PYTORCH_CUDA_ALLOC_CONF=), or leave --enable-sleep-mode out",
    ),
    Sign(  # vllm/lora/peft_helper.py
        r"vLLM (only supports modules_to_save being None|does not yet support DoRA)",
        "The adapter cannot be used as one: vLLM {0}",
        "Merge it into the model (merge_and_unload in peft), or train it without modules_to_save and DoRA",
    ),
    Sign(  # vllm/config/speculative.py
        r"Target and draft model should have the same vocabulary size\. Target model vocab_size=(\d{1,9})\. Draft model vocab_size="
        r"(\d{1,9})",
        "The draft model has {1} tokens in its vocabulary, and the model has {0}",
        "Choose a draft model of the same family in --speculative-config",
    ),
    Sign(  # vllm/config/speculative.py
        r"num_speculative_tokens(?:` was not| must be) provided",
        "--speculative-config does not say how many tokens to guess",
        'Add "num_speculative_tokens" to it, such as 3',
    ),
    Sign(  # vllm/envs.py
        r"Invalid value '(.{0,100}?)' for (VLLM_\w{1,80})\. Valid options: (.{1,500})",
        "The environment variable {1} cannot be {0}",
        "Choose from {2}, or remove it (%env {1}=)",
    ),
    Sign(  # vllm/v1/attention/backends/registry.py
        r"(?:Unknown|Invalid) attention backend:? '?(\w{1,80})'?\.?(?: Valid (?:options|backends) are: (.{1,800}))?",
        "This vLLM has no attention backend {0}",
        "Leave --attention-backend and VLLM_ATTENTION_BACKEND out; vllm serve --help=attention-backend lists them",
    ),
    Sign(  # vllm/config/speculative.py
        r"Unsupported speculative method: '?(\w{1,80})'?",
        "This vLLM does not know the speculative method {0}",
        "Correct the method in --speculative-config, or install a newer vLLM",
    ),
    Sign(  # vllm/entrypoints/chat_utils.py
        r"The supplied chat template (?:string )?\((.{1,300}?)\) (?:appears path-like|looks like a file path), but doesn't exist",
        "There is no file {0}, which --chat-template names",
        "Give the path of a file, or leave it out; those in vLLM's documentation are not in its package: download them from "
        "https://github.com/vllm-project/vllm/tree/main/examples",
    ),
)
