"""The flags of `vllm serve`."""

import json
import os
import sys
import time

from stand_in import cli

from vllm.config import DTYPES, KV_DTYPES
from vllm.engine.arg_utils import NEEDS_HELP, optional_type

LENGTH = """Model context length (prompt and output). If unspecified, will be
automatically derived from the model config.

When passing via `--max-model-len`, supports k/m/g in human-readable format at 100%%."""


def make_arg_parser(parser):
    """Add them all; what the test wants of the reading of flags is done first."""
    print("INFO: a line of vLLM's log, on stdout")
    if "STAND_IN_FLAGS_PID" in os.environ:
        with open(os.environ["STAND_IN_FLAGS_PID"], "w") as file:
            file.write(str(os.getpid()))
    time.sleep(float(os.environ.get("STAND_IN_FLAGS_S", "0")))
    cli.add_flags(parser)
    flags = parser._option_string_actions
    flags["--dtype"].choices = [*DTYPES, None]
    flags["--dtype"].default = "auto"
    flags["--kv-cache-dtype"].metavar = KV_DTYPES
    flags["--max-model-len"].type = optional_type(int)
    flags["--limit-mm-per-prompt"].type = optional_type(json.loads)
    flags["--max-model-len"].help = LENGTH if NEEDS_HELP else ""
    parser._optionals._group_actions.remove(flags["--dtype"])
    parser.add_argument_group("ModelConfig")._group_actions.append(flags["--dtype"])
    if "serve" in sys.argv[1:]:
        raise RuntimeError("With both `serve` and `--help` vLLM leaves --model out")
    return parser
