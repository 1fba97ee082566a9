"""The stages of a start, on lines of vLLM 0.32.0: recorded on its CPU build, or as its source writes them on a GPU."""

from __future__ import annotations

import pytest

from vllm_magic.engine.startup.stages import ORDER, Progress, Stage, later, read

API = "(APIServer pid=5292) INFO 11-23 20:06:00 "
CORE = "(EngineCore pid=5597) INFO 11-23 20:06:13 "
WORKER = "(Worker_TP0 pid=5704) INFO 11-23 20:06:20 "

# A whole start, in the order of the log.
START = (
    ("Triton is installed, but doesn't include CPU backend. Disabling Triton.", None),
    (f"{API}[api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0", Stage.CONFIGURING),
    (
        f"{API}[api_utils.py:286] non-default args: {{'model_tag': 'm', 'host': '127.0.0.1', 'max_model_len': 256}}",
        Stage.CONFIGURING,
    ),
    (
        (
            "(APIServer pid=5292) WARNING 11-23 20:06:00 [system_utils.py:255] Found ulimit of 20000 and failed to "
            "automatically increase with error current limit exceeds maximum limit."
        ),
        None,
    ),
    (f"{API}[model.py:733] Resolved architecture: LlamaForCausalLM", Stage.CONFIGURING),
    (
        (
            "(APIServer pid=5292) WARNING 11-23 20:06:08 [vllm.py:1703] Enforce eager set, disabling torch.compile, "
            "CUDAGraphs, and JIT kernel warmup. This is equivalent to setting -cc.mode=none -cc.cudagraph_mode=none "
            "and --kernel_config.enable_jit_warmup=False"
        ),
        None,
    ),
    (f"{API}[compilation.py:317] Enabled custom fusions: norm_quant, act_quant", None),
    (
        (
            f"{CORE}[core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m', load_format=auto, "
            "tensor_parallel_size=1, kernel_config=KernelConfig(enable_flashinfer_autotune=True, "
            "enable_cutedsl_warmup=True, enable_jit_warmup=False)"
        ),
        Stage.ENGINE,
    ),
    (
        f"{CORE}[multiproc_executor.py:153] DP group leader: node_rank=0, world_size=1, local_world_size=1",
        None,
    ),
    (
        (
            f"{WORKER}[parallel_state.py:1906] world_size=2 rank=0 local_rank=0 "
            "distributed_init_method=file:///x backend=gloo"
        ),
        Stage.ENGINE,
    ),
    (f"{WORKER}[cpu_model_runner.py:68] Starting to load model m...", Stage.LOADING),
    (f"{WORKER}[model_runner.py:399] Loading model from scratch...", Stage.LOADING),
    (f"{WORKER}[base_loader.py:82] Initializing model took 0.116895 seconds", None),
    ("Loading safetensors checkpoint shards:   0% Completed | 0/4 [00:00<?, ?it/s]", Stage.LOADING),
    ("Loading safetensors checkpoint shards: 100% Completed | 4/4 [00:00<00:00, 123.84it/s]", Stage.LOADING),
    (f"{WORKER}[default_loader.py:501] Loading weights took 0.01 seconds", None),
    (f"{WORKER}[backends.py:1167] Dynamo bytecode transform time: 3.21 s", Stage.COMPILING),
    (
        f"{WORKER}[backends.py:399] Compiling a graph for compile range (1, 2048) takes 12.3 s",
        Stage.COMPILING,
    ),
    (f"{WORKER}[monitor.py:39] Starting torch.compile", Stage.COMPILING),
    (f"{WORKER}[gpu_worker.py:760] Available KV cache memory: 18.02 GiB", Stage.MEMORY),
    (
        (
            f"{CORE}[kv_cache_utils.py:2327] CPU KV cache size: 1,048,576 tokens, "
            "Maximum concurrency for 256 tokens per request: 4096.00x"
        ),
        Stage.MEMORY,
    ),
    (f"{WORKER}[kernel_warmup.py:176] JIT kernel warmup starting.", Stage.WARMING),
    ("JIT kernel warmup (12 compile keys):  50%|█████     | 1/2 [00:01<00:01,  1.00s/kernel]", Stage.WARMING),
    (f"{WORKER}[cpu_model_runner.py:87] Warming up model for the compilation...", Stage.WARMING),
    (
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):   0%|          | 0/67 [00:00<?, ?it/s]",
        Stage.GRAPHS,
    ),
    (
        "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  15%|█▍        | 10/67 [00:01<00:06,  8.9it/s]",
        Stage.GRAPHS,
    ),
    (f"{CORE}[core.py:402] init engine (profile, create kv cache, warmup model) took 3.26 s", None),
    (f"{API}[entry.py:136] Supported tasks: ['generate']", Stage.SERVING),
    (f"{API}[entry.py:140] Starting vLLM server on http://127.0.0.1:18111", Stage.SERVING),
    (f"{API}[launcher.py:195] Route: /load, Methods: GET", None),
    ("INFO:     Application startup complete.", None),
    ('INFO:     127.0.0.1:57452 - "GET /health HTTP/1.1" 200 OK', None),
)


@pytest.mark.parametrize(("line", "stage"), START)
def test_a_line_and_its_stage(line, stage):
    said = read(line)
    assert (said.stage if said else None) is stage


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        ("Loading safetensors checkpoint shards:  38% Completed | 3/8 [00:01<00:02,  2.31it/s]", (3, 8)),
        ("Loading pt checkpoint shards (eager): 100% Completed | 12/12 [00:01<00:00,  2.31it/s]", (12, 12)),
        ("Multi-thread loading shards:  50% Completed | 1/2 [00:01<00:01,  1.00it/s]", (1, 2)),
        ("Multi-thread loading pt checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.00it/s]", (1, 2)),
        (
            "Loading safetensors using Runai Model Streamer:   7% Completed | 21/290 [00:01<00:13, 20.0it/s]",
            (21, 290),
        ),
    ],
)
def test_weights_are_counted(line, counted):
    assert read(line) == Progress(Stage.LOADING, counted)


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        ("Capturing CUDA graphs (decode, FULL): 100%|██████████| 35/35 [00:02<00:00, 13.2it/s]", (35, 35)),
        ("Capturing CUDA graphs:  15%|█▍        | 10/67 [00:01<00:06,  8.9it/s]", (10, 67)),
    ],
)
def test_graphs_are_counted(line, counted):
    assert read(line) == Progress(Stage.GRAPHS, counted)


def test_a_start_only_moves_forward():
    at, seen = Progress(Stage.IMPORTING), []
    for line, _ in START:
        at = later(at, read(line) or at)
        seen.append(at.stage)
    assert seen == sorted(seen, key=ORDER.index)
    assert at.stage is Stage.SERVING
    # Every stage that a line can tell was come through.
    assert set(ORDER) - set(seen) == {Stage.QUEUED, Stage.READY}


def test_several_workers_log_side_by_side():
    loading, warming = Progress(Stage.LOADING, (3, 8)), Progress(Stage.WARMING)
    assert later(warming, loading) == warming
    assert later(loading, warming) == warming
    assert later(loading, Progress(Stage.LOADING, (4, 8))) == Progress(Stage.LOADING, (4, 8))


@pytest.mark.parametrize("line", ["", "x", "| 3/8 [", "Loading weights took 3/8 ["])
def test_other_lines_say_nothing(line):
    assert read(line) is None
