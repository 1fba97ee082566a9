"""Failures of vLLM's command line and of its configuration's fields: argparse, pydantic."""

from __future__ import annotations

from vllm_magic.engine.failures import hints
from vllm_magic.engine.failures.signs.sign import Sign

_ARGUMENT = r"error: argument ([^\s:/]{1,100})(?:/\S{1,100})?:"  # --tensor-parallel-size/-tp

SIGNS = (  # Python's argparse.py, and vllm/utils/argparse_utils.py; exit code 2
    Sign(
        r"error: unrecognized arguments: (?:vllm )?serve (\S{1,300})",
        "The command line contains serve twice: the program that starts vLLM adds it already",
        "Leave serve out: the model comes first, as in --model {0}",
    ),
    Sign(
        r"error: the following arguments are required: model_tag",
        "vLLM was not told which model to serve",
        "Name it before the options, as in vllm serve Qwen/Qwen3-0.6B",
    ),
    Sign(r"error: unrecognized arguments: (.*)(?:\nHint: (.*))?", "vLLM does not know {0}", hints.flag_meant),
    Sign(
        rf"{_ARGUMENT} invalid choice: (.{{0,300}}?)(?:, maybe [^(\n]{{0,300}})? \(choose from ([^)\n]*)",
        "{0} cannot be {1}",
        hints.choice_meant,
    ),
    Sign(rf"{_ARGUMENT} invalid (\w{{1,100}}) value: (.*)", "{0} cannot be {2}", hints.number_meant),
    Sign(
        rf"{_ARGUMENT} .{{0,500}}\n {{0,20}}Invalid JSON: (.{{0,300}}?) \[type=json_invalid, input_value=(.{{0,300}}?), input_type",
        "{0} is no JSON: {1}",
        "It was given as {2}. Put JSON in single quotes: {0} '{{\"name\": 1}}'",
    ),
    Sign(  # vllm/engine/arg_utils.py, parse_type
        rf"{_ARGUMENT} Value (.{{0,300}}) cannot be converted to <function loads",
        "{0} is no JSON: {1}",
        "Put JSON in single quotes: {0} '{{\"name\": 1}}'; in a file or a Python string no quotes stand around the braces",
    ),
    Sign(
        r"error: ambiguous option: (\S{1,100}) could match (.{1,300})",
        "{0} may be short for {1}",
        "Write the option out; the model comes first, without an option's name",
    ),
    Sign(r"^ *(Invalid JSON: .*?) \[type=", "{0}", "Put JSON in single quotes: --flag '{{\"name\": 1}}'"),
    Sign(
        r"FileNotFoundError: \[Errno 2\] No such file or directory: '(.{1,500}\.ya?ml)'",
        "There is no file {0}",
        "Check the path after --config",
    ),
    Sign(  # pydantic, of a flag whose value is a configuration
        rf"{_ARGUMENT} \d{{1,3}} validation errors? for \w{{1,100}}\n +Input should be (?:an object|a valid dictionary|a dictionary)"
        r".{0,200}?input_value=(.{0,200}?), input_type",
        "{0} takes names with values, and not {1}",
        "Put them in single quotes, as JSON: {0} '{{\"name\": {1}}}'",
    ),
    Sign(rf"{_ARGUMENT} (.+)", "{0}: {1}", "Correct the value of {0}", general=True),
    Sign(r"^vllm[\w ]*: error: (\w.*)", "{0}", "Look it up: vllm serve --help=all", general=True),
    Sign(  # pydantic
        r"^([\w.\[\],]+)\n +Input (should .{0,500}?) \[type=\w+(?:, input_value=(.{0,500}?), input_type)?",
        hints.field,
        hints.field_hint,
        general=True,
    ),
    Sign(  # pydantic
        r"^([\w.\[\],]+)\n +(Field required|Extra inputs are not permitted|Unexpected keyword argument|(?!Value error|Assertion failed)\w.{0,200}) \[type=\w+"
        r"(?:, input_value=(.{0,500}?), input_type)?",
        hints.field,
        hints.field_hint,
        general=True,
    ),
)
