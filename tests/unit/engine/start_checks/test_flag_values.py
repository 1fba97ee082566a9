"""A value that vLLM's parser refuses is refused at once; whatever vLLM might accept is left to it."""

from __future__ import annotations

import shlex

import pytest

from vllm_magic.engine.start_checks import flag_values
from vllm_magic.errors import InvalidOption

DTYPES = "Choose from auto, bfloat16, float, float16, float32 or half."


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--dtype half --dtype=float16",
        "--dtype None",
        "--quantization a_method_of_a_plugin",
        "--max-lora-rank 64 --max-lora-rank=08",
        "--moe-backend whatever",  # its type is not known
        "--collect-detailed-traces all model",
        "--max-model-len 4096 --max-model-len 32k --max-model-len 25.6k --max-model-len 32K --max-model-len=-1",
        "--max-model-len auto --max-model-len AUTO --max-model-len ' 4096 ' --max-model-len 4_096",
        "--max-num-batched-tokens 8k --max-num-seqs +8 --max-num-seqs -1 --max-num-seqs ''",
        f"--seed {'9' * 5000}",
        "--gpu-memory-utilization .9 --gpu-memory-utilization 9e-1 --gpu-memory-utilization nan",
        """--limit-mm-per-prompt '{"image": 2}'""",
        "--limit-mm-per-prompt.image 2 --limit-mm-per-prompt.video=many",
        """--compilation-config '{"mode": 3, "bytes": 80m}' -cc 3 -cc.mode x""",
        """--hf-overrides ' {"a": 1}' --hf-overrides ''""",
        "--served-model-name a b c --hf-token",
        "--enforce-eager --no-enforce-eager --no_enforce_eager",
        "--cudagraph-capture-sizes 1 2 4",
        "--chat-template '--- a b'",
        "--strange a b -O3 -x y z",
        "--reasoning nothing nobody",  # ambiguous, which vLLM says
        "--seed 1 -- --dtype float99",
        "--omni --dtype float99",
    ],
)
def test_what_vllm_may_accept_is_left_to_it(planned, line):
    flag_values.check(planned(*shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--dtype float99", f"--dtype float99 is not among the values that vLLM accepts. Did you mean float? {DTYPES}"),
        ("--dtype=fp16", f"--dtype fp16 is not among the values that vLLM accepts. Did you mean float16? {DTYPES}"),
        ("--hf-overrides {a: 1}", """Write --hf-overrides '{"a": 1}', with the quotes."""),
        ("--limit-mm-per-prompt '{“image”: 2}'", """Write --limit-mm-per-prompt '{"image": 2}', with the quotes."""),
        ("--dtype BFLOAT16", "Did you mean bfloat16?"),
        ("--dtype x", f"--dtype x is not among the values that vLLM accepts. {DTYPES}"),
        ("--max-lora-rank 7", "--max-lora-rank 7 is not among the values that vLLM accepts. Choose from 1, 8, 16 or 64."),
        ("--collect-detailed-traces all some", "--collect-detailed-traces some is not among"),
        ("--max-num-seqs many", "--max-num-seqs many is not a whole number. Give a whole number."),
        ("--max-num-seqs 8k", "--max-num-seqs 8k is not a whole number. Write --max-num-seqs 8000."),
        ("--max-num-seqs 1.5", "--max-num-seqs 1.5 is not a whole number. Give a whole number."),
        ("--max-lora-rank big", "--max-lora-rank big is not a whole number. Give a whole number."),
        ("--max-model-len 8,192", "--max-model-len 8,192 is not a whole number. Write --max-model-len 8192."),
        ("--max-model-len 32kb", "Write --max-model-len 32k."),
        ("--max-model-len 4096tokens", "Write --max-model-len 4096."),
        ("--max-model-len 1.5K", "Write --max-model-len 1.5k."),
        ("--max-model-len long", "--max-model-len long is not a whole number. Give a whole number, such as 8192 or 8k."),
        ("--max-num-batched-tokens auto", "--max-num-batched-tokens auto is not a whole number."),
        ("-tp two", "-tp two is not a whole number. Give a whole number."),
        ("-tp=two", "-tp two is not a whole number."),
        ("--gpu-memory-utilization 90%", "--gpu-memory-utilization 90% is not a number. Write --gpu-memory-utilization 0.9."),
        ("--device-memory-utilization 0,9", "Write --device-memory-utilization 0.9."),
        ("--gpu-memory-utilization high", "Give a number, such as 0.92."),
        ("--gpu-memory-utilization 0,1", 'Write --gpu-memory-utilization 0.92, or gpus="0,1" to choose GPUs.'),
        ("--gpu-memory-utilization 0,9", 'Write --gpu-memory-utilization 0.9, or gpus="0,9" to choose GPUs.'),
        ("--cpu-offload-gb 4G", "--cpu-offload-gb 4G is not a number. Write --cpu-offload-gb 4."),
        ("--cpu-offload-gb 4GiB", "Write --cpu-offload-gb 4."),
        ("--cpu-offload-gb 4M", "--cpu-offload-gb 4M is not a number. Give a number"),
        ("--kv-cache-dtype fp16", "Did you mean float16?"),
        ("--kv-cache-dtype FLOAT8", "Did you mean fp8?"),
 ("--limit-mm-per-prompt 2", """2 is not a JSON object. Write --limit-mm-per-prompt '{"KEY": VALUE}', with the quotes."""),
        ("--limit-mm-per-prompt [2]", "--limit-mm-per-prompt [2] is not a JSON object."),
        ("--hf-overrides text", """--hf-overrides text is not JSON. Write --hf-overrides '{"KEY": VALUE}', with the quotes."""),
        ("--hf-overrides 5", "--hf-overrides 5 is not a JSON object."),
        ("--hf-overrides a=1", """Write --hf-overrides '{"a": 1}', with the quotes."""),
        ("--served-model-name ''", "--served-model-name '' is no name. Give a name, or leave it out: then the model's name is used."),
        ("--served-model-name a None", "--served-model-name None is no name."),
        ("--seed ''", "--seed '' is not a whole number. Give a whole number."),
        ("--seed None", "--seed None is not a whole number. Give a whole number."),
        ("--limit-mm-per-prompt ''", "--limit-mm-per-prompt '' is not JSON."),
        ("--cudagraph-capture-sizes 1,2,4", "Write --cudagraph-capture-sizes 1 2 4."),
        ("--seed", "--seed has no value. Write --seed 0."),
        ("--seed --enforce-eager", "--seed has no value. Write --seed 0."),
        ("--dtype", "--dtype has no value. Write --dtype auto."),
        ("--served-model-name --seed 1", "--served-model-name has no value. Write --served-model-name VALUE."),
        ("--limit-mm-per-prompt", """Write --limit-mm-per-prompt '{"KEY": VALUE}'."""),
        (
            "--limit-mm-per-prompt image=2",
            """--limit-mm-per-prompt image=2 is not JSON. Write --limit-mm-per-prompt '{"image": 2}', with the quotes.""",
        ),
        ("--limit-mm-per-prompt {image: 2} --seed 1", """Write --limit-mm-per-prompt '{"image": 2}', with the quotes."""),
        ("""--limit-mm-per-prompt "{'image': 2}" """, """Write --limit-mm-per-prompt '{"image": 2}', with the quotes."""),
        ("--limit-mm-per-prompt many", """Write --limit-mm-per-prompt '{"KEY": VALUE}', with the quotes."""),
        ("--hf-overrides {a:1}", """Write --hf-overrides '{"a": 1}', with the quotes."""),
        ("-cc {mode:3}", """-cc {mode:3} is not JSON. Write -cc '{"mode": 3}', with the quotes."""),
        ("--allowed-origins *", """Write --allowed-origins '["*"]', with the quotes."""),
        ("--allowed-origins a,b", """Write --allowed-origins '["a", "b"]', with the quotes."""),
        (
            "--enforce-eager true",
            "true: --enforce-eager is a switch, and takes no value. Write --enforce-eager alone, or --no-enforce-eager for the opposite.",
        ),
        ("--enforce-eager=false --seed 1", "--enforce-eager=false: --enforce-eager is a switch"),
        ("--seed 1 2", "--seed 1 2: --seed takes one value. Leave out 2."),
        ("--revision my branch", "--revision takes one value. Put a value with blanks in quotes: --revision 'my branch'."),
        ("--omn --dtype float99", "--dtype float99"),
    ],
)  # fmt: skip
def test_the_rest_is_refused(planned, line, said):
    with pytest.raises(InvalidOption) as refused:
        flag_values.check(planned(*shlex.split(line)))
    assert said in str(refused.value)


def test_a_value_in_a_file_is_refused_with_the_name_of_the_file(planned, tmp_path):
    (tmp_path / "a.yaml").write_text("max-num-seqs: many\nenforce-eager: false\nseed: 1\n")
    path = str(tmp_path / "a.yaml")
    with pytest.raises(InvalidOption) as refused:
        flag_values.check(planned("--config", path))
    assert (
        str(refused.value) == f"--max-num-seqs many is not a whole number (in {path}). Give a whole number."
    )
    (tmp_path / "a.yaml").write_text(
        "max-num-seqs: 8\nlimit-mm-per-prompt:\n  image: 2\nserved-model-name: [a, b]\n"
    )
    flag_values.check(planned("--config", path))
    with pytest.raises(InvalidOption) as refused:
        flag_values.check(planned("--config", path, "--seed", "x"))
    assert str(refused.value) == "--seed x is not a whole number. Give a whole number."


def test_nothing_is_refused_where_the_flags_are_not_known(planned):
    flag_values.check(planned("--dtype", "float99", table=None))


def test_a_long_value_is_not_quoted_in_full(planned):
    with pytest.raises(InvalidOption) as refused:
        flag_values.check(planned("--seed", "x" * 1000))
    assert len(str(refused.value)) < 200
