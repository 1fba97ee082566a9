"""``python -m vllm_magic.on_node JOB``, ``--left JOB PID ...``, or ``--gpus JOB PID ...``."""

from __future__ import annotations

import sys

first, *others = sys.argv[1:]
if first == "--left":
    from vllm_magic.on_node.report import report_left

    sys.stdout.write(report_left(others[0], [int(pid) for pid in others[1:]]) + "\n")
elif first == "--gpus":
    from vllm_magic.on_node.report import report_gpus

    sys.stdout.write(report_gpus() + "\n")
else:
    from vllm_magic.on_node.serve import serve

    sys.exit(serve(first))
