"""Entry point of the process that downloads a model: ``python pull_child.py MODEL REVISION FOLDER``.

The last two arguments may be empty. This process runs in any Python that has huggingface_hub, so it imports no module of
vllm_magic. It prints a line of JSON with the total size in bytes, and another line with the folder, or with the error.
"""

import json
import sys
from fnmatch import fnmatch

# The files that vLLM does not load if the same weights exist as safetensors (its default_loader.py searches those first).
OTHER_WEIGHTS = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.h5",
    "*.msgpack",
    "*.onnx",
    "*.onnx_data",
    "*.gguf",
    "*.ot",
    "*.tflite",
)
DUPLICATES = ("original/*", "consolidated*", "onnx/*", "openvino/*")


def main(model: str, revision: str, folder: str) -> None:
    """Download the files that vLLM needs of the model."""
    from huggingface_hub import HfApi, snapshot_download

    found = HfApi().model_info(model, revision=revision or None, files_metadata=True)
    files = {file.rfilename: file.size or 0 for file in found.siblings or []}
    ignored = [*OTHER_WEIGHTS, *DUPLICATES] if any(name.endswith(".safetensors") for name in files) else []
    report(
        total=sum(
            size for name, size in files.items() if not any(fnmatch(name, pattern) for pattern in ignored)
        )
    )
    report(
        path=snapshot_download(model, revision=found.sha, cache_dir=folder or None, ignore_patterns=ignored)
    )


def report(**content: object) -> None:
    """Print one line for the kernel."""
    print(json.dumps(content), flush=True)  # noqa: T201 - into a pipe


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - the notebook shows it, by its type
        report(error=type(error).__name__, text=str(error).strip().partition("\n")[0])
        sys.exit(1)
