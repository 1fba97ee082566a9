"""The words behind `%vllm`: own options taken out, everything else to vLLM as it stands."""

from __future__ import annotations

import pytest

from vllm_magic.commands.front_end import CELL
from vllm_magic.engine.flags import flags
from vllm_magic.errors import InvalidOption
from vllm_magic.jupyter.commands import registry, start_arguments
from vllm_magic.jupyter.commands.base import NoArguments, ServerName
from vllm_magic.jupyter.commands.inspect import LogsArguments
from vllm_magic.jupyter.commands.lifecycle import StopArguments
from vllm_magic.jupyter.commands.machine import ReapArguments
from vllm_magic.jupyter.commands.settings import Settings


def start(*words: str, **fields):
    return start_arguments.parse(words, **fields)


def parse(command: str, *words: str):
    return registry.commands()[command].parse(words)


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        ([], "status", []),
        (["start", "m"], "start", ["m"]),
        (["stop"], "stop", []),
        (["restart"], "restart", []),
        (["logs", "-n", "5"], "logs", ["-n", "5"]),
        (["gpu"], "gpu", []),
        (["help"], "help", []),
        (["help", "stop"], "help", ["stop"]),
        (["-h"], "help", []),
        (["--help"], "help", []),
        (["start", "--help"], "help", ["start"]),
        (["stop", "-h"], "help", ["stop"]),
        (["-h", "stop"], "help", ["stop"]),
        (["start", "m", "--port", "1", "--help"], "help", ["start"]),
    ],
)
def test_which_command(words, name, rest):
    command, given = registry.select(words)
    assert (command.declaration.name, given) == (name, rest)


@pytest.mark.parametrize(
    ("words", "name", "rest"),
    [
        ([], CELL, []),
        (["tiny", "--new"], CELL, ["tiny", "--new"]),
        (["--help"], "help", [CELL]),
        (["tiny", "-h"], "help", [CELL]),
    ],
)
def test_which_command_in_a_cell(words, name, rest):
    command, given = registry.select(words, cell=True)
    assert (command.declaration.name, given) == (name, rest)


@pytest.mark.parametrize("word", ["strat", "STOP", "Start", "statu", "--name", "Qwen/Qwen3-0.6B", "", CELL])
def test_no_command(word):
    with pytest.raises(InvalidOption, match=r"See %vllm help\.$") as caught:
        registry.select([word])
    assert repr(word) in str(caught.value)


def test_a_command_that_is_near_is_named():
    with pytest.raises(InvalidOption, match=r"Did you mean %vllm start\?"):
        registry.select(["strat"])


class TestStart:
    @pytest.mark.parametrize(
        "flags",
        [
            ["-O.level=3"],
            ["--hf-overrides", '{"a": {"b": 1}}'],
            ["--flag=value"],
            ["-tp", "2"],
            ["--enforce-eager"],
            ["--served-model-name", "a", "b"],
            ["--nam", "x"],  # no abbreviation of --name
            ["--name-suffix", "x", "--environment", "y", "--no-waiting"],
            ["--api-server-count", "2", "-n", "5"],
        ],
    )
    def test_flags_of_vllm_stay_as_they_stand(self, flags):
        said = start("m", *flags)
        assert said.spec.args == tuple(flags)
        assert said.spec.model == "m"
        assert said.wait
        assert said.timeout is None

    def test_own_options_stand_anywhere_with_a_blank_or_an_equals_sign(self):
        said = start(
            *("--name", "one", "m", "--seed", "1", "--port=8001", "--no-wait", "-tp", "2", "--gpus", "0,1"),
            *("--timeout=90", "--env", "A=1", "--enforce-eager", "--executable", "/bin/vllm", "--env=B=2"),
        )
        assert said.spec.model == "m"
        assert said.spec.args == ("--seed", "1", "-tp", "2", "--enforce-eager")
        assert (said.spec.name, said.spec.port, said.spec.gpus) == ("one", 8001, "0,1")
        assert said.spec.executable == "/bin/vllm"
        assert said.spec.env == (("A", "1"), ("B", "2"))
        assert not said.wait
        assert said.timeout == 90.0

    @pytest.mark.parametrize(
        ("words", "env"),
        [
            (["--env", "A=B=C"], (("A", "B=C"),)),
            (["--env=A=B=C"], (("A", "B=C"),)),
            (["--env", "A="], (("A", ""),)),
            (["--env", "A=two words"], (("A", "two words"),)),
            (["--env", "A=1", "--env", "A=2"], (("A", "2"),)),
            (["--env", "-A=-1"], (("-A", "-1"),)),
            (["--env", 'A={"a": 1}'], (("A", '{"a": 1}'),)),
        ],
    )
    def test_environment(self, words, env):
        assert start("m", *words).spec.env == env

    def test_the_order_of_the_environment_does_not_make_another_server(self):
        assert (
            start("m", "--env", "A=1", "--env", "B=2").spec == start("m", "--env", "B=2", "--env", "A=1").spec
        )

    def test_a_value_may_begin_with_a_dash(self):
        assert start("m", "--executable", "-vllm").spec.executable == "-vllm"
        assert start("m", "--gpus", "--port").spec.gpus == "--port"
        assert start("m", "--gpus=-1").spec.gpus == "-1"

    def test_the_last_of_two_counts(self):
        assert start("m", "--port", "1", "--port=2").spec.port == 2

    @pytest.mark.parametrize(
        "line",
        [
            "vllm serve tiny --seed 1",
            "serve tiny --seed 1",
            "vllm serve --model tiny --seed 1",
            "vllm serve --seed 1 --model=tiny",
            "vllm serve --name tiny tiny --seed 1",
        ],
    )
    def test_a_pasted_command_line_is_meant_as_it_stands(self, line):
        spec = start_arguments.parse(line.split()).spec
        assert (spec.model, spec.args, spec.name) == ("tiny", ("--seed", "1"), "tiny")

    @pytest.mark.parametrize("line", ["--model tiny --seed 1", "--seed 1 --model=tiny"])
    def test_the_model_may_be_named_by_a_flag(self, line):
        spec = start_arguments.parse(line.split()).spec
        assert (spec.model, spec.args) == ("tiny", ("--seed", "1"))

    @pytest.mark.parametrize(
        ("line", "model"), [("--config m.yaml", "org/in-file"), ("tiny --config m.yaml", "tiny")]
    )
    def test_a_config_file_may_name_the_model(self, line, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "m.yaml").write_text("model: org/in-file\nseed: 7\n")
        spec = start_arguments.parse(line.split()).spec
        assert (spec.model, spec.args) == (model, ("--config", "m.yaml"))

    def test_a_config_file_without_a_model(self, tmp_path):
        (tmp_path / "m.yaml").write_text("seed: 7\n")
        with pytest.raises(InvalidOption, match="Which model"):
            start_arguments.parse(["--config", str(tmp_path / "m.yaml")])

    @pytest.mark.parametrize("line", ["serve", "serve --seed 1", "vllm", "vllm --seed 1"])
    def test_a_model_may_be_called_like_the_program(self, line):
        assert start_arguments.parse(line.split()).spec.model == line.split()[0]

    def test_a_pasted_command_line_without_a_model(self):
        with pytest.raises(InvalidOption, match="Which model"):
            start_arguments.parse(["vllm", "serve", "--seed", "1"])

    def test_all_own_options_take_part_in_suggestions(self):
        assert {option.flag for option in start_arguments.OPTIONS} == set(flags.OWN)

    def test_behind_two_dashes_nothing_is_ours(self):
        said = start("--name", "one", "m", "--", "--name", "two", "--no-wait", "--", "x")
        assert said.spec.name == "one"
        assert said.spec.args == ("--name", "two", "--no-wait", "--", "x")
        assert said.wait

    def test_a_key_among_the_flags_is_not_shown(self):
        assert "sk-1" not in repr(start("m", "--api-key", "sk-1", "--env", "HF_TOKEN=hf-1"))
        assert "hf-1" not in repr(start("m", "--env", "HF_TOKEN=hf-1"))

    def test_a_time_to_live(self):
        assert start("m", "--ttl", "1h30m").spec.ttl == 5400
        assert start("m", "--ttl=30m", "--timeout", "2m").timeout == 120
        assert start("m", "--ttl=30m").spec != start("m").spec
        assert start("m").spec.ttl is None

    def test_the_configured_executable_is_the_default(self):
        assert start("m", defaults=Settings("/a")).spec.executable == "/a"
        assert start("m", "--executable", "/b", defaults=Settings("/a")).spec.executable == "/b"
        assert start("m").spec.executable is None

    @pytest.mark.parametrize(
        "words", [[], ["--max-model-len", "4096", "m"], ["--name", "x"], ["--no-wait"], [""]]
    )
    def test_the_model_comes_first(self, words):
        with pytest.raises(InvalidOption, match="Which model"):
            start(*words)

    @pytest.mark.parametrize(
        "flag", ["--name", "--port", "--gpus", "--executable", "--env", "--ttl", "--timeout"]
    )
    def test_a_missing_value(self, flag):
        with pytest.raises(InvalidOption, match=f"{flag} needs a value"):
            start("m", flag)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--port", "http"], "Argument --port: 'http' is not a whole number. See %vllm help start."),
            (["--port="], "--port"),
            (["--port", "0"], "0 is not a port"),
            (["--port", "70000"], "70000 is not a port"),
            (["--timeout", "soon"], "'soon' is not a time: 90, 90s, 30m or 1h30m"),
            (["--timeout", "-1"], "'-1' is not a time: 90, 90s, 30m or 1h30m"),
            (["--timeout", "inf"], "'inf' is not a time: 90, 90s, 30m or 1h30m"),
            (["--timeout", "nan"], "'nan' is not a time: 90, 90s, 30m or 1h30m"),
            (["--ttl", "1h30"], "'1h30' is not a time"),
            (["--ttl", "0"], "--ttl 0 is not possible"),
            (["--ttl", "30m", "--disable-log-stats"], "--disable-log-stats disables them"),
            (["--ttl=30m", "--disable_log_stats"], "--disable-log-stats disables them"),
            (["--env", "A"], "write NAME=VALUE"),
            (["--env", "=1"], "write NAME=VALUE"),
            (["--env="], "write NAME=VALUE"),
            (["--no-wait=1"], "--no-wait"),
            (["--name", "a b"], "'a b' cannot be a name"),
            (["--name", "../x"], "cannot be a name"),
        ],
    )
    def test_a_value_that_does_not_fit(self, words, says):
        with pytest.raises(InvalidOption) as caught:
            start("m", *words)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)


class TestStop:
    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            ([], StopArguments(None, all=False, grace=None, drain=0.0)),
            (["one"], StopArguments("one", all=False, grace=None, drain=0.0)),
            (["--all"], StopArguments(None, all=True, grace=None, drain=0.0)),
            (["--grace", "2.5", "one"], StopArguments("one", all=False, grace=2.5, drain=0.0)),
            (["one", "--drain=30", "--grace=0"], StopArguments("one", all=False, grace=0.0, drain=30.0)),
        ],
    )
    def test_what_to_stop(self, words, meant):
        assert parse("stop", *words) == meant

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["one", "--all"], "Both one and --all are given. Leave one of them out."),
            (["one", "two"], "two"),
            (["--force"], "--force"),
            (["--al"], "--al"),
            (["--grace"], "--grace"),
            (["--grace", "-1"], "'-1' is not a time: 90, 90s, 30m or 1h30m"),
            (["--drain", "nan"], "'nan' is not a time: 90, 90s, 30m or 1h30m"),
        ],
    )
    def test_what_does_not_fit(self, words, says):
        with pytest.raises(InvalidOption) as caught:
            parse("stop", *words)
        assert says in str(caught.value)


class TestTheOthers:
    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            ([], LogsArguments(None, 50)),
            (["one"], LogsArguments("one", 50)),
            (["-n", "5"], LogsArguments(None, 5)),
            (["one", "-n5"], LogsArguments("one", 5)),
        ],
    )
    def test_logs(self, words, meant):
        assert parse("logs", *words) == meant

    @pytest.mark.parametrize("words", [["-n", "0"], ["-n", "-3"], ["-n", "many"], ["-n"], ["a", "b"]])
    def test_logs_that_do_not_fit(self, words):
        with pytest.raises(InvalidOption):
            parse("logs", *words)

    @pytest.mark.parametrize("text", ["warm", "nan", "inf"])
    def test_a_temperature_that_is_no_number(self, text):
        with pytest.raises(InvalidOption, match=f"'{text}' is not a number"):
            parse(CELL, "--temperature", text)

    @pytest.mark.parametrize("level", ["deep", "1.5"])
    def test_a_level_that_is_no_number(self, level):
        with pytest.raises(InvalidOption, match=f"'{level}' is not a whole number"):
            parse("sleep", "--level", level)

    @pytest.mark.parametrize("command", ["restart", "status", "attach", "metrics", "plot", "wake"])
    def test_a_name_or_none(self, command):
        assert parse(command) == ServerName(None)
        assert parse(command, "one") == ServerName("one")
        with pytest.raises(InvalidOption, match="two"):
            parse(command, "one", "two")
        with pytest.raises(InvalidOption, match="--now"):
            parse(command, "--now")

    @pytest.mark.parametrize("command", ["gpu", "doctor", "models", "panel"])
    def test_nothing(self, command):
        assert parse(command) == NoArguments()
        with pytest.raises(InvalidOption, match=rf"^Unrecognized arguments: 0\. See %vllm help {command}\.$"):
            parse(command, "0")

    def test_reap(self):
        assert parse("reap") == ReapArguments((), yes=False)
        assert parse("reap", "--pid", "2", "--yes", "--pid=1", "--pid", "2") == ReapArguments(
            (2, 1), yes=True
        )

    def test_nothing_is_printed(self, capsys):
        for words in (["--no-such"], ["a", "b"], ["-n", "x"]):
            with pytest.raises(InvalidOption):
                parse("logs", *words)
        assert capsys.readouterr() == ("", "")
