"""Why a server failed: on lines that vLLM 0.32.0 wrote, or has in its source where a GPU or the network is needed for them."""

from __future__ import annotations

import signal

import pytest
from failure_logs import (
    API,
    CORE,
    GIB,
    HEADER,
    KNOWN,
    NOISE,
    OOM,
    PACKAGES,
    SEE_LOGS,
    UNKNOWN,
    WITHOUT_MEMORY,
    WORKER,
    in_engine,
    pydantic,
)

from vllm_magic.engine.failures.explanations import explain, explain_death
from vllm_magic.engine.failures.hints import HintContext, ending
from vllm_magic.engine.flags import flags


@pytest.mark.parametrize("sign", KNOWN)
def test_a_known_failure_has_a_cause_and_a_hint(sign):
    lines, cause, hint = KNOWN[sign]
    failure = explain([*NOISE, *lines], 1, HintContext(flags.WELL_KNOWN, "some/model"))
    assert (failure.cause, failure.hint) == (cause, hint)
    assert failure.lines[-1].removesuffix("…") in "\n".join(lines)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_failure_is_told_by_its_line(kind):
    lines, cause = UNKNOWN[kind]
    failure = explain([*NOISE, *lines], 1)
    assert failure.cause == cause
    assert (
        f"{SEE_LOGS}; search for other reports of it: https://github.com/vllm-project/vllm/issues?q="
        in failure.hint
    )
    assert cause.partition(" in run_engine_core")[0] in "\n".join(failure.lines)


def test_of_an_unknown_failure_the_process_and_the_place_are_told():
    where = f'{CORE}  File "{PACKAGES}/vllm/model_executor/layers/quantization/compressed_tensors/x.py", line 1, in f'
    failure = explain([f"{CORE}{HEADER}", where, f"{CORE}    g()", f"{CORE}KeyError: 'Linear'"], 1)
    assert failure.hint.startswith(
        "EngineCore raised it for the quantization: check quantization_config in config.json"
    )
    deeper = f'{CORE}  File "{PACKAGES}/torch/nn/modules/module.py", line 1, in f'
    failure = explain([f"{CORE}{HEADER}", where, deeper, f"{CORE}KeyError: 'Linear'"], 1)
    assert failure.hint.startswith("EngineCore raised it for the quantization")
    assert explain([f"{CORE}{HEADER}", deeper, f"{CORE}KeyError: 'x'"], 1).hint.startswith(
        "EngineCore raised it; "
    )


def test_an_error_without_a_message_is_told_with_its_function():
    where = f'{CORE}  File "{PACKAGES}/vllm/v1/core/kv_cache_utils.py", line 1, in unify'
    failure = explain([f"{CORE}{HEADER}", where, f"{CORE}    assert a == b", f"{CORE}AssertionError"], 1)
    assert failure.cause == "AssertionError in unify (kv_cache_utils.py)"
    assert failure.hint.startswith(
        "EngineCore raised it setting up the KV cache: try a start without --kv-cache-dtype"
    )
    assert failure.hint.endswith("?q=AssertionError+in+unify+kv_cache_utils.py")


def test_a_package_beside_vllm_is_named_unless_it_only_checks_what_it_is_given():
    def raised_in(package: str) -> str:
        frame = f'{CORE}  File "{PACKAGES}/{package}/a.py", line 1, in f'
        return explain([f"{CORE}{HEADER}", frame, f"{CORE}    g()", f"{CORE}ValueError: it is odd"], 1).hint

    assert raised_in("kernels").startswith(
        "EngineCore raised it in the package kernels: its version may not fit this vLLM (pip check)"
    )
    for package in ("pydantic/_internal", "zmq/sugar", "yaml", "vllm", "torch/nn"):
        assert raised_in(package).startswith("EngineCore raised it; ")


def test_a_file_that_is_tried_again_is_no_cause():
    tried = (
        "ERROR 08-21 08:11:47 [config.py:133] Error retrieving safetensors: Repo id must be in the form 'repo_name' or "
        "'namespace/repo_name': '/models/x.gguf'. Use `repo_type` argument if needed., retrying 1 of 2"
    )
    assert explain([tried, *in_engine("ValueError: it is odd")], 1).cause == "it is odd"


def test_folders_of_a_user_are_no_packages():
    frame = f'{CORE}  File "/home/ray/vllm_env/lib/python3.11/site-packages/vllm/a.py", line 1, in f'
    failure = explain([f"{CORE}{HEADER}", frame, f"{CORE}    g()", f"{CORE}ValueError: it is odd"], 1)
    assert failure.hint.startswith("EngineCore raised it; ")


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            "ValueError: Odd attention is not supported on this device",
            "this GPU or this build of vLLM cannot do it",
        ),
        ("NotImplementedError: odd", "this vLLM cannot do that with this model and these options"),
        ("ValueError: model_config has no odd field", "this vLLM may not know this form of the model"),
        ("RuntimeError: The size of tensor a must match the size of b", "often a fault of this version"),
        (
            "ValueError: It broke. Please check the odd one",
            "Please check the odd one; EngineCore raised it; ",
        ),
        (
            "ValueError: odd config.json. Please check it",
            "Please check it; EngineCore raised it; this vLLM may not know",
        ),
    ],
)
def test_what_helps_against_an_unknown_failure_of_this_kind(said, hint):
    assert hint in explain(in_engine(said), 1).hint


def test_weights_that_do_not_fit():
    where = f'{CORE}  File "{PACKAGES}/vllm/model_executor/layers/fused_moe/layer.py", line 1, in _load_w13'
    failure = explain([f"{CORE}{HEADER}", where, f"{CORE}    f()", f"{CORE}RuntimeError: of other sizes"], 1)
    assert failure.hint.startswith(
        "EngineCore raised it loading the weights: the weights do not fit config.json"
    )


def test_of_an_unknown_failure_the_advice_of_vllm_is_the_hint():
    said = (
        "ValueError: The planets stand badly (3). Please lower moon_size, or use another moon. See the sky."
    )
    failure = explain(in_engine(said), 1)
    assert failure.cause == "The planets stand badly (3)"
    assert failure.hint.startswith(
        "Please lower moon_size, or use another moon. See the sky; EngineCore raised it; "
    )
    assert failure.lines[-1] == said
    useless = "RuntimeError: It is odd. Please file an issue on GitHub"
    assert explain(in_engine(useless), 1).cause == "It is odd. Please file an issue on GitHub"


def test_of_an_unknown_failure_the_flags_are_named_that_its_message_names():
    said = "ValueError: a kv_cache_dtype of max_model_len and no_such_flag do not go with --enforce-eager"
    failure = explain(in_engine(said), 1)
    assert failure.hint.startswith(
        "Change --kv-cache-dtype or --max-model-len or --enforce-eager, or leave it out; "
    )


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("Block size must be a multiple of 16", "Set --block-size to a multiple of 16, or leave it out; "),
        ("max_num_seqs (0) must be at least 1.", "Set --max-num-seqs to 1 or more, or leave it out; "),
        ("data_parallel_size must be > 0 here", "Set --data-parallel-size to 1 or more, or leave it out; "),
        ("load_format 'x' is odd: should be one of 'auto', 'dummy'.", "Choose from auto, dummy for --load-format, "),
        ("'x' is odd. Valid options are: ['a', 'b']", "Choose from a, b; "),
        ("Unknown planet: x. Available planets: Mars, Venus", "Choose from Mars, Venus; "),
        ("hidden_size must be divisible by 8", "EngineCore raised it"),  # of a tensor: no flag sets it
        ("Must be one of " + "a_long_name, " * 50, "EngineCore raised it"),
    ],
)  # fmt: skip
def test_the_values_that_an_unknown_failure_allows(said, hint):
    assert explain(in_engine(f"ValueError: {said}"), 1).hint.startswith(hint)


def test_what_has_called_a_kernel_is_left_out_first():
    def failed_in(path: str) -> str:
        frame = f'{CORE}  File "{PACKAGES}/vllm/{path}", line 1, in f'
        error = f"{CORE}torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
        return explain([f"{CORE}{HEADER}", frame, f"{CORE}    g()", error], 1).hint

    assert failed_in("v1/spec_decode/eagle.py").startswith(
        "Try it without --speculative-config. Try --enforce-eager"
    )
    assert failed_in("model_executor/layers/fused_moe/layer.py").startswith("Try another --moe-backend")
    assert failed_in("v1/sample/sampler.py").startswith("Add --env VLLM_USE_FLASHINFER_SAMPLER=0. ")
    assert failed_in("model_executor/models/llama.py").startswith("Try --enforce-eager")


def test_whoever_wants_another_vllm_is_named():
    def asked_in(path: str, error: str) -> tuple[str, str]:
        lines = [HEADER, f'  File "{path}", line 1, in <module>', "    from x import y", error]
        failure = explain(lines, 1, HintContext(python="/v/bin/python"))
        return failure.cause, failure.hint

    missing = "ModuleNotFoundError: No module named 'vllm.odd'"
    name = f"ImportError: cannot import name 'odd' from 'vllm.utils' ({PACKAGES}/vllm/utils/__init__.py)"
    assert asked_in(f"{PACKAGES}/my_plugin/a.py", missing) == (
        "The package my_plugin is made for another version of vLLM: this one has no vllm.odd",
        "Install the my_plugin for this version of vLLM: /v/bin/python -m pip install -U my_plugin; or remove it",
    )
    assert asked_in("/home/anna/parser.py", name) == (
        "/home/anna/parser.py is made for another version of vLLM: this one has no odd in vllm.utils",
        "Correct /home/anna/parser.py for this version, or leave out the flag that names it (--tool-parser-plugin)",
    )
    assert asked_in(f"{PACKAGES}/vllm/a.py", missing)[0].startswith(
        "This vLLM has no part odd: it is damaged"
    )
    assert asked_in(f"{PACKAGES}/vllm/a.py", name)[1].startswith("Install vLLM again")
    name = f"ImportError: cannot import name 'odd' from 'transformers' ({PACKAGES}/transformers/__init__.py)"
    assert "-m pip install -U peft" in asked_in(f"{PACKAGES}/peft/a.py", name)[1]
    assert asked_in(f"{PACKAGES}/vllm/a.py", name)[1].startswith(
        "Install the version that this vLLM asks for"
    )


def test_a_flag_about_the_same_is_named():
    said = ["vllm: error: unrecognized arguments: --lora-path x"]
    assert explain(said, 2, HintContext(["--lora-modules", "--seed"])).hint == (
        "Leave it out, or use the vLLM that has it; of this kind this one has --lora-modules"
    )
    assert explain(said, 2, HintContext(["--seed"])).hint.startswith(
        "Leave it out, or use the vLLM that has it"
    )
    many = [f"--lora-{name}" for name in ("adapters", "modules", "extra-vocab-size", "dtype")]
    assert "of this kind" not in explain(said, 2, HintContext(many)).hint


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        (
            "tensor parallel size 4 must be greater than total num kv heads 4 when enable decode context parallel for GQA/MQA",
            "Change --tensor-parallel-size, or leave --decode-context-parallel-size out",
        ),
        ("it cannot be done when LoRA is enabled", "Leave --enable-lora out"),
        ("it cannot be done with LoRA", "Change --enable-lora, or leave it out"),
        ("it cannot be done when the moon is full", "EngineCore"),
    ],
)
def test_an_option_with_which_alone_an_error_occurs_is_left_out(said, hint):
    known = HintContext(["--tensor-parallel-size", "--decode-context-parallel-size", "--enable-lora"])
    assert explain(in_engine(f"AssertionError: {said}"), 1, known).hint.startswith(hint)


def test_who_asks_for_a_module_that_a_package_lacks_is_named():
    said = "ModuleNotFoundError: No module named 'outlines.fsm'"
    packages = "/usr/lib/python3.12/site-packages"
    by_vllm = [HEADER, f'  File "{packages}/vllm/a.py", line 1, in <module>', "    import b", said]
    assert "pip check" in explain(by_vllm, 1).hint
    by_other = [HEADER, f'  File "{packages}/lmformat/a.py", line 1, in <module>', "    import b", said]
    failure = explain(by_other, 1)
    assert "the package lmformat needs another version of it" in failure.cause
    assert failure.hint.startswith("Upgrade lmformat (")


def test_the_whole_message_of_an_unknown_failure_is_shown():
    said = ["RuntimeError: it broke:", "the first detail", "the second detail"]
    failure = explain([f"{CORE}{line}" for line in (HEADER, *said, "", "more")], 1)
    assert failure.cause == "it broke"
    assert failure.lines == tuple(said)
    said = pydantic(
        "ModelConfig", "  Value error, Two things:\n- this, set a\n- that. [type=value_error, input_value=3]"
    )
    failure = explain(said, 1)
    assert failure.cause == "Two things: - this, set a - that"
    assert failure.lines[-1] == "- that. [type=value_error, input_value=3]"


def test_an_error_of_a_worker_is_told_without_its_wrapping():
    said = "RuntimeError: Worker failed with error 'at 1:0:\\n^\\nit is odd', please check the stack trace above for the root cause"
    assert explain(in_engine(said), 1).cause == "it is odd"
    said = "ValueError: Call to add_lora method failed: it is odd"
    assert explain([said], 1).cause == "it is odd"


def test_an_error_that_another_file_has_logged():
    log = "(APIServer pid=7) ERROR 11-23 20:49:33 [registry.py:1010] "
    frame = f'{log}  File "/a.py", line 1, in f'
    assert explain([f"{log}{HEADER}", frame, f"{log}KeyError: 'x'"], 1).cause == "KeyError: 'x'"
    assert (
        explain([f"{log}KeyError: 'x'"], 3).cause == "vLLM ended with exit code 3"
    )  # vLLM may go on after that


@pytest.mark.parametrize("sign", [*KNOWN, *UNKNOWN])
def test_what_is_said_is_short_and_reads_as_part_of_a_sentence(sign):
    failure = explain({**KNOWN, **UNKNOWN}[sign][0], 1)
    for text in (failure.cause, failure.hint, *failure.lines):
        assert "\n" not in text
        assert len(text) <= 300
    assert not failure.cause.endswith(".")
    assert not failure.hint.endswith(".")
    assert len(failure.lines) <= 12


@pytest.mark.parametrize(
    ("sign", "port_taken", "gib"),
    [("port in use", True, 0), ("GPU occupied", False, 21.79), ("out of memory", False, 0)],
)
def test_what_somebody_else_holds(sign, port_taken, gib):
    failure = explain(KNOWN[sign][0], 1)
    assert failure.port_taken is port_taken
    assert failure.memory_wanted == int(gib * GIB)


def test_the_flags_that_this_vllm_has():
    said = ["vllm: error: unrecognized arguments: --mx-tokens"]
    assert (
        explain(said, 2, HintContext(["--max-tokens"])).hint == "Did you mean --max-tokens? Else leave it out"
    )
    both = ["--max-token", "--max-model-len", "--max-log-len"]  # the last is more alike, and rare
    said = ["vllm: error: unrecognized arguments: --max-len 9"]
    assert explain(said, 2, HintContext(both)).hint == "Did you mean --max-model-len? Else leave it out"
    assert explain(said, 2, HintContext(())).hint.startswith("Leave it out, or use the vLLM that has it")
    assert "--max-model-len" in flags.WELL_KNOWN


def test_a_flag_of_another_version_is_answered_with_what_to_do():
    said = ["vllm: error: unrecognized arguments: --disable-log-requests"]
    remedy = "Leave it out: requests are only logged with --enable-log-requests"
    assert explain(said, 2).hint == remedy
    assert explain(said, 2, HintContext(["--enable-log-requests"])).hint == remedy
    assert explain(said, 2, HintContext(["--seed"])).hint.startswith(
        "Leave it out, or use the vLLM that has it"
    )
    said = ["vllm: error: unrecognized arguments: --num-spec 1 --worker-use-ray"]
    assert explain(said, 2).hint == "--worker-use-ray: Write --distributed-executor-backend ray"


def test_the_search_for_an_error_leaves_out_what_is_of_this_machine_alone():
    said = "RuntimeError: head_size 100 of layer 7 in /home/anna/model.py at 0x7f12 is strange"
    assert explain([said], 1).hint.endswith("issues?q=head_size+of+layer+in+at+is+strange")


def test_words_of_the_log_are_no_format():
    assert "{0} {x}" in explain(["vllm: error: unrecognized arguments: --{0} {x}"], 2).cause


@pytest.mark.parametrize(
    ("code", "cause", "hint"),
    [
        (-int(signal.SIGKILL), "vLLM ended by signal 9 (SIGKILL)", WITHOUT_MEMORY),
        (
            -int(signal.SIGTERM),
            "vLLM ended by signal 15 (SIGTERM)",
            "Somebody else ended it: a batch system, or kill",
        ),
        (-int(signal.SIGINT), "vLLM ended by signal 2 (SIGINT)", "Somebody else interrupted it"),
        (3, "vLLM ended with exit code 3", SEE_LOGS),
        (None, "vLLM ended for an unknown reason", SEE_LOGS),
    ],
)
def test_nothing_telling(code, cause, hint):
    noise = NOISE[:6]
    for failure in (explain(noise, code), explain_death(noise, code)):
        assert (failure.cause, failure.hint, failure.lines) == (cause, hint, noise[-3:])
    assert explain([], code).cause == cause


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


class TestLines:
    """The log's telling lines."""

    def test_the_deepest_frames_of_vllm_and_of_the_user(self):
        def frames(*paths: str) -> list[str]:
            return [
                line
                for number, path in enumerate(paths)
                for line in (f'  File "{path}", line {number}, in f', f"    call({number})", "    ^^^^")
            ]

        said = [
            HEADER,
            *frames("/outermost/main.py", f"{PACKAGES}/vllm/v1/worker/gpu_worker.py", "/home/anna/model.py"),
            *frames(f"{PACKAGES}/torch/nn/modules/module.py", "/usr/lib/python3.11/json/decoder.py"),
            *frames(f"{PACKAGES}/vllm/model_executor/layers/linear.py", "<frozen importlib._bootstrap>"),
            "ValueError: Load format `x` is not supported",
        ]
        others = [
            f"(Worker_TP1 pid=8) ERROR 11-23 20:49:30 [multiproc_executor.py:953] {line}" for line in said
        ]
        both = [line for one, other in zip(said, others, strict=True) for line in (f"{WORKER}{one}", other)]
        assert explain(both, 1).lines == (
            f'  File "{PACKAGES}/vllm/v1/worker/gpu_worker.py", line 1, in f',
            "    call(1)",
            '  File "/home/anna/model.py", line 2, in f',
            "    call(2)",
            f'  File "{PACKAGES}/vllm/model_executor/layers/linear.py", line 0, in f',
            "    call(0)",
            "ValueError: Load format `x` is not supported",
        )

    def test_a_message_of_several_lines(self):
        lines = explain(KNOWN["max_model_len"][0], 1).lines
        assert [line.split()[0] for line in lines] == [
            "pydantic_core._pydantic_core.ValidationError:",
            "Value",
        ]

    def test_where_it_is_raised_and_not_where_it_was_logged_before(self):
        logged = f"{API}ERROR 11-23 20:49:30 [repo_utils.py:126] Error parsing config for m: has model type `x` but Transformers does not recognize this architecture"
        raised = f"ValueError: {logged.partition(': ')[2]}"
        said = [logged, logged, HEADER, '  File "/a.py", line 1, in f', raised]
        assert explain(said, 1).lines == (said[3], raised)
        assert explain(said[:2], 1).lines == (logged.partition("] ")[2],)

    def test_a_frame_without_source(self):
        frames = [
            '  File "<string>", line 1, in f',
            '  File "/a.py", line 2, in g',
            '  File "/b.py", line 3, in h',
        ]
        said = [HEADER, *frames, "    h()", "KeyError: 1"]
        assert explain(said, 1).lines == (*frames[1:], "    h()", "KeyError: 1")

    def test_a_line_without_a_traceback(self):
        said = [HEADER, '  File "/a.py", line 1, in f', "KeyError: 1", *["more"] * 9, "RuntimeError: Load format `x` is not supported"]  # fmt: skip
        assert explain(said, 1).lines == (said[-1],)


class TestDeath:
    """Of a server that was ready."""

    FATAL = (
        f"{CORE}EngineCore encountered a fatal error.",
        f"{CORE}{HEADER}",
        f"{CORE}RuntimeError: Worker failed with error 'no kernel image', please check the stack trace above for the root cause",
    )
    REQUEST = (
        "(APIServer pid=7) ERROR 11-23 20:49:33 [async_llm.py:906] vllm.v1.engine.exceptions.EngineDeadError: EngineCore "
        "encountered an issue. See stack trace (above) for the root cause."
    )
    STOPPED = (
        "(APIServer pid=7) INFO 11-23 20:49:33 [launcher.py:254] [shutdown] API server: shutdown triggered"
    )

    def test_the_worker_says_why_right_above(self):
        said = [
            f"{WORKER}WorkerProc hit an exception.",
            f"{WORKER}{HEADER}",
            f"{WORKER}RuntimeError: CUDA error: no kernel image is available",
            *self.FATAL,
            self.REQUEST,
        ]
        failure = explain_death([*NOISE, *said], 0)
        assert failure.cause == "A kernel failed on the GPU: no kernel image is available"

    def test_the_engine_says_why(self):
        failure = explain_death([*self.FATAL[:2], f"{CORE}torch.OutOfMemoryError: {OOM}", self.REQUEST], 0)
        assert failure.cause.startswith("GPU 0 is out of memory")

    def test_a_worker_that_is_gone(self):
        failure = explain_death([*KNOWN["worker killed"][0][:1], *self.FATAL, self.REQUEST], 0)
        assert (failure.cause, failure.hint) == ("VllmWorker-1 ended by signal 9 (SIGKILL)", WITHOUT_MEMORY)

    @pytest.mark.parametrize(
        ("source", "said", "who"),
        [
            ("multiproc_executor.py:247", "Worker proc VllmWorker-1", "VllmWorker-1"),
            ("ray_executor_v2.py:465", "RayWorkerProc rank=[0,1]", "rank=[0,1]"),
        ],
    )
    def test_a_worker_of_which_vllm_does_not_say_how_it_ended(self, source, said, who):
        """As up to vLLM 0.24. It is the cause only if nothing was wrong before."""
        line = f"(EngineCore_DP0 pid=9) ERROR 11-23 20:49:32 [{source}] {said} died unexpectedly, shutting down executor."
        failure = explain_death([line, *self.FATAL, self.REQUEST], 0)
        assert failure.cause == f"The worker {who} ended, and vLLM does not say why"
        assert failure.hint.startswith("The log does not say why. dmesg tells")
        failed = [*self.FATAL[:2], f"{CORE}KeyError: 'x'"]
        assert explain_death([*failed, line, self.REQUEST], 0).cause == "KeyError: 'x'"

    @pytest.mark.parametrize(
        ("said", "cause"),
        [
            (
                "Engine core process EngineCore_DP1 died unexpectedly.",
                "The engine ended, and did not say why",
            ),
            (
                "Process ApiServer_0 (PID: 77) died with exit code -11",
                "ApiServer_0 ended by signal 11 (SIGSEGV)",
            ),
        ],
    )
    def test_several_api_servers(self, said, cause):
        logged = "(APIServer pid=7) ERROR 11-23 20:49:33 [utils.py:600] "
        lines = [
            f"{logged}Exception occurred while running API servers: {said}",
            f"{logged}{HEADER}",
            f"{logged}RuntimeError: {said}",
        ]
        assert explain_death(lines, 1).cause == cause

    def test_what_failed_earlier_is_no_cause(self):
        before = [
            "(APIServer pid=7) ERROR 11-23 19:49:33 [serving.py:9] OSError: You are trying to access a gated repo.",
            f"{WORKER}RuntimeError: of a call that failed",
            "(EngineCore pid=9) ERROR 11-23 19:49:33 [core.py:1750] Invocation of sleep method failed",
        ]
        failure = explain_death([*before, self.REQUEST], 0)
        assert failure.cause == "The engine ended, and did not say why"
        assert "dmesg" in failure.hint

    def test_requests_under_way_say_it_hundreds_of_times(self):
        failure = explain_death([*self.FATAL[:2], f"{CORE}KeyError: 'x'", *[self.REQUEST] * 900], 0)
        assert failure.cause == "KeyError: 'x'"

    def test_a_request_that_prints_it(self):
        printed = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. See stack trace (above) for the root cause."
        for said in ([printed], [self.REQUEST, HEADER, printed]):
            assert explain_death(said, 0).cause == "The engine ended, and did not say why"

    def test_a_signal_from_elsewhere(self):
        """vLLM logs the same of an engine that it ends itself."""
        failure = explain_death([self.STOPPED, self.REQUEST], 0)
        assert failure.cause == "Somebody else asked it to end (SIGTERM or SIGINT)"
        assert explain_death([self.STOPPED], 0).cause == failure.cause
        assert explain_death([self.REQUEST, self.STOPPED], 0).cause == "The engine ended, and did not say why"

    def test_a_signal_from_elsewhere_up_to_0_20(self):
        """There vLLM says so after its engine has ended."""
        stopped = "(APIServer pid=7) INFO 11-23 20:49:33 [launcher.py:110] Shutting down FastAPI HTTP server."
        cause = "Somebody else asked it to end (SIGTERM or SIGINT)"
        assert explain_death([stopped], 0).cause == cause
        finished = [
            "(APIServer pid=7) INFO:     Application shutdown complete.",
            "(APIServer pid=7) INFO:     Finished server process [7]",
        ]
        assert explain_death(finished, 0).cause == cause  # as on a real 0.20.2
        assert explain_death([self.REQUEST, *finished], 0).cause == "The engine ended, and did not say why"
        assert explain_death(finished, 1).cause == "vLLM ended with exit code 1"
