"""Whatever comes in, words, bytes or messages: an answer, or an error of our own tree with one line."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import tempfile
import types
import typing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllm_magic import durations, ledger
from vllm_magic.engine import command
from vllm_magic.engine.failures import explanations, tracebacks
from vllm_magic.engine.flags import flags
from vllm_magic.engine.spec import ServerSpec, default_name
from vllm_magic.engine.startup import log, stages
from vllm_magic.errors import InvalidOption, StartFailed, VllmMagicError
from vllm_magic.gpu.devices import ComputeProcess, Gpu, Snapshot
from vllm_magic.guard import protocol, record
from vllm_magic.guard.protocol import (
    Attach,
    Attached,
    Decoder,
    Ended,
    KnownProcesses,
    LaunchRequest,
    Refused,
    ServerReady,
    StandbyReport,
    Started,
    Stop,
    Stopping,
    Why,
    decode,
    encode,
)
from vllm_magic.guard.record import BrokenRecordError, Phase, Record
from vllm_magic.jupyter.commands import expansion, registry, start_arguments
from vllm_magic.ledger import Condition
from vllm_magic.release import gpu_json

# The same examples in every run.
many = settings(max_examples=300, derandomize=True, deadline=None, database=None)
few = settings(many, max_examples=60)

KINDS = (
    LaunchRequest,
    Stop,
    ServerReady,
    Attach,
    Attached,
    StandbyReport,
    Started,
    KnownProcesses,
    Refused,
    Stopping,
    Ended,
)

# Words as a person, or a person's variable, may bring them: ours, vLLM's, nearly either, and anything.
text = st.text(st.characters(codec="utf-8"), max_size=30)
short = text | st.text(max_size=8)  # also half a surrogate pair
LONG = "9" * 5000  # more digits than Python converts
anything = short | st.just(LONG)
word = st.one_of(
    st.sampled_from(
        [
            "tiny",
            "Qwen/Qwen3-0.6B",
            "~nobody-there/m",
            "~\x00",
            "./m",
            "/",
            "--",
            "-",
            "-n",
            "-h",
            "--help",
            "--all",
            "--name",
            "--name=",
            "--port",
            "--port=x",
            "--port=0",
            "--port=8001",
            "--gpus",
            "--env",
            "--env=A=1",
            "--env==1",
            "--env=A",
            "--timeout=inf",
            "--timeout=1e999",
            "--timeout=nan",
            "--timeout=-1",
            "--timeout=1e9",
            "--grace=3",
            "--drain",
            "1",
            "--no-wait",
            "--no-wait=1",
            "--executable",
            "-tp",
            "2",
            "--tensor-parallel-size",
            "--tensor_parallel_size=٣",
            "--gpu-memory-utilization",
            "--api-key",
            "--api-key=",
            "--api_key=k",
            "--hf-token",
            "--hf_token=t",
            "-O.level=3",
            "--hf-overrides",
            "{}",
            "{}",
            "{x}",
            "$x",
            "$$",
            "stop",
            "start",
            "logs",
        ]
    ),
    anything,
)
argument = text.filter(lambda one: "\0" not in one and not one.startswith("--"))
some_words = st.lists(word, max_size=8)


@contextlib.contextmanager
def only_our_errors():
    """Errors of our own tree may come, each of one line that says something; any other one fails the test."""
    try:
        yield
    except VllmMagicError as error:
        if not str(error).strip() or not str(error).isprintable():
            raise AssertionError(f"no line for a person: {error!r}") from error


class TestWords:
    @many
    @given(some_words)
    @example(["~nobody-there/m"])
    @example(["m", "-tp", LONG])
    def test_start(self, said):
        with only_our_errors():
            found = start_arguments.parse(said)
            spec = found.spec
            assert spec.model
            assert not flags.has(spec.args, "--api-key")
            assert start_arguments.parse(said).spec == spec
            assert command.gpu_count(spec.args) >= 0
            assert command.memory_fraction(spec.args) < float("inf")
            assert command.shutdown_timeout(spec.args) < float("inf")
            assert found.timeout is None or 0 <= found.timeout <= durations.MOST
            with tempfile.TemporaryDirectory() as folder:
                command.build(ServerSpec(spec.model, spec.args, executable=_program(folder), port=spec.port))

    @many
    @given(some_words, st.sampled_from(sorted(registry.commands())))
    def test_the_other_commands(self, said, name):
        """What `fit` and `switch` do with their words they share with `start`."""
        for parse in (
            registry.select,
            lambda said: start_arguments.parse(said, command="fit"),
            *(registry.commands()[one].parse for one in ("stop", "logs", "status", name)),
        ):
            with only_our_errors():
                parse(said)

    @many
    @given(
        st.lists(
            st.sampled_from(["-tp", "--flag", "-O.x=1", "a b", "--x=--port", "--served-model-name"])
            | argument
        )
    )
    def test_what_is_not_ours_goes_to_vllm_as_it_stands(self, said):
        assert start_arguments.parse(["m", *said]).spec.args == tuple(said)

    @many
    @given(st.lists(st.sampled_from(["--name", "--port", "--env=x", "--no-wait", "--"]) | argument))
    def test_nothing_behind_two_dashes_is_ours(self, said):
        assert start_arguments.parse(["--name", "n", "--", "m", *said]).spec.args == tuple(said)

    @many
    @given(st.text(max_size=80))
    @example("'{\"a\": {\n}}'")
    @example('\'{x[\n"""\n]}\'')
    def test_a_line(self, line):
        with only_our_errors():
            # No builtins: what the examples write is evaluated.
            expansion.expand(expansion.split(line), {"__builtins__": {}, "x": 1, "y": {"k": "v"}})

    @many
    @given(st.lists(short))
    @example([LONG, "a b", LONG])  # shlex takes long for each, so it is not in every other example
    def test_words_survive_quoting(self, said):
        assert expansion.split(shlex.join(said)) == said

    @many
    @given(anything, st.text() | st.integers() | st.lists(st.integers()) | st.dictionaries(text, st.floats()))
    def test_a_variable_is_put_in(self, around, value):
        expected = json.dumps(value) if isinstance(value, (dict, list)) else str(value)
        around = around.replace("{", "").replace("}", "").replace("$", "")
        assert expansion.expand([f"{around}{{v}}{around}$v"], {"v": value}) == [
            f"{around}{expected}{around}{expected}"
        ]

    @many
    @given(anything)
    def test_a_model_has_a_name(self, model):
        with only_our_errors():
            assert ServerSpec(model).name == default_name(ServerSpec(model).model)

    @many
    @given(anything)
    def test_an_error_is_one_line_whatever_it_quotes(self, said):
        for error in (InvalidOption(f"a {said} b"), StartFailed(said, said)):
            assert str(error).isprintable()


def _program(folder: str) -> str:
    program = Path(folder, "vllm")
    program.touch(mode=0o700)
    return str(program)


log_bytes = st.lists(
    st.sampled_from(
        [
            b"\n",
            b"\r",
            b"\r\n",
            b"\x1b[31m",
            b"\x1b]0;t\x07",
            b"\x1b",
            b"\x9b",
            "模".encode(),
            b"\xff",
            b"\t",
            b"  ",
        ]
    )
    | st.binary(max_size=12),
    max_size=30,
).map(b"".join)


class TestLog:
    @many
    @given(log_bytes)
    @example("a\u2028b\u202ec".encode())
    @example(b"a\nb")
    def test_a_clean_line_has_no_control_character(self, raw):
        cleaned = log.clean(raw)
        assert not _controls(cleaned)
        assert len(cleaned.splitlines()) <= 1
        assert log.clean(cleaned.encode()) == cleaned
        assert len(cleaned) <= log.LONGEST_LINE

    @few
    @given(st.lists(log_bytes, max_size=6), st.integers(-1, 20))
    def test_tail_and_follower_see_the_same_lines(self, parts, count):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "log")
            follower = log.Follower(path)
            followed = []
            for part in [*parts, b"\n"]:
                with path.open("ab") as file:
                    file.write(part)
                followed += follower.new_lines()
            assert log.tail(path, len(followed) + 1) == followed
            assert log.tail(path, count) == (followed[-count:] if count > 0 else [])

    @few
    @given(log_bytes)
    def test_what_was_read_is_explained(self, raw):
        _explain([log.clean(line) for line in raw.split(b"\n")])

    @many
    @given(
        st.lists(
            st.lists(
                st.sampled_from(
                    [
                        "Loading x% Completed | ",
                        "Capturing CUDA graphs ",
                        "٣/4 [",
                        "| 9/9 ",
                        "(EngineCore pid=1) ERROR 01-01 00:00:00 [core.py:1] ",
                        "ValueError: ",
                        "torch.OutOfMemoryError: ",
                        "Value error, ",
                        " [type=",
                        "  Input should be ",
                        "error: argument --x: ",
                        "{0} {x} {{",
                        "invalid choice: a (choose from b)",
                        "max seq len (1), (2 GiB KV cache is needed",
                        "Free memory on device cuda:0 (1.0/0 GiB) on startup is less than (0.9, 3 GiB)",
                        "attention heads (4) must be divisible by tensor parallel size (0)",
                        "Worker proc w died unexpectedly (exit code: -9)",
                        "You are trying to access a gated repo",
                        "EngineCore encountered a fatal error",
                        "vllm: error: ",
                        "Traceback (most recent call last):",
                        '  File "x.py", line 1, in f',
                        "    raise ValueError(",
                    ]
                )
                | text,
                max_size=6,
            ).map("".join),
            max_size=6,
        ),
        st.none() | st.integers(-(10**30), 10**30),
    )
    def test_lines_that_look_like_vllms(self, lines, code):
        _explain(lines, code)


def _controls(shown: str) -> list[str]:
    """What a terminal may obey; the separators and the marks of direction are among it."""
    turning = "\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return [
        one for one in shown if one in turning or (ord(one) < 32 and one != "\t") or 127 <= ord(one) < 160
    ]


def _explain(lines: list[str], code: int | None = 1) -> None:
    for line in lines:
        said = stages.read(line)
        assert said is None or said.stage in stages.ORDER
    for explain in (explanations.explain, explanations.explain_death):
        _check(explain(lines, code), lines)


def _check(failure: explanations.Failure, lines: list[str]) -> None:
    assert failure.cause.strip()
    assert failure.hint.strip()
    assert len(failure.cause) <= tracebacks.LONGEST_SHOWN
    assert len(failure.hint) <= tracebacks.LONGEST_SHOWN
    for shown in failure.lines:
        assert any(shown.removesuffix("…") in line for line in lines)


# Messages that are right, and such with fields of every other kind.
pid = st.integers(0, 2**22)
identity = st.tuples(pid, st.integers(0, 2**62)).map(list)
row = st.tuples(pid, st.integers(0, 2**62), text, text).map(list)
seconds = st.floats(0, 1e9) | st.integers(0, 10**9)
why = st.sampled_from([one.value for one in Why])
texts = st.lists(text, max_size=3)
argv = st.lists(text, min_size=1, max_size=3)
handover = st.dictionaries(text, st.none() | text | st.integers() | texts, max_size=3)
messages = st.one_of(
    st.builds(
        LaunchRequest,
        argv,
        st.dictionaries(text, text, max_size=3),
        text,
        text,
        text,
        text,
        text,
        texts,
        handover,
        seconds,
        handover,
        seconds,
    ),
    st.builds(StandbyReport, identity, st.booleans()),
    st.builds(Attach, st.none() | handover),
    st.builds(Attached, handover),
    st.builds(Stop, seconds, seconds),
    st.just(ServerReady()),
    st.builds(Started, identity, identity, identity),
    st.builds(KnownProcesses, st.lists(identity, max_size=3)),
    st.builds(Refused, st.integers(0, 200), text),
    st.builds(Stopping, why, seconds),
    st.builds(
        Ended,
        text,
        why,
        st.none() | st.integers(-64, 255),
        st.lists(row, max_size=2),
        st.lists(row, max_size=2),
        seconds,
    ),
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 2**63, float("nan"), float("inf"), "asked"])
    | st.floats()
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=2),
    max_leaves=6,
)


@st.composite
def nearly(draw) -> bytes:
    """A message with one field of another kind, or missing, or more; its bytes are proper JSON."""
    message = draw(messages)
    fields = {"message": type(message).__name__, **message._asdict()}
    name = draw(st.sampled_from([*fields, "unknown"]))
    fields[name] = draw(values)
    if draw(st.booleans()):
        del fields[draw(st.sampled_from(list(fields)))]
    return json.dumps(fields).encode()


class TestProtocol:
    def test_every_field_has_its_rule(self):
        assert {name for kind in KINDS for name in kind._fields} == set(protocol._CHECKS)
        assert set(typing.get_args(protocol.Message)) == set(KINDS)

    @many
    @given(messages)
    def test_there_and_back(self, message):
        line = encode(message)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert decode(line) == message

    @many
    @given(st.binary(max_size=60) | nearly() | values.map(lambda value: json.dumps(value).encode()))
    @example(b'{"message": "Stop", "grace": "1", "patience": 1}')
    @example(b'{"message": "Stop", "grace": NaN, "patience": 1}')
    @example(b'{"message": "Stop", "grace": 1' + b"0" * 400 + b', "patience": 1}')
    @example(b'{"message": "Stopping", "why": "no reason"}')
    @example(b'{"message": "Started", "leader": [1], "outer": [1, 2], "inner": [1, 2]}')
    @example(b"[" * 100_000)
    @example(b"9" * 10_000)
    @example(b'{"message": []}')
    def test_any_bytes_are_a_whole_message_or_none(self, line):
        message = decode(line)
        assert message is None or _has_its_types(message)
        if message is not None:
            assert encode(decode(encode(message))) == encode(message)  # a NaN within is not equal to itself

    @many
    @given(
        st.lists(
            messages.map(encode) | nearly().map(lambda line: line + b"\n") | st.binary(max_size=20),
            max_size=6,
        ).map(b"".join),
        st.lists(st.integers(1, 40), min_size=1, max_size=20),
    )
    def test_the_messages_are_the_same_however_the_stream_is_cut(self, stream, sizes):
        whole = list(map(encode, Decoder().feed(stream)))
        assert list(map(encode, _fed(stream, sizes))) == whole == list(map(encode, _fed(stream, [1])))

    @many
    @given(st.integers(1, 200), st.integers(1, 80))
    def test_a_line_that_is_too_long_is_dropped_as_a_whole(self, size, padding):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "LONGEST_LINE", 60)
            stop = encode(Stop(1.0, 2.0))
            stream = stop + b" " * padding + stop + stop
            long = len(stop) - 1 + padding > 60
            decoder = Decoder()
            heard = [
                one for at in range(0, len(stream), size) for one in decoder.feed(stream[at : at + size])
            ]
            assert heard == [Stop(1.0, 2.0)] * (2 if long else 3)
            assert len(decoder._rest) <= 61


records = st.builds(
    Record,
    id=text,
    name=text,
    model=text,
    args=texts,
    url=text,
    port=st.integers(0, 65535),
    gpus=texts,
    chosen=st.booleans(),
    baseline=st.lists(handover, max_size=2),
    phase=st.sampled_from([one.value for one in Phase]),
    since=seconds,
    place=st.tuples(text, text, text, st.integers(0, 2**31)).map(list),
    kernel=identity,
    keep=seconds,
    kept_until=st.none() | seconds,
    outer=st.none() | identity,
    inner=st.none() | identity,
    leader=st.none() | identity,
    segments=st.lists(identity, max_size=2),
    version=st.just(record.VERSION),
    stop_grace=seconds,
    stop_patience=seconds,
)


@st.composite
def nearly_records(draw) -> bytes:
    """A record with one field of another kind, or missing, or torn off somewhere."""
    fields = draw(records)._asdict()
    fields[draw(st.sampled_from(list(fields)))] = draw(values)
    if draw(st.booleans()):
        del fields[draw(st.sampled_from(list(fields)))]
    whole = json.dumps(fields).encode()
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


class TestRecord:
    @many
    @given(records)
    def test_there_and_back(self, written):
        with tempfile.TemporaryDirectory() as folder:
            record.write(folder, written)
            assert record.read(folder) == written
            assert os.listdir(folder) == [record.NAME]

    @few
    @given(records, st.data())
    def test_a_record_that_is_torn_anywhere_is_none(self, written, data):
        whole = json.dumps(written._asdict()).encode()
        with pytest.raises(BrokenRecordError):
            record.parse(whole[: data.draw(st.integers(0, len(whole) - 1))])

    @many
    @given(st.binary(max_size=60) | nearly_records() | values.map(lambda value: json.dumps(value).encode()))
    @example(b'{"version": 1}')
    @example(b"[" * 100_000)
    @example(b"9" * 10_000)
    def test_any_bytes_are_a_record_or_said_to_be_none(self, data):
        try:
            found = record.parse(data)
        except BrokenRecordError as error:
            if not str(error):
                raise AssertionError("it does not say why") from error
            return
        assert _has_its_types(found)

    @many
    @given(
        st.fixed_dictionaries(
            {
                **dict.fromkeys(("index", "total", "used", "free"), st.integers(0, 2**40) | values),
                **dict.fromkeys(("uuid", "name"), text | values),
                "processes": st.none()
                | st.lists(
                    st.fixed_dictionaries({"pid": pid | values, "used": st.none() | pid | values}), max_size=2
                )
                | values,
            }
        )
    )
    def test_gpus_that_make_no_sense_are_not_taken_for_some(self, fields):
        for gpu in gpu_json.unpack([fields]).gpus:
            assert {gpu.uuid, gpu.name}
            assert sum(one or 0 for one in (gpu.index, gpu.total, gpu.used, gpu.free, gpu.unattributed)) >= 0
            assert sum(process.pid + (process.used or 0) for process in gpu.processes or ()) >= 0

    def test_gpus_there_and_back(self):
        gpu = Gpu(0, "GPU-a", "H200", 24, 3, None, (ComputeProcess(1, None), ComputeProcess(2, 3)))
        now = Snapshot(0.0, (gpu, replace(gpu, processes=None)), None, None)
        assert gpu_json.unpack(json.loads(json.dumps(gpu_json.pack(now)))) == now
        known = replace(now, gpus=tuple(replace(one, capability=(9, 0)) for one in now.gpus))
        assert gpu_json.pack(known) == gpu_json.pack(now)
        assert not gpu_json.unpack([{**gpu_json.pack(now)[0], "capability": [9, 0]}]).gpus

    @few
    @given(
        st.binary(max_size=60)
        | nearly_records()
        | records.map(lambda one: json.dumps(one._asdict()).encode())
    )
    def test_whatever_lies_in_the_ledger_has_a_condition(self, data):
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home, "0123abcd")
            folder.mkdir(mode=0o700)
            (folder / record.NAME).write_bytes(data)
            entry = ledger.read_entry(folder)
            assert entry is not None
            assert entry.condition in {Condition.TORN, Condition.FOREIGN}  # no record here is of this boot
            assert entry.problem
            assert entry.processes == ()
            assert (folder / record.NAME).read_bytes() == data
            if entry.record:
                gpu_json.unpack(entry.record.baseline)


def _fed(stream: bytes, sizes: list[int]) -> list[protocol.Message]:
    decoder, heard, at = Decoder(), [], 0
    while at < len(stream):
        size = sizes[at % len(sizes)]
        heard += decoder.feed(stream[at : at + size])
        at += size
    return heard


def _has_its_types(message: protocol.Message | Record) -> bool:
    """Whether each field has the type that the class says, all the way down; a second opinion on `decode`."""
    hints = typing.get_type_hints(type(message))
    return all(_is(value, hints[name]) for name, value in message._asdict().items())


def _is(value: object, hint: object) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return True
    if origin is list:
        return isinstance(value, list) and all(_is(one, args[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is(one, args[1]) for one in value.values())
    if origin is types.UnionType:
        return any(_is(value, one) for one in args)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
    return type(value) is hint
