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

__all__ = ["install", "install_environment", "options"]

_LAUNCHER = """\
#!{python} -I
import sys
sys.path.insert(0, {tests!r})
from stand_in.main import main
sys.exit(main())
"""

_CONSOLE_SCRIPT = """\
#!{python}
# -*- coding: utf-8 -*-
import re
import sys
from vllm.entrypoints.cli.main import main
if __name__ == '__main__':
    sys.argv[0] = re.sub(r'(-script\\.pyw|\\.exe)?$', '', sys.argv[0])
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


def install_environment(folder: Path, version: str = "0.32.0") -> Path:
    """Make a virtual environment in which the stand-in is installed as vLLM is, and return the path of its `vllm`.

    There its flags can be read from its parser, as vLLM's; the modules in `package` are those that this takes.
    """
    import shutil  # here: the stand-in itself, which starts thousands of times, needs none of them
    import sysconfig
    import venv

    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    shutil.copytree(Path(__file__).with_name("package"), packages, dirs_exist_ok=True)
    needed = (Path(__file__).parent.parent, sysconfig.get_path("purelib"))
    (packages / "stand_in.pth").write_text("".join(f"{one}\n" for one in needed))
    (packages / f"vllm-{version}.dist-info").mkdir()
    (packages / f"vllm-{version}.dist-info" / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: vllm\nVersion: {version}\n"
    )
    script = folder / "bin/vllm"
    script.write_text(_CONSOLE_SCRIPT.format(python=folder / "bin/python"))
    script.chmod(0o755)
    return script
