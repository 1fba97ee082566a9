"""What vLLM imports once it knows what is wanted of it, and a spare ahead of that: here it goes wrong where it is asked to."""

import ctypes
import os
import threading
import time
from pathlib import Path

from stand_in.options import LIFE_S, from_environment

_wanted = from_environment().imports
if _wanted == "thread":
    threading.Thread(target=time.sleep, args=(LIFE_S,), name="telemetry").start()
elif _wanted == "crash":
    raise RuntimeError("no kernel image\nis available")
elif _wanted == "missing":
    raise ImportError("grpc is not installed")
elif _wanted == "hang":
    time.sleep(LIFE_S)
elif _wanted == "nvml":  # as torch does when it counts GPUs: more than once, and never shut down
    for _ in range(3):
        assert ctypes.CDLL("libnvidia-ml.so.1").nvmlInit_v2() == 0
elif _wanted == "cuda":
    os.open(Path(os.environ["FAKE_GPU_DIR"], "dev/nvidia-uvm"), os.O_RDWR)


class ServeSubcommand:
    """The sub-command `serve`, to which the parser of its flags belongs."""

    name = "serve"

    def subparser_init(self, subparsers):
        from vllm.entrypoints.common.cli_args import make_arg_parser

        return make_arg_parser(subparsers.add_parser(self.name))


def cmd_init():
    return [ServeSubcommand()]
