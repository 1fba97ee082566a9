"""What vLLM makes of the types and the help of its flags."""

import sys

NEEDS_HELP = any("--help" in word for word in sys.argv)


def optional_type(kind):
    def _optional_type(text):
        return None if text in ("", "None") else kind(text)

    return _optional_type
