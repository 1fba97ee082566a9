"""Entry point of a guard process: ``python -I -S run.py CONTROL_FD KERNEL_PIDFD``.

``-I -S`` ignore the user's environment and site-packages, and so this package too. The package's folder is added at the end
of the path, so that no file beside the package can replace a module of the standard library.
"""

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path.append(os.path.dirname(os.path.dirname(here)))
    from vllm_magic.guard.main import main

    main()
