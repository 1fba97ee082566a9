"""The output of vLLM 0.32.0 when it fails: recorded, or from its source where the failure needs a GPU or the network."""

from __future__ import annotations

from vllm_magic.engine.failures import tracebacks

GIB = 2**30
API = "(APIServer pid=30000) "
CORE = "(EngineCore pid=32068) ERROR 11-23 20:49:32 [core.py:1510] "
WORKER = "(Worker pid=32190) ERROR 11-23 20:49:30 [multiproc_executor.py:953] "
PACKAGES = "/venv/lib/python3.11/site-packages"

USELESS = (
    (
        f"{CORE}Exception: WorkerProc initialization failed due to an exception in a background process. "
        "See stack trace for root cause."
    ),
    "Process EngineCore:",
    "Traceback (most recent call last):",
    (
        "Exception: WorkerProc initialization failed due to an exception in a background process. "
        "See stack trace for root cause."
    ),
    "Traceback (most recent call last):",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}",
)
NOISE = (
    "Triton is installed, but doesn't include CPU backend. Disabling Triton.",
    (
        f"{API}WARNING 11-23 20:47:06 [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase "
        "with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too "
        "many open files`. Consider increasing with ulimit -n"
    ),
    (
        "[W1123 20:06:20.812569480 socket.cpp:697] [c10d] The server socket has failed to bind to [::]:29500 (errno: 98 "
        "- Address already in use)."
    ),
    f"{API}INFO 11-23 20:46:58 [model.py:733] Resolved architecture: LlamaForCausalLM",
    # Text of clients is no sign of a failure, however much it looks like one.
    f"{API}INFO 11-23 20:46:58 [logger.py:39] Received request: prompt: 'OSError: [Errno 98]'",
    "INFO:     127.0.0.1:1 - \"GET /?ModuleNotFoundError: No module named 'x' HTTP/1.1\" 404 Not Found",
    # A frame quotes the code of an exception that is not raised.
    "Traceback (most recent call last):",
    f'  File "{PACKAGES}/vllm/model_executor/model_loader/__init__.py", line 127, in get_model_loader',
    '    raise ValueError(f"Load format `{load_format}` is not supported")',
)


def in_engine(line: str) -> tuple[str, ...]:
    """Return the engine's log of its fatal exception, with the lines that follow it."""
    return (
        f"{CORE}EngineCore failed to start.",
        f"{CORE}Traceback (most recent call last):",
        f'{CORE}  File "{PACKAGES}/vllm/v1/engine/core.py", line 1482, in run_engine_core',
        f"{CORE}    engine_core = EngineCoreProc(*args, engine_index=dp_rank, **kwargs)",
        f"{CORE}{line}",
        *USELESS[1:],
    )


def in_worker(line: str) -> tuple[str, ...]:
    return (f"{WORKER}WorkerProc failed to start.", f"{WORKER}{HEADER}", f"{WORKER}{line}", *USELESS)


def pydantic(of: str, line: str) -> tuple[str, ...]:
    """Return the last lines of an API server whose configuration does not fit."""
    return (
        HEADER,
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {of}",
        *line.split("\n"),
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
    )


HEADER = tracebacks.HEADER
USAGE = "usage: vllm serve [model_tag] [options]"
HUB = "https://huggingface.co"
KV = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (14.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (6.5 GiB). Based on the available memory, the estimated "
    "maximum model length is 60848. Try increasing `gpu_memory_utilization` (which also controls CPU memory on the "
    "CPU backend) or decreasing `max_model_len` when initializing the engine."
)
OOM = (
    "CUDA out of memory. Tried to allocate 1.16 GiB. GPU 0 has a total capacity of 23.68 GiB of which 512.00 MiB is "
    "free."
)
FREE = "ValueError: Free memory on device cuda:0 ({}/23.68 GiB) on startup is less than {} (0.92, 21.79 GiB). Decrease"
SEE_LOGS = "%vllm logs shows more"
WITHOUT_MEMORY = "Usually the machine's memory has run out (dmesg tells): free some, or take a smaller model"

# By the kind of failure: the output, the cause, and the hint.
KNOWN = {
    "unknown flag": (
        ("usage: vllm [-h] [-v]", "            ...", "vllm: error: unrecognized arguments: --max-len 3"),
        "vLLM does not know --max-len 3",
        "Did you mean --max-model-len? Else leave it out",
    ),
    "unknown flag, like none": (
        ("vllm: error: unrecognized arguments: --no-such-flag 3",),
        "vLLM does not know --no-such-flag 3",
        "Leave it out, or use the vLLM that has it: vllm serve --help=all lists what this one knows",
    ),
    "unknown flags": (
        ("vllm: error: unrecognized arguments: --gpu-memory 0.5 --max_modle_len=3 x",),
        "vLLM does not know --gpu-memory 0.5 --max_modle_len=3 x",
        "Did you mean --gpu-memory-utilization for --gpu-memory, --max-model-len for --max-modle-len? Else leave it out",
    ),
    "unknown flag of an older vLLM": (
        (
            "vllm: error: unrecognized arguments: --task embed",
            "Hint: --task is not a vllm serve option. For embedding, reranking, or reward models, use --runner pooling.",
        ),
        "vLLM does not know --task embed",
        "--task is not a vllm serve option. For embedding, reranking, or reward models, use --runner pooling",
    ),
    "bad choice": (
        (
            USAGE,
            "vllm serve: error: argument --dtype: invalid choice: 'flaot16' (choose from 'auto', 'bfloat16', 'float16')",
        ),
        "--dtype cannot be 'flaot16'",
        "Did you mean float16? Choose from auto, bfloat16, float16",
    ),
    "bad choice, Python 3.14": (
        (
            "vllm serve: error: argument --dtype: invalid choice: 'hlaf', maybe you meant 'half'? (choose from auto, half)",
        ),
        "--dtype cannot be 'hlaf'",
        "Did you mean half? Choose from auto, half",
    ),
    "bad choice, like none": (
        (
            "vllm serve: error: argument --runner: invalid choice: 'x' (choose from 'auto', 'draft', 'generate', 'pooling')",
        ),
        "--runner cannot be 'x'",
        "Choose from auto, draft, generate, pooling",
    ),
    "bad int": (
        (USAGE, "vllm serve: error: argument --max-num-seqs: invalid int value: 'lots'"),
        "--max-num-seqs cannot be 'lots'",
        "Give a whole number",
    ),
    "no JSON in a value of an older vLLM": (
        (
            USAGE,
            "vllm serve: error: argument --hf-overrides: Value rope=2 cannot be converted to <function loads at 0xe67c60da6a20>.",
        ),
        "--hf-overrides is no JSON: rope=2",
        "Put JSON in single quotes: --hf-overrides '{\"name\": 1}'; in a file or a Python string no quotes stand around the braces",
    ),
    "bad length": (
        (
            USAGE,
            "vllm serve: error: argument --max-model-len: invalid human_readable_int_or_auto value: 'lots'",
        ),
        "--max-model-len cannot be 'lots'",
        "Give a whole number, such as 8192 or 8k",
    ),
    "bad number": (
        ("vllm serve: error: argument --gpu-memory-utilization: invalid float value: 'half'",),
        "--gpu-memory-utilization cannot be 'half'",
        "Give a number",
    ),
    "no value": (
        (USAGE, "vllm serve: error: argument --tensor-parallel-size/-tp: expected one argument"),
        "--tensor-parallel-size: expected one argument",
        "Correct the value of --tensor-parallel-size",
    ),
    "something else about the command line": (
        (USAGE, "vllm serve: error: the following arguments are required: --x"),
        "the following arguments are required: --x",
        "Look it up: vllm serve --help=all",
    ),
    "bad JSON": (
        (
            USAGE,
            "vllm serve: error: argument --compilation-config/-cc: 1 validation error for CompilationConfig",
            (
                "  Invalid JSON: EOF while parsing a value at line 1 column 6 [type=json_invalid, input_value='{\"a\": ', "
                "input_type=str]"
            ),
            "    For further information visit https://errors.pydantic.dev/2.14/v/json_invalid",
        ),
        "--compilation-config is no JSON: EOF while parsing a value at line 1 column 6",
        "It was given as '{\"a\": '. Put JSON in single quotes: --compilation-config '{\"name\": 1}'",
    ),
    "bad JSON that no flag is named for": (
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for KVTransferConfig",
            "  Invalid JSON: expected value at line 1 column 1 [type=json_invalid, input_value='x', input_type=str]",
        ),
        "Invalid JSON: expected value at line 1 column 1",
        "Put JSON in single quotes: --flag '{\"name\": 1}'",
    ),
    "no config file": (
        (
            "Unable to read the config file at /no/such.yaml. Check path correctness",
            "FileNotFoundError: [Errno 2] No such file or directory: '/no/such.yaml'",
        ),
        "There is no file /no/such.yaml",
        "Check the path after --config",
    ),
    "port in use": (
        ("OSError: [Errno 98] Address already in use",),
        "The port is taken",
        "Choose another --port, or leave it out for a free one",
    ),
    "port in use, asyncio": (
        ("[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",),
        "The port is taken",
        "Choose another --port, or leave it out for a free one",
    ),
    "bad port": (
        ("OverflowError: bind(): port must be 0-65535.",),
        "The number of the port is not valid",
        "Use 1 to 65535, or leave --port out for a free one",
    ),
    "no folder": (
        (
            (
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
                "'namespace/repo_name': '/no/such/model'. Use `repo_type` argument if needed."
            ),
        ),
        "There is no model at /no/such/model",
        "Check the path, or give a Hugging Face name such as Qwen/Qwen3-0.6B",
    ),
    "offline": (
        (
            (
                "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
                "specified revision on the local disk and outgoing traffic has been disabled."
            ),
        ),
        "The model is not on this machine, and going online is disabled",
        "Check the name, or unset HF_HUB_OFFLINE to download it",
    ),
    "offline, said by the hub": (
        (
            (
                "huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach https://huggingface.co/api/models/a/b: offline "
                "mode is enabled. To disable it, please unset the `HF_HUB_OFFLINE` environment variable."
            ),
        ),
        f"The model is not on this machine, and going online is disabled: {HUB}/api/models/a/b",
        "Unset HF_HUB_OFFLINE to download it",
    ),
    "no repository": (
        (
            f"OSError: nobody/nothing is not a local folder and is not a valid model identifier listed on '{HUB}/models'",
            "If this is a private repository, make sure to pass a token having permission to this repo.",
        ),
        "There is no model called nobody/nothing",
        "Check the name; a private one needs HF_TOKEN in the environment",
    ),
    "gated": (
        (
            "OSError: You are trying to access a gated repo.",
            f"Make sure to have access to it at {HUB}/meta-llama/Llama-3.1-8B.",
            "401 Client Error. (Request ID: Root=1-2)",
        ),
        "meta-llama/Llama-3.1-8B is gated",
        f"Accept its terms on {HUB}/meta-llama/Llama-3.1-8B, and set HF_TOKEN to a token of that account",
    ),
    "gated, by the hub": (
        (
            "huggingface_hub.errors.GatedRepoError: 403 Client Error. (Request ID: Root=1-2)",
            f"Cannot access gated repo for url {HUB}/api/models/a/b.c/revision/main.",
        ),
        "a/b.c is gated",
        f"Accept its terms on {HUB}/a/b.c, and set HF_TOKEN to a token of that account",
    ),
    "gated, and asked for": (
        (
            "huggingface_hub.utils._errors.GatedRepoError: 403 Client Error. (Request ID: Root=1-2)",
            "",
            f"Cannot access gated repo for url {HUB}/a/b/resolve/main/config.json.",
            "Your request to access model a/b is awaiting a review from the repo authors.",
        ),
        "a/b is gated, and the request for access to it waits for its authors",
        f"Wait until {HUB}/a/b shows that it is granted, or choose another model",
    ),
    "gated, and rejected": (
        ("Your request to access model a/b has been rejected by the repo's authors.",),
        "a/b is gated, and its authors have rejected the request for access to it",
        "Choose another model, or the token of another account (HF_TOKEN)",
    ),
    "gated, and not asked for": (
        (
            "OSError: You are trying to access a gated repo.",
            f"Make sure to have access to it at {HUB}/a/b.",
            "403 Client Error. (Request ID: Root=1-2;3)",
            "",
            f"Cannot access gated repo for url {HUB}/a/b/resolve/main/config.json.",
            f"Access to model a/b is restricted and you are not in the authorized list. Visit {HUB}/a/b to ask for access.",
        ),
        "a/b is gated",
        f"Ask for access on {HUB}/a/b with the account whose token is in HF_TOKEN",
    ),
    "gated, without a token": (
        (
            "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-2;3)",
            "",
            f"Cannot access gated repo for url {HUB}/a/b/resolve/main/config.json.",
            "Access to model a/b is restricted. You must have access to it and be authenticated to access it. Please log in.",
        ),
        "a/b is gated",
        f"Accept its terms on {HUB}/a/b, and set HF_TOKEN to a token of that account",
    ),
    "gated, with a fine-grained token": (
        (
            "huggingface_hub.errors.HfHubHTTPError: (Request ID: Root=1-2;3)",
            "",
            "403 Forbidden: Please enable access to public gated repositories in your fine-grained token settings to view this repository..",
            f"Cannot access content at: {HUB}/a/b/resolve/main/config.json.",
            "Make sure your token has the correct permissions.",
        ),
        "a/b is gated",
        f"Allow the token in HF_TOKEN access to public gated repositories ({HUB}/settings/tokens), or make one of the type read",
    ),
    "token without permission": (
        (
            "huggingface_hub.errors.HfHubHTTPError: (Request ID: Root=1-2;3)",
            "",
            "403 Forbidden: Forbidden.",
            f"Cannot access content at: {HUB}/a/b/resolve/main/config.json.",
            "Make sure your token has the correct permissions.",
        ),
        "The token in HF_TOKEN may not read this model or file",
        f"Give it the permission on {HUB}/settings/tokens (a token of the type read has it)",
    ),
    "gated, and its name is not in the line": (
        ("OSError: You are trying to access a gated repo.",),
        "some/model is gated",
        f"Accept its terms on {HUB}/some/model, and set HF_TOKEN to a token of that account",
    ),
    "refused": (
        (
            "huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error. (Request ID: Root=1-2)",
            f"Repository Not Found for url: {HUB}/api/models/a/b.",
        ),
        "Hugging Face refuses the model (401)",
        "Check the name, and set HF_TOKEN to a token that may read it",
    ),
    "bad revision": (
        (
            (
                "OSError: v9 is not a valid git identifier (branch name, tag name or commit id) that exists for this model name. "
                f"Check the model page at '{HUB}/a/b' for available revisions."
            ),
        ),
        "The model has no revision v9",
        f"Correct --revision: {HUB}/a/b lists them",
    ),
    "custom code": (
        pydantic(
            "ModelConfig",
            "  Value error, The repository a/b contains custom code which must be executed to correctly load the "
            "model. You can inspect the repository content at https://hf.co/a/b .\n You can inspect the repository content "
            "at https://hf.co/a/b.\nPlease pass the argument `trust_remote_code=True` to allow custom code to be run. "
            "[type=value_error, input_value=ArgsKwargs((), {})]",
        ),
        "a/b brings code of its own, and that is not run unasked",
        "Look at it, and add --trust-remote-code if you trust it",
    ),
    "custom configuration": (
        (
            (
                "RuntimeError: Failed to load the model config. If the model is a custom model not yet available in the "
                "HuggingFace transformers library, consider setting `trust_remote_code=True` in LLM"
            ),
        ),
        "The model's configuration needs code of its own, and that is not run unasked",
        "Look at it, and add --trust-remote-code if you trust it; or upgrade transformers",
    ),
    "model type": (
        pydantic(
            "ModelConfig",
            "  Value error, The checkpoint you are trying to load has model type `nosuch` but Transformers does not "
            "recognize this architecture. This could be because of an issue with the checkpoint.",
        ),
        "Transformers does not know the model type nosuch",
        "Upgrade transformers beside vLLM, or check model_type in the model's config.json",
    ),
    "architecture": (
        pydantic(
            "ModelConfig",
            "  Value error, Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: "
            f"{', '.join(f'Model{number}ForCausalLM' for number in range(400))}",
        ),
        "vLLM does not support the architecture 'FooForCausalLM'",
        "Choose another model, or a newer vLLM",
    ),
    "no weights": (
        in_worker("RuntimeError: Cannot find any model weights with `./model`"),
        "There are no weights in ./model",
        "Check that it was downloaded whole (*.safetensors), or choose another --load-format",
    ),
    "load format": (
        in_worker("ValueError: Load format `nosuch` is not supported"),
        "There is no load format nosuch",
        "Leave --load-format out, or look it up: vllm serve --help=load-format",
    ),
    "max_model_len": (
        pydantic(
            "ModelConfig",
            "  Value error, User-specified max_model_len (100000) is greater than the derived max_model_len "
            "(max_position_embeddings=512.0 or model_max_length=None in model's config.json). To allow overriding "
            "this maximum, set the env var VLLM_ALLOW_LONG_MAX_MODEL_LEN=1.",
        ),
        "The model takes 512 tokens, and --max-model-len asks for 100000",
        "Lower --max-model-len to 512",
    ),
    "heads": (
        pydantic(
            "VllmConfig",
            "  Value error, Total number of attention heads (4) must be divisible by tensor parallel size (3). "
            "[type=value_error, input_value=ArgsKwargs((), {'model_co... 'shutdown_timeout': 0}), "
            "input_type=ArgsKwargs]",
        ),
        "The model's 4 attention heads cannot be divided among 3 GPUs",
        "Set --tensor-parallel-size to 1, 2 or 4",
    ),
    "heads, an odd number of them": (
        ("ValueError: Total number of attention heads (7) must be divisible by tensor parallel size (3).",),
        "The model's 7 attention heads cannot be divided among 3 GPUs",
        "Set --tensor-parallel-size to 1",
    ),
    "sleep": (
        pydantic(
            "ModelConfig",
            "  Value error, Sleep mode is not supported on current platform. [type=value_error]",
        ),
        "Sleep mode is not supported on this platform",
        "Leave --enable-sleep-mode out: it needs a GPU",
    ),
    "quantization": (
        pydantic(
            "VllmConfig",
            "  Value error, Cannot find the config file for awq [type=value_error, input_type=A]",
        ),
        "The model is not quantized with awq: it has no configuration for that",
        "Leave --quantization out, or choose a model that was quantized with awq",
    ),
    "quantization on an old GPU": (
        in_engine(
            "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum capability: 89. Current "
            "capability: 75."
        ),
        "The quantization fp8 needs a GPU of compute capability 8.9, and this one has 7.5",
        "Choose another --quantization, or another GPU",
    ),
    "quantization and dtype": (
        pydantic(
            "VllmConfig",
            "  Value error, torch.bfloat16 is not supported for quantization method awq. Supported dtypes: [torch.float16]",
        ),
        "awq does not work with bfloat16",
        "Set --dtype to float16",
    ),
    "old GPU": (
        in_engine(
            "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has "
            "compute capability 7.5. You can use float16 instead by explicitly setting the `dtype` flag in CLI, for "
            "example: --dtype=half."
        ),
        "bfloat16 needs a GPU of compute capability 8.0: Tesla T4 has compute capability 7.5",
        "Add --dtype half",
    ),
    "GPU occupied": (
        in_engine(FREE.format("18.2", "desired GPU memory utilization")),
        "GPU cuda:0 has 18.2 GiB free, and vLLM wants 21.79 GiB of its 23.68 GiB",
        "Release what holds it (%vllm gpu shows it), or lower --gpu-memory-utilization to 0.76",
    ),
    "GPU occupied, in vLLM 0.13": (
        in_engine(FREE.format("18.2", "desired GPU memory utilization").replace("device cuda:0 ", "device ")),
        "GPU has 18.2 GiB free, and vLLM wants 21.79 GiB of its 23.68 GiB",
        "Release what holds it (%vllm gpu shows it), or lower --gpu-memory-utilization to 0.76",
    ),
    "GPU full": (
        in_engine(FREE.format("2.1", "desired GPU memory utilization")),
        "GPU cuda:0 has 2.1 GiB free, and vLLM wants 21.79 GiB of its 23.68 GiB",
        "Release what holds it (%vllm gpu shows it), or choose other GPUs (--gpus)",
    ),
    "GPU occupied by weights": (
        in_engine(FREE.format("12.0", "the engine's budget after excluding external process's weights")),
        "GPU cuda:0 has 12.0 GiB free, and vLLM wants 21.79 GiB of its 23.68 GiB",
        "Release what holds it (%vllm gpu shows it), or lower --gpu-memory-utilization to 0.5",
    ),
    "no KV room": (
        in_engine(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
        ),
        "The weights leave no room for the KV cache",
        "Raise --gpu-memory-utilization, or use more GPUs (--tensor-parallel-size)",
    ),
    "KV too small": (
        in_engine(KV),
        "One request of 131072 tokens needs 14.0 GiB of KV cache, and there are 6.5 GiB",
        "Lower --max-model-len to 60848, or raise --gpu-memory-utilization",
    ),
    "KV too small by far": (
        in_engine(
            KV.replace("Based on the available memory, the estimated maximum model length is 60848. ", "")
        ),
        "One request of 131072 tokens needs 14.0 GiB of KV cache, and there are 6.5 GiB",
        "Lower --max-model-len, or raise --gpu-memory-utilization",
    ),
    "weights too large": (
        (
            (
                "(EngineCore pid=32068) ERROR 11-23 20:49:30 [gpu_model_runner.py:5147] Failed to load model - not enough GPU "
                f"memory. Try lowering --gpu-memory-utilization to free memory for weights (original error: {OOM})"
            ),
            *in_engine(f"torch.OutOfMemoryError: {OOM}"),
        ),
        "The weights do not fit into the GPU's memory",
        "Use more GPUs (--tensor-parallel-size) or --quantization, or release what else holds it (%vllm gpu shows it)",
    ),
    "out of memory": (
        in_engine(f"torch.OutOfMemoryError: {OOM}"),
        "GPU 0 is out of memory: vLLM wanted 1.16 GiB more, and 512.00 MiB of its 23.68 GiB were free",
        "Lower --gpu-memory-utilization or --max-num-seqs, with images or video also --limit-mm-per-prompt, or release what else holds it (%vllm gpu shows it)",
    ),
    "out of memory, older torch": (
        in_engine(f"torch.cuda.OutOfMemoryError: {OOM}"),
        "GPU 0 is out of memory: vLLM wanted 1.16 GiB more, and 512.00 MiB of its 23.68 GiB were free",
        "Lower --gpu-memory-utilization or --max-num-seqs, with images or video also --limit-mm-per-prompt, or release what else holds it (%vllm gpu shows it)",
    ),
    "out of memory, another device": (
        in_engine("torch.OutOfMemoryError: XPU out of memory."),
        "Out of GPU memory: XPU out of memory",
        "Lower --gpu-memory-utilization or --max-num-seqs",
    ),
    "sampler": (
        in_engine(
            "RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests. Please try lowering "
            "`max_num_seqs` or `gpu_memory_utilization` when initializing the engine."
        ),
        "The GPU's memory does not suffice for 256 requests at once",
        "Set --max-num-seqs below 256, or lower --gpu-memory-utilization",
    ),
    "no device": (
        ("RuntimeError: Failed to infer device type, please set the environment variable",),
        "vLLM finds no GPU that it can use",
        "Check CUDA_VISIBLE_DEVICES and the driver: %vllm doctor tells what is wrong",
    ),
    "no device, the wheel of 0.33 for CUDA": (
        (
            "Failed to import from vllm._C: ModuleNotFoundError(\"No module named 'vllm._C'\")",
            "RuntimeError: Failed to infer device type, please set the environment variable",
        ),
        "vLLM finds no GPU that it can use",
        "Check CUDA_VISIBLE_DEVICES and the driver: %vllm doctor tells what is wrong",
    ),
    "init timeout": (
        (
            (
                f"{API}TimeoutError: Timed out waiting for engine core processes to start. This is often caused by slow weight "
                "loading for large models. Waited 600s (configured by VLLM_ENGINE_READY_TIMEOUT_S)."
            ),
        ),
        "The engine was not ready after 600 s",
        "Give it more time: --env VLLM_ENGINE_READY_TIMEOUT_S=1200",
    ),
    "init timeout, in vLLM 0.15": (
        ("TimeoutError: Timed out waiting for engines to send initial message on input socket.",),
        "The engine was not ready in time",
        "Give it more time: --env VLLM_ENGINE_READY_TIMEOUT_S=1200",
    ),
    "worker killed": (
        (
            (
                "(EngineCore pid=1) ERROR 11-23 20:49:30 [multiproc_executor.py:315] Worker proc VllmWorker-1 died "
                "unexpectedly (exit code: -9), shutting down executor."
            ),
            *USELESS,
        ),
        "VllmWorker-1 ended by signal 9 (SIGKILL)",
        WITHOUT_MEMORY,
    ),
    "worker gone": (
        (
            (
                "(EngineCore pid=1) ERROR 11-23 20:49:30 [multiproc_executor.py:315] Worker proc VllmWorker-0 died "
                "unexpectedly (exit code: 3), shutting down executor."
            ),
        ),
        "VllmWorker-0 ended with exit code 3",
        SEE_LOGS,
    ),
    "no module": (
        ("ModuleNotFoundError: No module named 'flashinfer'",),
        "vLLM misses the module flashinfer",
        "Install the package that has it in the environment of python, or install vLLM again (%vllm install)",
    ),
    "compiled for another torch": (
        (
            "Process EngineCore:",
            HEADER,
            "ImportError: /lib/_C.abi3.so: undefined symbol: _ZN3c10",
            USELESS[-1],
        ),
        "vLLM's compiled part does not fit what is installed beside it: /lib/_C.abi3.so: undefined symbol: _ZN3c10",
        "Install vLLM again, in an environment of its own (%vllm install): its torch was changed",
    ),
    "a compiled part that is too new": (
        (
            (
                f"{API}WARNING 11-23 20:46:58 [interface.py:222] Failed to import from vllm._C: "
                """ImportError("/lib/libstdc++.so.6: version `CXXABI_1.3.15' not found (required by /vllm/_C.abi3.so)")"""
            ),
            f"{CORE}{HEADER}",
            f"{CORE}AttributeError: '_OpNamespace' '_C_utils' object has no attribute 'init_cpu_threads_env'",
            USELESS[-1],
        ),
        (
            "vLLM's compiled part vllm._C cannot be loaded: /lib/libstdc++.so.6: version `CXXABI_1.3.15' not found "
            "(required by /vllm/_C.abi3.so)"
        ),
        "This machine's libstdc++ is too old for this build of vLLM: install a newer one, or another vLLM",
    ),
    "a compiled part without its library": (
        (
            (
                "WARNING 11-23 20:46:58 [rocm.py:44] Failed to import from vllm._C with "
                "ImportError('libamdhip64.so.6: cannot open shared object file: No such file or directory')"
            ),
            "AttributeError: '_OpNamespace' '_C' object has no attribute 'rms_norm'",
        ),
        (
            "vLLM's compiled part vllm._C cannot be loaded: libamdhip64.so.6: cannot open shared object file: "
            "No such file or directory"
        ),
        "Install the package that has libamdhip64.so.6, or a vLLM that was built for this machine",
    ),
    "a compiled part that is not there": (
        ("AttributeError: '_OpNamespace' '_C' object has no attribute 'rms_norm'",),
        "A compiled part of vLLM was not loaded: _C has no rms_norm",
        "Install vLLM again, in an environment of its own (%vllm install)",
    ),
    "another file": (
        ("FileNotFoundError: [Errno 2] No such file or directory: '/no/template.jinja'",),
        "There is no file /no/template.jinja",
        "Check the path",
    ),
    "not a model": (
        pydantic(
            "ModelConfig",
            "  Value error, Invalid repository ID or local directory specified: '/an/empty/folder'.",
        ),
        "There is no model in /an/empty/folder",
        "Check the name; a folder needs a config.json; from the Hub it needs a network, and HF_TOKEN where its terms must be accepted",
    ),
    "out of range": (
        pydantic(
            "CacheConfig",
            "gpu_memory_utilization\n  Input should be less than or equal to 1 [type=less_than_equal, "
            "input_value=1.5, input_type=float]",
        ),
        "--gpu-memory-utilization should be less than or equal to 1",
        "Correct --gpu-memory-utilization: it is 1.5",
    ),
    "two readings of one value": (
        (
            "pydantic_core._pydantic_core.ValidationError: 2 validation errors for ModelConfig",
            "hf_overrides.dict[str,any]",
            "  Input should be a valid dictionary [type=dict_type, input_value='{\"a\": ', input_type=str]",
            "    For further information visit https://errors.pydantic.dev/2.14/v/dict_type",
            "hf_overrides.callable",
            "  Input should be callable [type=callable_type, input_value='{\"a\": ', input_type=str]",
        ),
        "--hf-overrides should be a valid dictionary",
        "Correct --hf-overrides: it is '{\"a\": '",
    ),
    "a field that is no flag": (
        pydantic("X", "some_field\n  Input should be callable [type=callable_type]"),
        "some_field should be callable",
        "Correct some_field",
    ),
}

# No pattern matches these: the line with the cause is found all the same.
UNKNOWN = {
    "value error": (
        pydantic("ModelConfig", "  Value error, Too much of it. [type=value_error]"),
        "Too much of it",
    ),
    "value error with a prefix": (
        tuple(
            f"{API}{line}"
            for line in pydantic("ModelConfig", "  Value error, Too much of it. [type=value_error]")
        ),
        "Too much of it",
    ),
    "value error in the engine": (
        tuple(
            f"{CORE}{line}" for line in pydantic("ModelConfig", "  Value error, Too much. [type=value_error]")
        ),
        "Too much",
    ),
    "an exception with a module": (
        in_engine("odd.exceptions.OddError: it is too deep"),
        "odd.exceptions.OddError: it is too deep",
    ),
    "an exception that says little": (in_engine("KeyError: 'model_type'"), "KeyError: 'model_type'"),
    "an exception without words": (
        in_engine("AssertionError"),
        "AssertionError in run_engine_core (core.py)",
    ),
    "a chain": (
        (
            f"{WORKER}RuntimeError: the first one",
            f"{WORKER}The above exception was the direct cause of the following exception:",
            f"{WORKER}ValueError: the second one",
            *USELESS,
        ),
        "the first one",
    ),
    "where everything is logged": (
        (
            "(Worker pid=7) ERROR 11-23 20:49:30 [v1/executor/multiproc_executor.py:953] RuntimeError: this",
            *USELESS,
        ),
        "this",
    ),
    "an import in the engine's process": (
        ("Process EngineCore:", HEADER, "LookupError: attempted relative import", USELESS[-1]),
        "LookupError: attempted relative import",
    ),
}
