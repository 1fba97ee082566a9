"""The process that calls functions for `disk`: it may wait for a disk that does not answer, so that no other process has to.

    python -I -S disk_child.py FOLDER_OF_THE_PACKAGE

Requests come on stdin: four bytes with the size, then a pickle. For each request, this process writes one byte to stdout
before it calls the function, and then the result in the same form as a request. It ends when stdin ends.
"""

from __future__ import annotations

import pickle
import struct
import sys
from typing import BinaryIO

_SIZE = struct.Struct("<I")


def main() -> None:
    """Call functions until the end of stdin."""
    sys.path.append(sys.argv[1])
    while request := _read(sys.stdin.buffer):
        function, args = pickle.loads(request)  # noqa: S301 - from this package's own process
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()
        try:
            answer = pickle.dumps((True, function(*args)))
        except Exception as error:  # noqa: BLE001 - raised by the caller
            answer = pickle.dumps((False, error))
        sys.stdout.buffer.write(_SIZE.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()


def _read(file: BinaryIO) -> bytes:
    size = file.read(_SIZE.size)
    return file.read(*_SIZE.unpack(size)) if len(size) == _SIZE.size else b""


if __name__ == "__main__":
    main()
