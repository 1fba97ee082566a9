"""Why a start failed: on lines that vLLM 0.32.0 wrote, or has in its source where a GPU is needed for them."""

from __future__ import annotations

import signal

import pytest

from vllm_magic.engine.failures import ending, explain

API = "(APIServer pid=30000) "
CORE = "(EngineCore pid=32068) ERROR 11-23 20:49:32 [core.py:1510] "
WORKER = "(Worker pid=32190) ERROR 11-23 20:49:30 [multiproc_executor.py:953] "

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
)


def in_engine(line: str) -> tuple[str, ...]:
    """As the engine logs what it died of, with what follows it."""
    return (
        f"{CORE}EngineCore failed to start.",
        f"{CORE}Traceback (most recent call last):",
        f'{CORE}  File "core.py", line 1482, in run_engine_core',
        f"{CORE}{line}",
        *USELESS[1:],
    )


def pydantic(of: str, line: str) -> tuple[str, ...]:
    """As the API server ends when a configuration does not fit."""
    return (
        "Traceback (most recent call last):",
        f"pydantic_core._pydantic_core.ValidationError: 1 validation error for {of}",
        *line.split("\n"),
        "    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
    )


USAGE = "usage: vllm serve [model_tag] [options]"
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

KNOWN = {
    "unknown flag": (
        ("usage: vllm [-h] [-v]", "            ...", "vllm: error: unrecognized arguments: --no-such-flag 3"),
        "vLLM does not know --no-such-flag 3",
        "vllm serve --help",
    ),
    "bad choice": (
        (
            USAGE,
            "vllm serve: error: argument --dtype: invalid choice: 'floaty' (choose from 'auto', 'bfloat16', 'half')",
        ),
        "--dtype cannot be 'floaty'",
        "'auto', 'bfloat16', 'half'",
    ),
    "bad number": (
        (
            USAGE,
            "vllm serve: error: argument --max-model-len: invalid human_readable_int_or_auto value: 'lots'",
        ),
        "--max-model-len: invalid human_readable_int_or_auto value: 'lots'",
        "--max-model-len",
    ),
    "no value": (
        (USAGE, "vllm serve: error: argument --tensor-parallel-size/-tp: expected one argument"),
        "--tensor-parallel-size/-tp: expected one argument",
        "--tensor-parallel-size/-tp",
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
        "Invalid JSON: EOF while parsing a value at line 1 column 6",
        "single quotes",
    ),
    "port in use": (("OSError: [Errno 98] Address already in use",), "The port is taken", "--port"),
    "port in use, asyncio": (
        ("[Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): address already in use",),
        "The port is taken",
        "--port",
    ),
    "no folder": (
        (
            (
                "huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or "
                "'namespace/repo_name': '/no/such/model'. Use `repo_type` argument if needed."
            ),
        ),
        "There is no model at /no/such/model",
        "Hugging Face name",
    ),
    "offline": (
        (
            (
                "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the "
                "specified revision on the local disk and outgoing traffic has been disabled."
            ),
        ),
        "The model is not on this machine, and going online is disabled",
        "HF_HUB_OFFLINE",
    ),
    "no repository": (
        (
            (
                "OSError: nobody/nothing is not a local folder and is not a valid model identifier listed on "
                "'https://huggingface.co/models'"
            ),
            "If this is a private repository, make sure to pass a token having permission to this repo.",
        ),
        "There is no model called nobody/nothing",
        "HF_TOKEN",
    ),
    "gated": (("OSError: You are trying to access a gated repo.",), "The model is gated", "HF_TOKEN"),
    "gated, by the hub": (
        (
            "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-2)",
            "",
            "Cannot access gated repo for url https://huggingface.co/a/b/resolve/main/config.json.",
        ),
        "The model is gated",
        "HF_TOKEN",
    ),
    "GPU occupied": (
        in_engine(
            "ValueError: Free memory on device cuda:0 (2.1/23.68 GiB) on startup is less than desired GPU memory "
            "utilization (0.92, 21.79 GiB). Decrease GPU memory utilization or reduce GPU memory used by other "
            "processes."
        ),
        "GPU cuda:0 has 2.1 GiB free, and vLLM wants 21.79 GiB of its 23.68 GiB",
        "--gpu-memory-utilization",
    ),
    "GPU occupied by weights": (
        in_engine(
            "ValueError: Free memory on device cuda:1 (2.1/23.68 GiB) on startup is less than the engine's budget "
            "after excluding external process's weights (0.92, 21.79 GiB). Decrease GPU memory utilization or reduce "
            "GPU memory used by other processes."
        ),
        "GPU cuda:1 has 2.1 GiB free, and vLLM wants 21.79 GiB of its 23.68 GiB",
        "--gpu-memory-utilization",
    ),
    "no KV room": (
        in_engine(
            "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"
        ),
        "The weights leave no room for the KV cache",
        "--tensor-parallel-size",
    ),
    "KV too small": (
        in_engine(KV),
        "One request of 131072 tokens needs 14.0 GiB of KV cache, more than there is",
        "Lower --max-model-len to 60848",
    ),
    "KV too small by far": (
        in_engine(
            KV.replace("Based on the available memory, the estimated maximum model length is 60848. ", "")
        ),
        "One request of 131072 tokens needs 14.0 GiB of KV cache, more than there is",
        "Lower --max-model-len",
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
    "out of memory": (
        in_engine(f"torch.OutOfMemoryError: {OOM}"),
        f"Out of GPU memory: {OOM[:-1]}",
        "--max-num-seqs",
    ),
    "out of memory, older torch": (
        in_engine(f"torch.cuda.OutOfMemoryError: {OOM}"),
        f"Out of GPU memory: {OOM[:-1]}",
        "--max-num-seqs",
    ),
    "no config file": (
        (
            "Unable to read the config file at /no/such.yaml. Check path correctness",
            "FileNotFoundError: [Errno 2] No such file or directory: '/no/such.yaml'",
        ),
        "No such file or directory: '/no/such.yaml'",
        "path",
    ),
    "no module": (
        ("ModuleNotFoundError: No module named 'flashinfer'",),
        "vLLM misses the module flashinfer",
        "Install",
    ),
    "worker died": (
        (
            (
                "(EngineCore pid=1) ERROR 11-23 20:49:30 [multiproc_executor.py:315] Worker proc VllmWorker-1 died "
                "unexpectedly (exit code: -9), shutting down executor."
            ),
            *USELESS,
        ),
        "VllmWorker-1 died (exit code -9)",
        "memory",
    ),
}

# No sign of their own: the line that tells is found all the same.
UNKNOWN = {
    "heads": (
        pydantic(
            "VllmConfig",
            "  Value error, Total number of attention heads (4) must be divisible by tensor parallel size (3). "
            "[type=value_error, input_value=ArgsKwargs((), {'model_co... 'shutdown_timeout': 0}), "
            "input_type=ArgsKwargs]",
        ),
        "Total number of attention heads (4) must be divisible by tensor parallel size (3)",
    ),
    "sleep": (
        pydantic(
            "ModelConfig",
            "  Value error, Sleep mode is not supported on current platform. [type=value_error]",
        ),
        "Sleep mode is not supported on current platform",
    ),
    "quantization": (
        pydantic(
            "VllmConfig",
            "  Value error, Cannot find the config file for awq [type=value_error, input_type=A]",
        ),
        "Cannot find the config file for awq",
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
    "utilization": (
        pydantic(
            "CacheConfig",
            "gpu_memory_utilization\n  Input should be less than or equal to 1 [type=less_than_equal, "
            "input_value=1.5, input_type=float]",
        ),
        "gpu_memory_utilization: Input should be less than or equal to 1",
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
        "hf_overrides.dict[str,any]: Input should be a valid dictionary",
    ),
    "custom code": (
        pydantic(
            "ModelConfig",
            "  Value error, The repository a/b contains custom code which must be executed to correctly load the "
            "model. Please pass the argument `trust_remote_code=True` to allow custom code to be run. "
            "[type=value_error, input_value=ArgsKwargs((), {})]",
        ),
        (
            "The repository a/b contains custom code which must be executed to correctly load the model. Please pass the "
            "argument `trust_remote_code=True` to allow custom code to be run"
        ),
    ),
    "no weights": (
        (f"{WORKER}RuntimeError: Cannot find any model weights with `./model`", *USELESS),
        "Cannot find any model weights with `./model`",
    ),
    "load format": (
        (f"{WORKER}ValueError: Load format `nosuch` is not supported", *USELESS),
        "Load format `nosuch` is not supported",
    ),
    "an exception with a module": (
        in_engine("torch._inductor.exc.InductorError: RuntimeError: Failed to find C compiler"),
        "torch._inductor.exc.InductorError: RuntimeError: Failed to find C compiler",
    ),
    "an exception that says little": (in_engine("KeyError: 'model_type'"), "KeyError: 'model_type'"),
    "an exception without words": (in_engine("AssertionError"), "AssertionError"),
    "a chain": (
        (
            f"{WORKER}RuntimeError: the first one",
            f"{WORKER}The above exception was the direct cause of the following exception:",
            f"{WORKER}ValueError: the second one",
            *USELESS,
        ),
        "the first one",
    ),
    "an import in the engine's process": (
        (
            "Process EngineCore:",
            "Traceback (most recent call last):",
            "ImportError: /lib/_C.abi3.so: undefined symbol: _ZN3c10",
            "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        ),
        "ImportError: /lib/_C.abi3.so: undefined symbol: _ZN3c10",
    ),
    "no device": (
        ("RuntimeError: Failed to infer device type, please set the environment variable",),
        "Failed to infer device type, please set the environment variable",
    ),
    "old GPU": (
        in_engine("ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0."),
        "Bfloat16 is only supported on GPUs with compute capability of at least 8.0",
    ),
    "init timeout": (
        (f"{API}TimeoutError: Timed out waiting for engine core processes to start. Waited 600s",),
        "TimeoutError: Timed out waiting for engine core processes to start. Waited 600s",
    ),
    "nothing better": (
        USELESS[-2:],
        ("Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"),
    ),
}


@pytest.mark.parametrize("sign", KNOWN)
def test_a_known_failure_has_a_cause_and_a_hint(sign):
    lines, cause, hint = KNOWN[sign]
    failure = explain([*NOISE, *lines], 1)
    assert failure.cause == cause
    assert hint in failure.hint
    assert all(line in lines for line in failure.lines)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_failure_is_told_by_its_line(kind):
    lines, cause = UNKNOWN[kind]
    failure = explain([*NOISE, *lines], 1)
    assert failure.cause == cause
    assert "%vllm logs" in failure.hint
    assert len(failure.lines) == 1
    assert failure.lines[0] in lines


def test_a_cause_is_one_short_line():
    names = ", ".join(f"'Model{number}ForCausalLM'" for number in range(400))
    line = f"  Value error, Model architectures ['Foo'] are not supported for now. Supported architectures: [{names}]"
    failure = explain(pydantic("ModelConfig", line[:2000]), 1)
    assert failure.cause.startswith("Model architectures ['Foo'] are not supported for now.")
    assert len(failure.cause) <= 300


@pytest.mark.parametrize("sign", [*KNOWN, *UNKNOWN])
def test_a_cause_reads_as_part_of_a_sentence(sign):
    failure = explain({**KNOWN, **UNKNOWN}[sign][0], 1)
    assert not failure.cause.endswith(".")
    assert not failure.hint.endswith(".")
    assert "\n" not in failure.cause + failure.hint


def test_words_of_the_log_are_no_format():
    assert "{0} {x}" in explain(["vllm: error: unrecognized arguments: --{0} {x}"], 2).cause


def test_nothing_telling():
    failure = explain(NOISE, -int(signal.SIGKILL))
    assert failure.cause == "vLLM ended by signal 9 (SIGKILL)"
    assert failure.lines == NOISE[-3:]
    assert explain([], None).cause == "vLLM ended for an unknown reason"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "with exit code 0"),
        (1, "with exit code 1"),
        (-15, "by signal 15 (SIGTERM)"),
        (-63, "by signal 63"),
        (None, "for an unknown reason"),
    ],
)
def test_endings_in_words(code, words):
    assert ending(code) == words
