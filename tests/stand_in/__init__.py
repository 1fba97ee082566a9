"""A stand-in for `vllm serve` (vLLM 0.32) without torch, CUDA or weights: ready in a few tenths of a second.

Process tree, names, signals, log lines, HTTP API and leftovers are those that were measured on vLLM 0.32.0's
CPU build; what vLLM does wrong (a SIGTERM that is swallowed, a stop that never ends) it does wrong too.

    executable = stand_in.install(tmp_path)
    subprocess.Popen([executable, "serve", "tiny", "--port", "8001"],
                     env={**os.environ, **stand_in.options(token_s=0.5)}, start_new_session=True)

Every process ends by itself after `options.LIFE_S` seconds, whatever the faults asked for.
"""

import sys
from pathlib import Path

from .options import options

__all__ = ["install", "options"]

_LAUNCHER = """\
#!{python} -I
import sys
sys.path.insert(0, {tests!r})
from stand_in.main import main
sys.exit(main())
"""


def install(folder: Path) -> Path:
    """Write the executable `vllm` into `folder`, as pip does, and return its path.

    It is a script with a shebang line, so the leader's `comm` is "vllm" as it is for vLLM's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "vllm"
    script.write_text(_LAUNCHER.format(python=sys.executable, tests=str(Path(__file__).parent.parent)))
    script.chmod(0o755)
    return script
