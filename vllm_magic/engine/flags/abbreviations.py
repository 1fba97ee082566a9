"""Abbreviated flags: vLLM accepts the beginning of a flag for the whole flag (argparse, ``allow_abbrev``).

vllm_magic looks for flags by their whole names, so abbreviations are replaced by whole names before anything else. An
abbreviation whose meaning is not known is refused: it could stand for a flag with a key, which every user of the machine
would then see on the command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.flags import flags
from vllm_magic.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vllm_magic.engine.flags.flag_table import FlagTable

SECRET = ("--api-key", "--hf-token")
_READ = """
--block-size --chat-template --cpu-offload-gb --data-parallel-backend -dpb --data-parallel-size -dp
--data-parallel-size-local -dpl --decode-context-parallel-size -dcp --disable-access-log-for-endpoints
--disable-hybrid-kv-cache-manager --disable-log-stats --disable-sliding-window --distributed-executor-backend
--download-dir --dtype --enable-expert-parallel -ep --enable-lora --enable-sleep-mode --gpu-memory-utilization
--headless --hf-config-path --hf-overrides --host --kv-cache-dtype --kv-cache-dtype-skip-layers
--kv-cache-memory-bytes --kv-transfer-config --load-format --max-model-len --max-num-batched-tokens --max-num-seqs
--mm-encoder-only --nnodes --node-rank --num-gpu-blocks-override --pipeline-parallel-size -pp --port --quantization
-q --revision --served-model-name --shutdown-timeout --skip-tokenizer-init --speculative-config -sc --ssl-certfile
--tensor-parallel-size -tp --tokenizer --tokenizer-mode --tokens-only --trust-remote-code --uds
"""
READ = (*SECRET, *_READ.split())  # all flags that vllm_magic looks for


def written_out(args: Sequence[str], load: Callable[[], FlagTable | None]) -> tuple[str, ...]:
    """Return the flags, with each flag of `READ` under its whole name.

    Args:
        args: the flags, with their values.
        load: returns the flags of this vLLM, or None where they are not known; called only if they are
            needed.

    Raises:
        InvalidOption: an abbreviation may stand for several flags, or a flag for a key has a dot (a part of
            JSON).
    """
    return tuple(_written_out(word, load) for word in args)


def _written_out(word: str, load: Callable[[], FlagTable | None]) -> str:
    written, equals, value = flags.split(word)
    name, dot, _ = written.partition(".")
    read = begin_with(name, READ)
    if not read or (dot and not set(read) & set(SECRET)):
        return word
    if dot:
        raise InvalidOption(f"{written} is no flag: a key is written as it is, {' or '.join(SECRET)} KEY.")
    if name in READ:
        return word
    table = load()
    known = [flags.split(string)[0] for string in table.by_string] if table else []
    if name in known:
        return word
    found = sorted({*read, *begin_with(name, known)})
    if table is None or len(found) > 1:
        *others, last = sorted({*found, *begin_with(name, flags.OWN)})
        either = f"{', '.join(others)} or {last}" if others else last
        raise InvalidOption(f"{written} may be {either}. Write it out.")
    return f"{found[0]}={value}" if equals else found[0]


def begin_with(name: str, known: Iterable[str]) -> list[str]:
    """Return the flags in ``known`` that begin with ``name``; none if ``name`` does not look like a flag."""
    return [flag for flag in known if flag.startswith(name)] if name.strip("-") and name[0] == "-" else []
