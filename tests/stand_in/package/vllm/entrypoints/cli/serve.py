"""What vLLM imports once it knows what is wanted of it, and a spare ahead of that: here it goes wrong where it is asked to."""

import threading
import time

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
