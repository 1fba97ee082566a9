"""Entry point of a guard process: ``python -I -S run.py CONTROL_FD KERNEL_PIDFD``.

``-I -S`` keep the user's environment and site-packages out, and so this package too: its own folder is put
behind the standard library, so that nothing beside it can stand in for a standard module.
"""

import os
import sys

if __name__ == "__main__":
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path.append(os.path.dirname(os.path.dirname(here)))
    from vllm_magic.guard.main import main

    main()
