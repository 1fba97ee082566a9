"""The choice of GPUs, and the messages for wrong choices."""

from __future__ import annotations

import pytest

from vllm_magic.gpu.choice import choose, cuda_visible_devices
from vllm_magic.gpu.devices import Gpu, Snapshot
from vllm_magic.gpu.visible import without_uuids

GIB = 2**30


def gpu(index: int, free: float | None, total: float | None = 24, uuid: str | None = None) -> Gpu:
    def in_bytes(gib: float | None) -> int | None:
        return None if gib is None else int(gib * GIB)

    used = None if total is None or free is None else total - free
    uuid = uuid or f"GPU-{index}aaa-{index}"
    return Gpu(index, uuid, "NVIDIA", in_bytes(total), in_bytes(used), in_bytes(free), ())


def snapshot(*gpus: Gpu, problem: str | None = None) -> Snapshot:
    return Snapshot(0.0, gpus, None, problem)


FOUR = snapshot(gpu(0, 23), gpu(1, 3), gpu(2, 24), gpu(3, 23.5))


@pytest.mark.parametrize(
    ("words", "count", "indices"),
    [
        ("0", 1, [0]),
        ("2,0", 2, [2, 0]),
        (" 1 , 3 ", 1, [1, 3]),
        ("GPU-2aaa-2", 1, [2]),
        ("gpu-2A", 1, [2]),
        ("GPU-3,0", 1, [3, 0]),
        ("auto", 1, [2]),
        ("Auto", 2, [2, 3]),
        ("auto", 3, [0, 2, 3]),
    ],
)
def test_valid_choices(words: str, count: int, indices: list[int]) -> None:
    assert [chosen.index for chosen in choose(words, FOUR, count)] == indices


def test_auto_takes_just_enough_memory_and_no_byte_less() -> None:
    total = 24 * GIB
    enough = Gpu(0, "GPU-0", "NVIDIA", total, 0, -(-total * 92 // 100), ())
    assert choose("auto", snapshot(enough)) == (enough,)
    short = Gpu(0, "GPU-0", "NVIDIA", total, 0, -(-total * 92 // 100) - 1, ())
    with pytest.raises(ValueError, match="no GPU has enough"):
        choose("auto", snapshot(short))


def test_auto_asks_for_the_given_fraction() -> None:
    assert choose("auto", snapshot(gpu(0, 12)), fraction=0.5)[0].index == 0


def test_auto_takes_a_gpu_without_figures_last() -> None:
    unified = gpu(0, None, None)
    assert choose("auto", snapshot(unified)) == (unified,)
    assert [chosen.index for chosen in choose("auto", snapshot(unified, gpu(1, 24)))] == [1]


@pytest.mark.parametrize(
    ("words", "count", "message"),
    [
        (
            "7",
            1,
            "there is no GPU '7': there are 0 (GPU-0aaa-0), 1 (GPU-1aaa-1), 2 (GPU-2aaa-2), 3 (GPU-3aaa-3)",
        ),
        ("0,", 1, "there is no GPU '': "),
        ("-1", 1, "there is no GPU '-1': "),
        ("GPU-9", 1, "there is no GPU 'GPU-9': "),
        ("aaa", 1, "there is no GPU 'aaa': "),
        ("GPU-", 1, "'GPU-' fits 4 GPUs: write more of the UUID"),
        ("0,GPU-0", 1, "'0,GPU-0' names a GPU twice: name each one once"),
        ("0", 2, "2 GPUs are needed and '0' names 1: name more, or need fewer"),
        (
            "auto",
            4,
            "only 3 of the 4 GPUs that are needed have enough free memory (GPU 1: 3.0 GiB free, 22.1 GiB ",
        ),
        ("auto", 5, "5 GPUs are needed and there are only 4: need fewer"),
    ],
)
def test_invalid_choices(words: str, count: int, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is compared below
        choose(words, FOUR, count)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_message_names_the_shortage_of_every_gpu() -> None:
    with pytest.raises(
        ValueError, match=r"no GPU has .* \(GPU 0: 1\.0 GiB free.*, GPU 1: 2\.5 GiB free.*\): free"
    ):
        choose("auto", snapshot(gpu(0, 1), gpu(1, 2.5)))


@pytest.mark.parametrize("words", ["auto", "0"])
def test_without_a_gpu_the_message_says_why(words: str) -> None:
    with pytest.raises(
        ValueError, match="no GPU can be chosen: no NVIDIA driver found; leave the choice out"
    ):
        choose(words, snapshot(problem="no NVIDIA driver found"))


def test_cuda_gets_uuids_in_the_order_of_the_choice() -> None:
    assert cuda_visible_devices(choose("2,0", FOUR)) == "GPU-2aaa-2,GPU-0aaa-0"
    assert cuda_visible_devices(choose("2,0", FOUR), by_uuid=False) == "2,0"


@pytest.mark.parametrize(
    ("listed", "value"),
    [
        ("GPU-2aaa-2, gpu-0a", "2,0"),
        ("GPU-2aaa-2,0", "2,0"),
        ("2,0", None),
        ("", None),
        ("MIG-1234", None),
        ("GPU-2aaa-2,MIG-1234", None),
        ("GPU-9", None),
    ],
)
def test_indices_in_place_of_uuids(listed: str, value: str | None) -> None:
    assert without_uuids(FOUR.gpus, {"CUDA_VISIBLE_DEVICES": listed}) == value


@pytest.mark.parametrize("wanted", ["0", "auto", "GPU-0aaa"])
def test_gpus_that_share_a_uuid(wanted):
    with pytest.raises(ValueError, match="several GPUs have the UUID GPU-0aaa, by which CUDA chooses: leave"):
        choose(wanted, snapshot(gpu(0, 23, uuid="GPU-0aaa"), gpu(1, 23, uuid="GPU-0aaa")))
