"""The size of a model's weights, from the headers of its safetensors files: 8 bytes with the length, then JSON.

The weights themselves are not read. The headers are checked against the sizes of the files, so no file can claim more
than it holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_magic.engine.models.model_files import INDEX, json_object, read_json, read_start
from vllm_magic.errors import NoEstimate

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping
    from pathlib import Path

LONGEST_HEADER = 25_000_000  # bytes; the same limit as huggingface_hub's
LARGEST_INDEX = 100_000_000  # bytes
MOST_FILES = 5000
MOST_BYTES = 2**60
MOST_DIMENSIONS = 16
_LENGTH = 8  # bytes before the header, which hold its length
# A clone without Git LFS has small text files in place of the weights. They begin with this (the specification of Git LFS).
_POINTER = b"version https://git-lfs.github.com/spec/"
_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
# Files beside the weights that have the same ending, and that vLLM does not load (its model_loader/weight_utils.py).
NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "trainer_state")


class Tensor(NamedTuple):
    """One tensor of a file.

    Attributes:
        name: the name in the checkpoint.
        dtype: the type by safetensors' name, such as "BF16".
        dimensions: the number of dimensions; 2 for a matrix.
        numbers: how many numbers the tensor has.
        size: the size in the file, in bytes.
    """

    name: str
    dtype: str
    dimensions: int
    numbers: int
    size: int


@dataclass(frozen=True)
class Weights:
    """All weights of a model.

    Attributes:
        size: the stored size, in bytes.
        tensors: all tensors; () if only the size is known.
        source: what the size is known from, for a message.
    """

    size: int
    tensors: tuple[Tensor, ...]
    source: str


def read(folder: Path) -> Weights:
    """Return the weights in a model's folder.

    Raises:
        NoEstimate: the folder has no weights, or a file is not valid.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise NoEstimate(f"{folder.name} cannot be read: {error.strerror}.") from None
    if INDEX in names:
        return _of_index(folder, names)
    if stored := [name for name in names if name.endswith(".safetensors")]:
        return _of_headers(folder, stored)
    for ending in (".bin", ".pt"):
        found = [name for name in names if name.endswith(ending) and not name.startswith(NOT_WEIGHTS)]
        if found:
            return of_files(read_start(folder / name, 0)[1] for name in found)
    raise NoEstimate(f"no weights of the model are in {folder}.")


def of_files(sizes: Iterable[int]) -> Weights:
    """Return weights of which only the sizes of the files are known, in bytes."""
    return Weights(sum(sizes), (), "the sizes of the files")


def of_tensors(tensors: Iterable[Tensor]) -> Weights:
    """Return weights of which each tensor is known."""
    known = tuple(tensors)
    return Weights(sum(tensor.size for tensor in known), known, "the headers of the safetensors files")


def tensor(name: str, dtype: object, shape: Any) -> Tensor:
    """Return the tensor that a header describes.

    Raises:
        NoEstimate: the type or the shape is not known here.
    """
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    is_valid_shape = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS and all(map(_is_size, shape))
    if bits is None or not isinstance(dtype, str) or not is_valid_shape:
        raise NoEstimate("a tensor in a safetensors file is of a type or a shape that is unknown here.")
    count = math.prod(shape)
    return Tensor(name, dtype, len(shape), count, -(-count * bits // 8))


def header(path: Path) -> list[Tensor]:
    """Return the tensors of one safetensors file.

    Raises:
        NoEstimate: the file is not a valid safetensors file, or describes a tensor of an unknown type.
    """
    length, room = _length_and_room(path)
    if length > LONGEST_HEADER:
        raise NoEstimate(f"the header of {path.name} is longer than {LONGEST_HEADER} bytes.")
    described = _described(path, length, room)
    described.pop("__metadata__", None)
    tensors = [_checked(name, fields, path.name) for name, fields in described.items()]
    if sum(tensor.size for tensor in tensors) > room:
        raise NoEstimate(f"{path.name} claims more tensors than it holds.")
    return tensors


def damage(path: Path) -> str:
    """Return why a file of a model cannot be loaded, as a sentence; "" if it may be valid.

    Of a file that is not a safetensors file, only the first bytes are examined.
    """
    try:
        if path.suffix == ".safetensors":
            length, room = _length_and_room(path)
            if length <= LONGEST_HEADER:
                _described(path, length, room)
        else:
            _check_start(path)
    except NoEstimate as error:
        return error.reason
    return ""


def _check_start(path: Path) -> None:
    start, size = read_start(path, len(_POINTER))
    if not size:
        raise NoEstimate(f"{path.name} is empty.")
    if start == _POINTER:
        raise NoEstimate(f"{path.name} is a pointer of Git LFS, not the file itself.")


def _length_and_room(path: Path) -> tuple[int, int]:
    """Return the bytes of the header of a safetensors file, and the bytes that follow the header.

    Raises:
        NoEstimate: safetensors would not read the file.
    """
    _check_start(path)
    start, size = read_start(path, _LENGTH)
    length = int.from_bytes(start, "little")
    if not 0 < length <= size - _LENGTH:
        raise NoEstimate(f"{path.name} does not begin as a safetensors file does.")
    return length, size - _LENGTH - length


def _described(path: Path, length: int, room: int) -> dict[str, Any]:
    """Return what the header of a safetensors file says of its tensors.

    Raises:
        NoEstimate: safetensors would not read the file.
    """
    described = json_object(read_start(path, length, _LENGTH)[0], path.name)
    missing = max(map(_end, described.values()), default=0) - room
    if missing > 0:
        raise NoEstimate(f"{path.name} is cut short: its last {missing} bytes are missing.")
    return described


def _end(described: Any) -> int:
    """Return where a tensor ends, in bytes after the header; 0 if the header does not say it."""
    match described:
        case {"data_offsets": [int(), int(end)]}:
            return end
    return 0


def _checked(name: str, described: Any, file: str) -> Tensor:
    """Return the tensor that a header describes, if its place in the file has the size of the tensor."""
    if not isinstance(described, dict):
        raise NoEstimate(f"{file} does not describe its tensors as a safetensors file does.")
    stored = tensor(name, described.get("dtype"), described.get("shape"))
    match described.get("data_offsets"):
        case [int(begin), int(end)] if begin >= 0 and end - begin == stored.size:
            return stored
    raise NoEstimate(f"{file} does not hold its tensors where it says.")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_BYTES


def files_by_tensor(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the file of each tensor by the index of the safetensors files, and the whole index.

    Raises:
        NoEstimate: the index cannot be read, or names no files.
    """
    index = read_json(folder / INDEX, LARGEST_INDEX)
    where = index.get("weight_map")
    if not isinstance(where, dict) or not where or not all(isinstance(name, str) for name in where.values()):
        raise NoEstimate(f"{INDEX} does not say which files hold the weights.")
    return where, index


def _of_index(folder: Path, there: Container[str]) -> Weights:
    """Return the weights in the files that the index names. Other files, such as Mistral's consolidated ones, are not loaded."""
    where, index = files_by_tensor(folder)
    names = sorted(set(where.values()))
    return _of_headers(folder, names) if all(name in there for name in names) else _of_total(index)


def _of_total(index: Mapping[str, Any]) -> Weights:
    """Return weights with the total size that the index gives, for a model of which files are still missing."""
    described = index.get("metadata")
    total = described.get("total_size") if isinstance(described, dict) else None
    if not isinstance(total, int) or not _is_size(total):
        raise NoEstimate("not all of the model's files are here.")
    return Weights(total, (), f"the total in {INDEX}")


def _of_headers(folder: Path, names: list[str]) -> Weights:
    if len(names) > MOST_FILES:
        raise NoEstimate(f"{len(names)} safetensors files are no model that is known here.")
    return of_tensors(tensor for name in names for tensor in header(folder / name))
