"""Messages in the notation of the front end: magics, calls of Python, commands of a terminal."""

from __future__ import annotations

import pytest

from vllm_magic import notation
from vllm_magic.errors import NameInUse, NotEnoughMemory, StartFailed
from vllm_magic.notation import Notation

CALLS = {
    "No server runs. Start one with %vllm start MODEL.": 'No server runs. Start one with vllm_magic.start("MODEL").',
    "Write it first: %vllm start MODEL [flags].": 'Write it first: vllm_magic.start("MODEL", *flags).',
    "Stop it first (%vllm stop Qwen3-0.6B), or give this one another name (--name NAME).": (
        'Stop it first (vllm_magic.stop("Qwen3-0.6B")), or give this one another name (name="NAME").'
    ),
    "Stop it first: %vllm stop tiny": 'Stop it first: vllm_magic.stop("tiny")',
    "%vllm stop tiny. %vllm attach tiny.": 'vllm_magic.stop("tiny"). vllm_magic.attach("tiny").',
    "%vllm start ... --keep 10m makes one": 'vllm_magic.start(..., keep="10m") makes one',
    "Start it again: %vllm restart tiny": "Start it again: vllm_magic.start(...)",
    "%vllm logs tiny tells more; See %vllm logs.": 'vllm_magic.servers()["tiny"].log() tells more; See vllm_magic.servers()[NAME].log().',
    "%vllm logs shows more": "vllm_magic.servers()[NAME].log() shows more",
    "Try again; %vllm logs may tell more": "Try again; vllm_magic.servers()[NAME].log() may tell more",
    "%vllm gpu shows who holds it": "vllm-magic gpu in a terminal shows who holds it",
    "Wait for it, or %vllm shows how far it is.": "Wait for it, or vllm_magic.servers() shows how far it is.",
    "%vllm shows its state, %vllm restart tiny starts it": (
        "vllm_magic.servers() shows its state, vllm_magic.start(...) starts it"
    ),
    "(%vllm fit shows more.)": "(vllm_magic.fit() shows more.)",
    "Install it (%vllm install), or say": "Install it (vllm_magic.install()), or say",
    "Install it: %vllm install 0.17.0": 'Install it: vllm_magic.install("0.17.0")',
    "(%vllm install --remove 0.17.0).": "(vllm-magic install --remove 0.17.0 in a terminal).",
    "%vllm use 0.17.0": "vllm-magic use 0.17.0 in a terminal",
    "Name it: --vllm 0.17.0.": 'Name it: vllm="0.17.0".',
    "Give it more time with --timeout, or see": "Give it more time with timeout=, or see",
    "--cluster auto uses it; write --cluster http://HEAD:8265.": (
        'cluster="auto" uses it; write cluster="http://HEAD:8265".'
    ),
    "--gpus cannot be used with --cluster. Leave it out.": "gpus= cannot be used with cluster=. Leave it out.",
    "Write --gpus 0,1, or leave --gpus out.": 'Write gpus="0,1", or leave gpus= out.',
    "--force  starts it": "force=True  starts it",
    "--gpu-memory-utilization 0.5 and --max-model-len 1": "--gpu-memory-utilization 0.5 and --max-model-len 1",
    "--name-of-a-flag and x--name": "--name-of-a-flag and x--name",
}


@pytest.mark.parametrize("message", CALLS)
def test_calls(message):
    assert notation.written(message) == CALLS[message]


def test_the_others():
    notation.use(Notation.MAGIC)
    assert [notation.written(message) for message in CALLS] == list(CALLS)
    notation.use(Notation.TERMINAL)
    assert notation.written("%vllm stop tiny") == "vllm-magic stop tiny"


def test_errors():
    assert str(NameInUse("Stop it: %vllm stop tiny")) == 'Stop it: vllm_magic.stop("tiny")'
    failed = StartFailed("it ended", "See %vllm logs")
    assert (failed.hint, str(failed)) == (
        "See vllm_magic.servers()[NAME].log()",
        "it ended. See vllm_magic.servers()[NAME].log()",
    )
    assert NotEnoughMemory("none", details=["--force  starts it"]).details == ["force=True  starts it"]
    notation.use(Notation.MAGIC)
    assert str(NameInUse("Stop it: %vllm stop tiny")) == "Stop it: %vllm stop tiny"
