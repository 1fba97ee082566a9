"""A folder that lacks what vLLM needs of a model is refused before the start; whatever may be served is left to vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import checkpoints
import pytest

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.engine.start_checks import model_folder
from vllm_magic.engine.start_checks.planned_start import PlannedStart
from vllm_magic.errors import StartFailed

CONFIG = {**checkpoints.LLAMA_3_8B, "num_hidden_layers": 2, "hidden_size": 64, "vocab_size": 32}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 975635\n"
COMMIT = "0123456789abcdef" * 2 + "01234567"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def model(tmp_path) -> Path:
    """A small Llama."""
    return checkpoints.model(tmp_path / "model", CONFIG)


def check(model: Path | str, *args: str, **environ: str) -> None:
    """Check the start of a server."""
    model_folder.check(PlannedStart(ServerSpec(str(model), args), environ, None))


def refused(model: Path | str, *args: str, **environ: str) -> str:
    """Return why the start is refused."""
    with pytest.raises(StartFailed) as caught:
        check(model, *args, **environ)
    return str(caught.value)


def test_a_model_that_is_whole(model, tmp_path):
    check(model)
    check(tmp_path / "none")  # `model_name` refuses this one


class TestConfig:
    def test_none(self, model):
        (model / "config.json").unlink()
        said = f"{model} has no config.json. Give the folder with the model's config.json and weights"
        assert refused(model) == said

    @pytest.mark.parametrize("below", ["checkpoint-500", f"snapshots/{COMMIT}"])
    def test_the_one_below_is_meant(self, tmp_path, model, below):
        outer = tmp_path / "outer"
        (outer / below).parent.mkdir(parents=True)
        model.rename(outer / below)
        assert refused(outer) == f"{outer} has no config.json. Did you mean {outer / below}?"

    @pytest.mark.parametrize(
        ("content", "base"),
        [
            ('{"base_model_name_or_path": "some/base"}', "some/base"),
            ('{"base_model_name_or_path": null}', "its base model"),
            ("", "its base model"),
        ],
    )
    def test_an_adapter(self, tmp_path, content, base):
        (tmp_path / "adapter_config.json").write_text(content)
        said = f"It is a LoRA adapter. Start {base} with --enable-lora --lora-modules NAME={tmp_path}"
        assert refused(tmp_path).endswith(said)

    @pytest.mark.parametrize("content", ["", '{"architectures": [],\n', "[]", "no JSON"])
    def test_not_json(self, model, content):
        (model / "config.json").write_text(content)
        said = refused(model)
        assert said.startswith(f"{model}/config.json ")
        assert said.endswith("Download or copy it again")

    def test_the_place_of_the_mistake(self, model):
        (model / "config.json").write_text('{"a": 1,\n "b": }')
        assert f"{model}/config.json cannot be read as JSON: line 2, column 7. " in refused(model)

    @pytest.mark.parametrize(
        ("file", "args"),
        [
            ("params.json", ()),
            ("model-q4.gguf", ()),
            ("model_index.json", ()),
            ("x", ("--hf-config-path", "some/model")),
            ("x", ("--config-format", "of-a-plugin")),
            ("x", ("--omni",)),
        ],
    )
    def test_what_stands_in_for_it(self, model, file, args):
        (model / "config.json").unlink()
        (model / file).write_text("{}")
        check(model, *args)

    def test_a_long_one(self, model):
        """Only its beginning is read, which is no JSON."""
        (model / "config.json").write_text(json.dumps({**CONFIG, "more": "x" * 6_000_000}))
        check(model)


class TestWeights:
    def test_none(self, model):
        (model / WEIGHTS).unlink()
        said = f"{model} has no weights (*.safetensors, *.bin, *.pt). Download or copy them"
        assert refused(model) == said
        (model / "optimizer.bin").write_bytes(b"x")
        (model / "tf_model.h5").write_bytes(b"x")
        assert refused(model) == said
        assert "no weights (*.pt)" in refused(model, "--load-format", "pt")
        assert "no weights (*.safetensors, *.pt)" in refused(model, "--load-format=safetensors")

    @pytest.mark.parametrize(
        ("file", "args"),
        [
            ("pytorch_model.bin", ()),
            ("model.pt", ()),
            ("model.pt", ("--load-format", "pt")),
            ("consolidated.safetensors", ("--load-format", "mistral")),
            ("consolidated.00.pth", ()),
            ("transformer/model.safetensors", ()),
            ("x", ("--load-format", "dummy")),
            ("x", ("--load-format", "tensorizer")),
            ("x", ("--load-format", "of_a_plugin")),
            ("x", ("--model-weights", "s3://bucket/model")),
        ],
    )
    def test_what_stands_in_for_them(self, model, file, args):
        (model / file).parent.mkdir(exist_ok=True)
        (model / WEIGHTS).rename(model / file)
        check(model, *args)

    def test_a_pointer(self, model):
        (model / WEIGHTS).write_text(POINTER)
        said = f"{model}/{WEIGHTS} is a pointer of Git LFS, not the file itself. Fetch it: git -C {model} lfs pull"
        assert refused(model) == said
        (model / WEIGHTS).rename(model / "pytorch_model.bin")
        assert refused(model) == said.replace(WEIGHTS, "pytorch_model.bin")

    @pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin"])
    def test_an_empty_file(self, model, name):
        (model / WEIGHTS).unlink()
        (model / name).touch()
        assert refused(model) == f"{model}/{name} is empty. Download or copy it again"

    def test_a_file_that_is_cut_short(self, model):
        path = model / WEIGHTS
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 100)
        said = f"{path} is cut short: its last 100 bytes are missing. Download or copy it again"
        assert refused(model) == said
        with path.open("r+b") as file:
            file.truncate(50)  # within its header
        assert f"{path} does not begin as a safetensors file does" in refused(model)

    def test_a_file_that_vllm_may_read(self, model):
        """The type of a tensor may be newer than this package, and there may be more bytes than tensors."""
        text = json.dumps({"a": {"dtype": "F3", "shape": [8], "data_offsets": [0, 3]}}).encode()
        (model / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + bytes(9))
        check(model)

    def test_a_damaged_file_that_is_not_loaded(self, model):
        (model / "training_args.bin").touch()
        (model / "pytorch_model.bin").touch()
        check(model)
        shutil.copy(model / WEIGHTS, model / "consolidated.safetensors")
        (model / WEIGHTS).touch()
        check(model)
        (model / "consolidated.safetensors").unlink()
        (model / WEIGHTS).write_text(POINTER)
        check(model, "--load-format", "dummy")

    def test_a_link_to_nothing(self, model):
        """As in a copy of a snapshot without the files that its links mean."""
        (model / WEIGHTS).unlink()
        (model / WEIGHTS).symlink_to("../../blobs/abc")
        assert f"and {WEIGHTS} in it is a link to nothing" in refused(model)


class TestIndex:
    @pytest.fixture
    def missing(self, model) -> Path:
        """A model with two files of weights, of which the second is missing."""
        where = dict.fromkeys(checkpoints.llama(CONFIG), "model-1.safetensors")
        where |= {name: "model-2.safetensors" for name in where if ".layers.1." in name}
        self.index(model, where)
        return model

    def index(self, model: Path, where: object) -> None:
        if (model / WEIGHTS).exists():
            (model / WEIGHTS).rename(model / "model-1.safetensors")
        (model / INDEX).write_text(json.dumps({"weight_map": where}))

    def test_a_file_is_missing(self, missing):
        said = f"{missing} has only 1 of the 2 files of weights: model-2.safetensors is missing. Download or copy the others"
        assert refused(missing) == said
        (missing / "model-1.safetensors").unlink()
        assert f"{missing} has no weights" in refused(missing)

    def test_the_embedding_is_missing(self, model):
        self.index(model, {"model.embed_tokens.weight": "model-2.safetensors"})
        assert "model-2.safetensors is missing" in refused(model)

    @pytest.mark.parametrize("tensor", ["model.layers.2.x", "mtp.layers.0.x", "visual.blocks.0.x"])
    def test_a_file_that_vllm_may_not_need(self, model, tensor):
        self.index(model, {"model.embed_tokens.weight": "model-1.safetensors", tensor: "model-2.safetensors"})
        check(model)

    def test_fewer_layers_are_asked_for(self, missing):
        check(missing, "--hf-overrides", '{"num_hidden_layers": 1}')

    def test_mistral_format(self, missing):
        shutil.copy(missing / "model-1.safetensors", missing / "consolidated.safetensors")
        check(missing)

    def test_files_of_torch(self, missing):
        (missing / "model-1.safetensors").rename(missing / "pytorch_model.bin")
        check(missing)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
    def test_an_index_that_is_none(self, missing, content):
        (missing / INDEX).write_text(content)
        assert refused(missing).startswith(f"{missing}/{INDEX} ")

    def test_a_damaged_file_that_it_does_not_name(self, missing):
        shutil.copy(missing / "model-1.safetensors", missing / "model-2.safetensors")
        (missing / "old.safetensors").touch()
        check(missing)


class TestTokenizer:
    def test_none(self, model):
        (model / "tokenizer.json").unlink()
        said = f"{model} has no tokenizer. Add the model's tokenizer.json to it, or give another tokenizer"
        assert refused(model).startswith(said)

    @pytest.mark.parametrize(
        "args", [("--tokenizer", "some/model"), ("--skip-tokenizer-init",), ("--tokens-only",)]
    )
    def test_none_is_needed(self, model, args):
        (model / "tokenizer.json").unlink()
        check(model, *args)

    @pytest.mark.parametrize(
        "more", [{"auto_map": {}}, {"speculators_config": {}}, {"model_type": "qwen3"}, {"model_type": []}]
    )
    def test_it_may_come_from_elsewhere(self, model, more):
        """Transformers 5 even makes one without any file, for some types."""
        (model / "tokenizer.json").unlink()
        (model / "config.json").write_text(json.dumps({**CONFIG, **more}))
        check(model)

    @pytest.mark.parametrize(
        "file",
        [
            "tokenizer.model",
            "tekken.json",
            "vocab.json",
            "merges.txt",
            "spiece.model",
            "qwen.tiktoken",
            "tokenization_x.py",
            "tokenizer/vocab.txt",
        ],
    )
    def test_other_files(self, model, file):
        (model / file).parent.mkdir(exist_ok=True)
        (model / "tokenizer.json").rename(model / file)
        check(model)


class TestCache:
    @pytest.fixture
    def snapshot(self, tmp_path, model) -> Path:
        """The model in the cache, with links to its files, as huggingface_hub makes them."""
        kept = tmp_path / "hub" / "models--some--model"
        snapshot = kept / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text(COMMIT)
        (kept / "blobs").mkdir()
        for file in list(model.iterdir()):
            file.rename(kept / "blobs" / f"blob-{file.name}")
            (snapshot / file.name).symlink_to(f"../../blobs/blob-{file.name}")
        return snapshot

    @pytest.fixture
    def environ(self, tmp_path) -> dict[str, str]:
        """The variables of a server that finds the cache and may not ask the Hub."""
        return {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}

    def test_whole(self, snapshot, environ):
        check("some/model", **environ)
        check("other/model", **environ)  # `model_name` refuses this one

    @pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
    @pytest.mark.parametrize("is_link", [False, True])
    def test_an_interrupted_download(self, snapshot, environ, name, is_link):
        (snapshot / name).resolve().unlink()
        if not is_link:
            (snapshot / name).unlink()
        told = refused("some/model", **environ)
        assert told.startswith(f"{snapshot} has no ")
        assert (f"and {name} in it is a link to nothing" in told) is is_link
        assert told.endswith("Unset HF_HUB_OFFLINE to complete its download")

    def test_a_damaged_file(self, snapshot, environ):
        """The file that a link means must go too: huggingface_hub would make the link again."""
        blob = (snapshot / WEIGHTS).resolve()
        blob.write_text(POINTER)
        told = refused("some/model", **environ)
        assert told.startswith(f"{snapshot}/{WEIGHTS} is a pointer of Git LFS, not the file itself. ")
        assert told.endswith(f"Remove {blob}. Unset HF_HUB_OFFLINE to complete its download")

    @pytest.mark.parametrize("name", ["config.json", WEIGHTS, "tokenizer.json"])
    def test_online_vllm_completes_it(self, snapshot, environ, name):
        (snapshot / name).unlink()
        check("some/model", **{**environ, "HF_HUB_OFFLINE": "0"})

    def test_with_another_folder_for_weights(self, snapshot, environ, tmp_path):
        (snapshot / WEIGHTS).unlink()
        check("some/model", "--download-dir", str(tmp_path / "hub"), **environ)
