"""A flag that vLLM does not have is said before the start; whatever vLLM might take is left to it."""

from __future__ import annotations

import pytest

from vllm_magic.engine import command
from vllm_magic.engine.flags.flag_table import FlagOption, FlagTable
from vllm_magic.engine.start_checks import unknown_flags
from vllm_magic.errors import InvalidOption

TABLE = FlagTable(
    "0.32.0",
    (
        FlagOption(("--max-model-len",), "int"),
        FlagOption(("--max-num-seqs",), "int"),
        FlagOption(("--hf-overrides",), "loads"),
        FlagOption(("--compilation-config", "-cc")),
        FlagOption(("--enforce-eager", "--no-enforce-eager"), "bool", nargs="0"),
        FlagOption(("--tensor-parallel-size", "-tp"), "int"),
        FlagOption(("--chat-template",)),
        FlagOption(("--api_key",)),
    ),
)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "--max-model-len 4096",
        "--max-model-len=4096",
        "--max_model_len 4096 --max_num_seqs=1",
        "--max-model 4096",  # argparse takes a beginning
        "--max 4096",  # and says itself that this one is ambiguous
        "--api-key x",
        "--api_key x",
        "--enforce-eager --no-enforce-eager --no_enforce_eager",
        "-tp 2",
        "-tp=2 -zz -x 1 -O3 -O.level=3 -cc.mode 3 -cc.a.b+ --strange",
        "--hf-overrides.a.b 1",
        "--hf_overrides.a_b.c=--strange",
        "--hf-overrides.a --strange",
        "--hf-over.a+ --strange",
        "--max-model-len -1",
        "--max-model-len=-1 -0.5",
        "--chat-template|--- a b",
        "--chat-template|{{ --strange }}",
        "--strange things|--said to be one",
        "-- --strange",
        "--omni --strange",
        "--strange --omni",
    ],
)
def test_what_vllm_may_take_is_left_to_it(line):
    words = line.split("|") if "|" in line else line.split()
    assert unknown_flags.find(words, TABLE) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("--max-modell-len 4096", "--max-modell-len"),
        ("--max-modell-len=4096", "--max-modell-len"),
        ("--max_modell_len 4096", "--max_modell_len"),
        ("--max-model-length 4096", "--max-model-length"),
        ("--enforce-eager --strange", "--strange"),
        ("-tp 2 --strange --other", "--strange --other"),
        ("--strange.a.b 1", "--strange"),
        ("--strange.a=1", "--strange"),
        ("--hf-overrides.a=1 --strange", "--strange"),
        ("--hf-overrides.a 1 --strange", "--strange"),
        ('--strange={"a":1.5}', "--strange"),
        ("--max-model-len 0.5 --strange", "--strange"),
        ("--no-max-model-len", "--no-max-model-len"),
        ("--Max-Model-Len 1", "--Max-Model-Len"),
    ],
)
def test_what_it_does_not_have_is_found(line, found):
    assert unknown_flags.find(line.split(), TABLE) == found.split()


@pytest.mark.parametrize(
    "line", ["-max-model-len 1", "-max-num-seqs=1", "-hf-overrides.a 1", "-tensor-parallel-size 2"]
)
def test_a_long_flag_with_one_dash_is_found(line):
    assert unknown_flags.find(line.split(), TABLE) == [line.split()[0].partition("=")[0].partition(".")[0]]


@pytest.mark.parametrize("line", ["-t 2", "-O3", "-strange", "-c", "-1.5", "--chat-template -"])
def test_what_may_be_a_short_flag_is_left_to_vllm(line):
    assert unknown_flags.find(line.split(), TABLE) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--max-modell-len 1", "vLLM 0.32.0 has no flag --max-modell-len. Did you mean --max-model-len?"),
        ("-revision 1", "vLLM 0.32.0 has no flag -revision. Write --revision, with two dashes."),
        ("--kep 10m", "Did you mean keep=?"),
        ("--tmieout 5", "Did you mean timeout=?"),
        (
            "--disable-log-requests",
            "has no flag --disable-log-requests any more. Leave it out: requests are only logged with --enable-log-requests.",
        ),
        ("--guided-decoding-backend=xgrammar", "any more. It is --structured-outputs-config.backend now."),
        ("--guided_decoding_backend xgrammar", "any more. It is --structured-outputs-config.backend now."),
        ("--device cuda", "has no flag --device any more. Leave it out: vLLM uses the kind of device"),
        ("--device- cuda", "has no flag --device-, and several begin with it: --device-ids and --device-memory-utilization."),
        ("--tp 2", "has no flag --tp. Write -tp, with one dash."),
        ("--swap-space 4", "has no flag --swap-space. If a plugin"),  # this vLLM does not have the flag in the remedy
        ("--zzz", "vLLM 0.32.0 has no flag --zzz. If a plugin adds it while vLLM starts, force=True starts the server all the same."),
    ],
)  # fmt: skip
def test_what_to_write_in_its_place(planned, line, said):
    with pytest.raises(InvalidOption) as refused:
        unknown_flags.check(planned(*line.split()))
    assert said in str(refused.value)


def test_a_flag_in_a_file_is_refused_with_the_name_of_the_file(planned, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("max-num-seqs: 8\nmax-modell-len: 8\n")
    with pytest.raises(InvalidOption) as refused:
        unknown_flags.check(planned("--config", str(path)))
    assert (
        str(refused.value)
        == f"vLLM 0.32.0 has no flag --max-modell-len (in {path}). Did you mean --max-model-len?"
    )
    path.write_text("max-num-seqs: 8\nstrange: false\n")  # vLLM leaves it out
    unknown_flags.check(planned("--config", str(path)))


def test_nothing_is_refused_where_the_flags_are_not_known(planned):
    unknown_flags.check(planned("--zzz", "-revision", table=None))
    unknown_flags.check(planned("--zzz", "--omni"))


QUIET = ("--disable-access-log-for-endpoints", "/health,/metrics")


def test_no_flag_is_added_where_the_flags_are_not_known(spec):
    assert QUIET[0] not in command.build(spec()).argv


def test_an_option_of_vllm_magic_that_reaches_vllm(planned):
    """As in vllm_magic.start("m", "--gpus", "0"), where it is an argument of the call."""
    with pytest.raises(InvalidOption, match=r"no flag --no-wait\. .* in a call, write wait=False\."):
        unknown_flags.check(planned("--no-wait"))
    with pytest.raises(InvalidOption, match=r"in a call, write gpus=\."):
        unknown_flags.check(planned("--gpus", "0"))
