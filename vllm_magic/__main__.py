"""``python -m vllm_magic`` is ``vllm-magic``."""

import sys

from vllm_magic.cli import main

if __name__ == "__main__":
    sys.exit(main())
