"""``python -m vllm_magic.on_node JOB``, ``--look JOB PID ...``, or ``--see JOB PID ...``."""

from __future__ import annotations

import sys

first, *others = sys.argv[1:]
if first == "--look":
    from vllm_magic.on_node.look import look

    sys.stdout.write(look(others[0], [int(pid) for pid in others[1:]]) + "\n")
elif first == "--see":
    from vllm_magic.on_node.look import see

    sys.stdout.write(see() + "\n")
else:
    from vllm_magic.on_node.serve import serve

    sys.exit(serve(first))
