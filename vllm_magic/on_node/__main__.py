"""``python -m vllm_magic.on_node JOB``, ``--look JOB PID ...``, or ``--see JOB PID ...``."""

from __future__ import annotations

import sys

word, *words = sys.argv[1:]
if word == "--look":
    from vllm_magic.on_node.look import look

    sys.stdout.write(look(words[0], [int(pid) for pid in words[1:]]) + "\n")
elif word == "--see":
    from vllm_magic.on_node.look import see

    sys.stdout.write(see() + "\n")
else:
    from vllm_magic.on_node.serve import serve

    sys.exit(serve(word))
