"""The size of a model's weights from what lies on disk, whatever lies there."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

import checkpoints
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vllm_magic.engine.capacity import weights
from vllm_magic.engine.models import model_files
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import NoEstimate

many = settings(max_examples=300, derandomize=True, deadline=None, database=None)

TWO = {"a": ("BF16", [3, 4]), "b": ("F32", [5])}  # 24 and 20 bytes


def test_one_file(tmp_path):
    checkpoints.safetensors(tmp_path / "model.safetensors", TWO)
    found = weights.read(tmp_path)
    assert found.size == 44
    assert found.tensors == (("a", "BF16", 2, 12, 24), ("b", "F32", 1, 5, 20))
    assert found.source == "the headers of the safetensors files"


def test_llama_3_8b_has_as_many_parameters_as_it_is_known_for(tmp_path):
    checkpoints.model(tmp_path, checkpoints.LLAMA_3_8B)
    found = weights.read(tmp_path)
    assert sum(one.numbers for one in found.tensors) == 8_030_261_248
    assert found.size == 2 * 8_030_261_248
    assert os.stat(tmp_path / "model.safetensors").st_blocks * 512 < 10**6  # nothing but the header is there


def index(folder: Path, where: dict, total: object = None) -> None:
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": where})
    (folder / "model.safetensors.index.json").write_text(text)


def test_the_files_of_an_index_and_no_others(tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        checkpoints.safetensors(tmp_path / name, TWO)
    index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    assert weights.read(tmp_path).size == 2 * 44


def test_a_download_that_is_not_complete(tmp_path):
    checkpoints.safetensors(tmp_path / "model-1.safetensors", TWO)
    index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"}, total=1000)
    assert weights.read(tmp_path) == weights.Weights(1000, (), "the total in model.safetensors.index.json")
    for total in (None, "many", -1, True, 10**30):
        index(tmp_path, {"a": "model-2.safetensors"}, total=total)
        with pytest.raises(NoEstimate, match="not all of the model's files are here"):
            weights.read(tmp_path)


def test_files_of_torch(tmp_path):
    for name, size in (("pytorch_model-1.bin", 100), ("pytorch_model-2.bin", 11), ("training_args.bin", 7)):
        (tmp_path / name).write_bytes(bytes(size))
    assert weights.read(tmp_path) == weights.Weights(111, (), "the sizes of the files")


def test_no_weights(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(NoEstimate, match="An estimate cannot be made: no weights"):
        weights.read(tmp_path)
    with pytest.raises(NoEstimate, match="cannot be read"):
        weights.read(tmp_path / "nowhere")


HUGE = (2**63).to_bytes(8, "little")


def described(**changes) -> bytes:
    tensor = {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4], **changes}
    text = json.dumps({"a": {name: value for name, value in tensor.items() if value is not None}}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "model.safetensors is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "is a pointer of Git LFS, not the file"),
        (b"short", "does not begin"),
        (bytes(8) + b"{}", "does not begin"),
        (HUGE + b"{}", "does not begin"),
        ((100).to_bytes(8, "little") + b"{}", "does not begin"),
        ((2).to_bytes(8, "little") + b"[]", "JSON object"),
        ((4).to_bytes(8, "little") + b"\xff\xfe{}", "as JSON"),
        ((7).to_bytes(8, "little") + b'{"a":1}', "does not describe"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "as JSON"),
        (described(data_offsets=[-4, 0]), "where it says"),
        (described(data_offsets=[4, 0]), "where it says"),
        (described(data_offsets=[0, 2]), "where it says"),
        (described(data_offsets=[0]), "where it says"),
        (described(data_offsets=None), "where it says"),
        (described(data_offsets=[0.0, 4.0]), "where it says"),
        (described(dtype="BF17"), "unknown"),
        (described(dtype=["BF16"]), "unknown"),
        (described(shape=[-2]), "unknown"),
        (described(shape=[True]), "unknown"),
        (described(shape=2), "unknown"),
        (described(shape=[2**61]), "unknown"),
        (described(shape=[1] * 17), "unknown"),
        (described(shape=[2**40], data_offsets=[0, 2**41]), "cut short"),
        (described(shape=[8], data_offsets=[0, 16]), "cut short: its last 8 bytes are missing"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(tmp_path, raw, says):
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(NoEstimate, match=says) as caught:
        weights.read(tmp_path)
    assert str(caught.value).startswith("An estimate cannot be made: ")


def test_a_header_that_is_longer_than_is_read(tmp_path):
    """The file may be valid all the same."""
    path = tmp_path / "model.safetensors"
    path.write_bytes((weights.LONGEST_HEADER + 1).to_bytes(8, "little"))
    os.truncate(path, 2 * weights.LONGEST_HEADER)
    with pytest.raises(NoEstimate, match="is longer than 25000000 bytes"):
        weights.read(tmp_path)
    assert weights.damage(path) == ""


def test_two_tensors_in_the_same_place_do_not_count_twice(tmp_path):
    tensor = {"dtype": "U8", "shape": [10], "data_offsets": [0, 10]}
    text = json.dumps({"a": tensor, "b": tensor}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(10))
    with pytest.raises(NoEstimate, match="more tensors than it holds"):
        weights.read(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(NoEstimate, match="is not a file"):
        weights.read(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/dev/zero")
    with pytest.raises(NoEstimate, match="is not a file"):
        weights.read(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").symlink_to("/nowhere/at/all")
    with pytest.raises(NoEstimate, match="cannot be read: No such file"):
        weights.read(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a\0b", "x" * 5000, "\ud800", 5, None])
def test_an_index_leads_nowhere_else(tmp_path, name):
    """What it names is looked for among the names of the folder, and nowhere else."""
    folder = tmp_path / "model"
    folder.mkdir()
    checkpoints.safetensors(tmp_path / "secret", TWO)
    index(folder, {"a": name})
    with pytest.raises(NoEstimate, match=r"not all of the model's files|which files hold"):
        weights.read(folder)


@many
@given(st.binary(max_size=60), st.integers(0, 2**64 - 1) | st.integers(0, 60))
@example(b"{}", 2)
@example(b'{"__metadata__": []}', 20)
def test_any_bytes(raw, length):
    _read(length.to_bytes(8, "little") + raw)


numbers = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
tensors = st.dictionaries(
    st.sampled_from(["dtype", "shape", "data_offsets", "x"]),
    st.sampled_from(["BF16", "F4", "x"]) | st.lists(numbers, max_size=4) | numbers,
)


@settings(many, max_examples=100)
@given(st.dictionaries(st.text(max_size=5), tensors | numbers, max_size=4), st.integers(0, 64))
def test_any_header(header, body):
    text = json.dumps(header).encode()
    _read(len(text).to_bytes(8, "little") + text + bytes(body))


def _read(raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.safetensors").write_bytes(raw)
        with contextlib.suppress(NoEstimate):
            assert 0 <= weights.read(Path(folder)).size <= len(raw)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path) -> Path:
    """A Hugging Face cache with a model in it, as links to blobs."""
    kept = tmp_path / "hub" / "models--some--model"
    (kept / "blobs").mkdir(parents=True)
    checkpoints.safetensors(kept / "blobs" / "abc", TWO)
    (kept / "snapshots" / COMMIT).mkdir(parents=True)
    (kept / "snapshots" / COMMIT / "model.safetensors").symlink_to("../../blobs/abc")
    (kept / "refs" / "refs" / "pr").mkdir(parents=True)
    (kept / "refs" / "main").write_text(COMMIT)
    (kept / "refs" / "refs" / "pr" / "1").write_text(COMMIT)
    return tmp_path / "hub"


def find(cache: Path, *args: str, model: str = "some/model", **environ: str) -> Path | None:
    return model_files.find(ServerSpec(model, args), environ or {"HF_HUB_CACHE": str(cache)})


class TestFind:
    def test_in_the_cache(self, cache):
        snapshot = cache / "models--some--model" / "snapshots" / COMMIT
        assert find(cache) == snapshot
        assert weights.read(snapshot).size == 44
        assert find(cache, "--revision", "refs/pr/1") == snapshot
        assert find(cache, "--revision", COMMIT) == snapshot
        assert find(cache, "--download-dir", str(cache), HOME="/nowhere") == snapshot
        assert find(cache, HF_HOME=str(cache.parent)) == snapshot
        assert find(cache, XDG_CACHE_HOME="/nowhere") is None

    @pytest.mark.parametrize(
        "args", [("--revision", "v2"), ("--revision", "f" * 40), ("--revision", "a\udc80")]
    )
    def test_what_is_not_in_it(self, cache, args):
        assert find(cache, *args) is None
        assert find(cache, model="some/other") is None

    @pytest.mark.parametrize("text", ["", "../../..", "main", "x" * 40])
    def test_a_ref_that_leads_elsewhere(self, cache, text):
        (cache / "models--some--model" / "refs" / "main").write_text(text)
        assert find(cache) is None

    def test_a_folder(self, tmp_path, monkeypatch):
        (tmp_path / "models" / "tiny").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert find(tmp_path, model="models/tiny") == tmp_path / "models" / "tiny"
        assert find(tmp_path, model="./models/tiny") == tmp_path / "models" / "tiny"
        assert find(tmp_path, model=str(tmp_path / "models" / "none")) is None

    @pytest.mark.parametrize("model", ["x" * 240, "a\udc80", "a//b", "..", "../.."])
    def test_names_that_none_has(self, cache, model):
        found = find(cache, model=model)
        assert found is None or found.is_dir()


def test_the_cache_is_where_huggingface_hub_has_it():
    home = Path.home()
    assert model_files.cache_folder({}) == home / ".cache" / "huggingface" / "hub"
    assert model_files.cache_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/huggingface/hub")
    assert model_files.cache_folder({"HF_HOME": "~/h", "XDG_CACHE_HOME": "/x"}) == home / "h" / "hub"
    assert model_files.cache_folder({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}) == Path("/c")
