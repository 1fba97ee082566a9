"""Causes and hints of the families in `signs` that need facts of the machine, or a computation.

Each function gets the match of a sign's pattern, and the `HintContext`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vllm_magic.engine.failures import places
from vllm_magic.sizes import gib

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm_magic.engine.failures.hints import HintContext

UNREACHABLE_HINT = (
    "Check the network and HTTPS_PROXY, set HF_ENDPOINT to a mirror, or download the model where there is a network "
    "(%vllm pull) and start its folder"
)
MOST_FOLLOWING = 30  # lines after an import that fails in which a package says how to install what is missing
LONGEST_BUILD = 100  # lines above and below a line about a failed build in which its first error is searched
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py, MaxLoRARanks

# Which package of Debian and Ubuntu has a library, or what else brings it.
_LIBRARIES = (
    (r"libGL\.so", "apt install libgl1, or opencv-python-headless in place of opencv-python beside vLLM"),
    (r"libgthread-|libglib-", "apt install libglib2.0-0"),
    (r"libSM\.so|libXext\.so|libXrender\.so", "apt install libsm6 libxext6 libxrender1"),
    (r"libnuma\.so", "apt install libnuma1"),
    (r"libgomp\.so", "apt install libgomp1"),
    (r"libsndfile\.so", "apt install libsndfile1"),
    (r"libavcodec|libavutil|libavformat|libavdevice", "apt install ffmpeg"),
    (r"libcuda\.so", "It comes with the NVIDIA driver: install that, or start the container with --gpus all"),
    (r"libpython", "apt install libpython3-dev, or a Python that was built with --enable-shared"),
    (r"libmpi", "apt install libopenmpi-dev"),
    (r"libib|librdma|libmlx", "apt install libibverbs1 librdmacm1"),
)
_CUDA_LIBRARY = re.compile(
    r"lib(?:cudart|cublas|cublasLt|cudnn|nccl|cusparse|cusolver|cufft|nvrtc)\.so\.(\d{1,3})"
)


def install(package: str) -> Callable[[re.Match[str], HintContext], str]:
    """Return a hint that installs the package beside vLLM; ``{0}`` in its name is the first group of the match."""

    def hint(match: re.Match[str], context: HintContext) -> str:
        return f"Install it in vLLM's environment: {context.python} -m pip install {package.format(*match.groups(''))}"

    return hint


def check_packages(_: re.Match[str], context: HintContext) -> str:
    """Return how to find packages that do not fit together."""
    return (
        f"{context.python} -m pip check names what does not fit; else install vLLM again, or another version of it, in an "
        "environment of its own (%vllm install)"
    )


def parsers(match: re.Match[str], _: HintContext) -> str:
    """Return the parsers that there are."""
    flag = "--reasoning-parser" if match[1] == "Reasoning" else "--tool-call-parser"
    return (
        f"Choose from {match[3]}" if match[3] else f"vllm serve --help={flag.removeprefix('--')} lists them"
    )


def wrong_call(match: re.Match[str], context: HintContext) -> str:
    """Return what to do about a call with arguments that do not fit; classes of transformers change most."""
    if re.search(r"Processor|Tokenizer|Config\b|FeatureExtractor", match[1]):
        return "Install the transformers that the model's page names, or a newer vLLM"
    if re.search(r"Impl\b|Attention", match[1]):
        return (
            "This attention backend cannot do what the model wants: try a newer vLLM, or another --attention-backend (before vLLM "
            "0.12 --env VLLM_ATTENTION_BACKEND), as the model's page names it"
        )
    return f"Try a newer vLLM; {check_packages(match, context)}"


def not_in_vllm(match: re.Match[str], context: HintContext) -> str:
    """Return what a module of vLLM does not have, and who asked for it."""
    asked = places.importer(context.frames)
    if asked:
        return f"{_capitalized(asked)} is made for another version of vLLM: this one has no {match[1]} in {match[2]}"
    return (
        f"vLLM's module {match[2]} has no {match[1]}: it is damaged, or mixed from two versions ({match[3]})"
    )


def not_in_vllm_hint(_: re.Match[str], context: HintContext) -> str:
    """Return what to do if a module of vLLM does not have something."""
    return _for_this_vllm(context) or (
        "Install vLLM again, in an environment of its own (%vllm install), and do not start it in a folder that contains another vllm"
    )


def no_part(match: re.Match[str], context: HintContext) -> str:
    """Return which module vLLM does not have, and who asked for it."""
    asked = places.importer(context.frames)
    if asked:
        return f"{_capitalized(asked)} is made for another version of vLLM: this one has no vllm.{match[1]}"
    return f"This vLLM has no part {match[1]}: it is damaged, or a package that uses it is made for another version"


def no_part_hint(match: re.Match[str], context: HintContext) -> str:
    """Return what to do about a module that vLLM does not have."""
    return _for_this_vllm(context) or check_packages(match, context)


def no_module(match: re.Match[str], context: HintContext) -> str:
    """Return which package lacks a module, and who asked for it."""
    asked = places.importer(context.frames) or "another package"
    return f"The package {match[1]} beside vLLM has no module {match[2]}: {asked} needs another version of it"


def no_module_hint(match: re.Match[str], context: HintContext) -> str:
    """Return what to do about a package that lacks a module."""
    asked = places.importer(context.frames)
    if not asked.startswith("the package ") or asked == f"the package {match[1]}":
        return check_packages(match, context)
    package = asked.removeprefix("the package ")
    return f"Upgrade {package} ({context.python} -m pip install -U {package}), or install the {match[1]} that it is made for"


def other_transformers(_: re.Match[str], context: HintContext) -> str:
    """Return which transformers to install, or whose code is not made for this one."""
    asked = places.importer(context.frames)
    if "/transformers_modules/" in asked:
        return (
            "The model's own code wants another version: leave --trust-remote-code out if this vLLM knows the model, or install the "
            f"one that its page names ({context.python} -m pip install 'transformers<5' for code from before 2026)"
        )
    if asked.startswith("the package ") and not asked.endswith(" transformers"):
        package = asked.removeprefix("the package ")
        return f"Upgrade {package} ({context.python} -m pip install -U {package}), or install the transformers that it is made for"
    return "Install the version that this vLLM asks for (pip check names it)"


def _for_this_vllm(context: HintContext) -> str:
    """Return what to do about a package or a file that is made for another version of vLLM; "" if nothing is known of it."""
    asked = places.importer(context.frames)
    if asked.startswith("the package "):
        package = asked.removeprefix("the package ")
        return f"Install the {package} for this version of vLLM: {context.python} -m pip install -U {package}; or remove it"
    return (
        f"Correct {asked} for this version, or leave out the flag that names it (--tool-parser-plugin)"
        if asked
        else ""
    )


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def scheme_capability(match: re.Match[str], _: HintContext) -> str:
    """Return the cause with CUDA's compute capabilities, which vLLM logs here without their point."""
    needed, there = (_with_point(text) for text in match.groups())
    return f"This quantization needs a GPU of compute capability {needed}, and this one has {there}"


def kernel_missing(match: re.Match[str], _: HintContext) -> str:
    """Return which kernel is missing for which GPU."""
    return f"This vLLM has no kernel {match[1]} for GPUs of compute capability {_with_point(match[2])}"


def crashed(match: re.Match[str], _: HintContext) -> str:
    """Return in which function a process crashed, if the lines below name it."""
    below = "\n".join(match.string[match.start() :].split("\n", 20)[:20])
    function = re.search(r"PC: @ +0x\w+ +\(unknown\) +(\w[\w:]+)\(|File \"(.{1,300})\", line \d+ in ", below)
    where = next(filter(None, function.groups()), "") if function else ""
    return f"A compiled part of vLLM has crashed{f' in {where}' if where else ''}"


def failed_build(match: re.Match[str], _: HintContext) -> str:
    """Return the compiler's first error in the output of a build."""
    above = match.string[: match.start()].split("\n")[-LONGEST_BUILD:]
    below = match.string[match.start() :].split("\n", LONGEST_BUILD)[:LONGEST_BUILD]
    error = re.search(r"(?:\b(?:fatal )?error: |\bfatal +: ).*", "\n".join((*above[:-1], *below)))
    return f"A kernel cannot be compiled{f': {error[0]}' if error else ''}"


def shared_memory_full(_: re.Match[str], context: HintContext) -> str:
    """Return the cause with the size of /dev/shm."""
    size = context.machine.shared_memory
    return f"/dev/shm is full{f': it has {gib(size, 2)}' if size else ''}"  # noqa: S108 - only a name


def disk_full(match: re.Match[str], _: HintContext) -> str:
    """Return which file did not fit."""
    return f"The disk is full{f': no room for {match[1]}' if match[1] else ''}"


def read_only(match: re.Match[str], _: HintContext) -> str:
    """Return which file cannot be written."""
    return f"{match[1] or 'A folder that vLLM writes to'} is on a file system that cannot be written"


def no_backend(match: re.Match[str], _: HintContext) -> str:
    """Return what to do if no attention backend fits, by the reasons that vLLM names for each."""
    options = "Leave --kv-cache-dtype, --block-size and --attention-backend out; the lines name the reason for each backend"
    gpu = "; some need a newer GPU" if "compute capability not supported" in match[1] else ""
    return f"{options}{gpu}"


def no_permission(match: re.Match[str], _: HintContext) -> str:
    """Return what to do about a path that this user may not use; below / it is a home that the user does not have."""
    if re.match(r"/\.\w+(?:/|$)", match[1]):
        return "The user has no home folder, so caches go to /: add --env HOME=/tmp, or another folder of this user"
    return "Change its owner or mode, or point HOME, HF_HOME and VLLM_CACHE_ROOT to a folder of this user"


def missing_weights(match: re.Match[str], _: HintContext) -> str:
    """Return what to do about weights that the checkpoint does not have, by their names."""
    if re.search(r"'(?:score|classifier|lm_head\.score)\.", match[1]):
        return (
            "The model has no head of a classifier: leave --convert and --task out, or, for a reranker made of a language "
            "model, give --hf-overrides as its page says (architectures, classifier_from_token)"
        )
    return (
        "Check that all of its files are there; if they are, a newer vLLM may know this form of the model; an adapter alone "
        "is no model (--enable-lora --lora-modules)"
    )


def missing_module(match: re.Match[str], context: HintContext) -> str:
    """Return what brings a Python module."""
    if match[1] == "vllm":
        return f"{context.python} has no vLLM: install it (%vllm install), or name another vLLM: --executable /path/to/vllm"
    # The package that needs the module may say how it is installed: `pip install NAME`.
    following = match.string[match.end() :].split("\n", MOST_FOLLOWING)[:MOST_FOLLOWING]
    said = next(
        (
            found
            for line in following
            if (found := re.search(r"\bpip install ((?:[\w.=<>~-]|\[\w+\]){1,80})", line))
        ),
        None,
    )
    if said:
        return install(said[1].rstrip("."))(match, context)
    return f"Install the package that has it in the environment of {context.python}, or install vLLM again (%vllm install)"


def too_many_processes(_: re.Match[str], context: HintContext) -> str:
    """Return the cause with the limit."""
    limit = context.machine.processes
    return f"No more processes or threads can be made{f': the limit is {limit}' if limit else ''}"


def too_many_files(_: re.Match[str], context: HintContext) -> str:
    """Return the cause with the limit."""
    limit = context.machine.files
    return f"vLLM has too many files open{f': the limit is {limit}' if limit else ''}"


def no_memory(_: re.Match[str], context: HintContext) -> str:
    """Return the cause with the container's limit."""
    limit = context.machine.memory_limit
    return f"The machine's memory has run out{f': the container may use {gib(limit, 1)}' if limit else ''}"


def driver_too_old(match: re.Match[str], _: HintContext) -> str:
    """Return which CUDA the driver runs; it gives the version as 12080 for 12.8."""
    version = int(match[1])
    return f"The NVIDIA driver runs CUDA {version // 1000}.{version % 1000 // 10} at most, and this vLLM needs a newer one"


def fewer_gpus(match: re.Match[str], _: HintContext) -> str:
    """Return the size that the GPUs suffice for."""
    there = int(match[2])
    return f"Set --tensor-parallel-size to {there}" if there else "Check CUDA_VISIBLE_DEVICES and the driver"


def store_port_taken(match: re.Match[str], _: HintContext) -> str:
    """Return which port is taken."""
    return (
        f"Port {match[1] or 'of torch.distributed'} is taken, through which vLLM's processes find each other"
    )


def store_port(match: re.Match[str], _: HintContext) -> str:
    """Return how to find the process that has the port; it is not the server's own port."""
    holder = f"ss -ltnp 'sport = :{match[1]}' shows who has it. " if match[1] else ""
    return f"{holder}It is not the server's own port: remove MASTER_PORT and VLLM_PORT from the environment, or change them"


def kernel_too_large(match: re.Match[str], _: HintContext) -> str:
    """Return the cause in KiB."""
    needed, there = (int(number) // 1024 for number in match.groups())
    return f"A kernel needs {needed} KiB of the GPU's shared memory, and this GPU has {there}"


def memory_came_back(match: re.Match[str], _: HintContext) -> str:
    """Return how much memory another process gave back."""
    return f"Another process gave back GPU memory while vLLM measured it: {match[1]} GiB were free, then {match[2]} GiB"


def lora_rank(match: re.Match[str], _: HintContext) -> str:
    """Return the smallest rank that vLLM takes and that suffices."""
    rank = next((allowed for allowed in LORA_RANKS if allowed >= int(match[1])), None)
    return f"Add --max-lora-rank {rank}" if rank else f"vLLM takes ranks up to {LORA_RANKS[-1]}"


def library_missing(match: re.Match[str], _: HintContext) -> str:
    """Return which library is missing. A missing library of CUDA means that a package was built for another CUDA."""
    cuda = _CUDA_LIBRARY.match(match[1])
    wanted = f": what is installed beside vLLM was built for another CUDA ({cuda[1]})" if cuda else ""
    return f"The library {match[1]} is missing{wanted}"


def library_package(match: re.Match[str], _: HintContext) -> str:
    """Return what brings the library."""
    if _CUDA_LIBRARY.match(match[1]):
        return "Install vLLM again, in an environment of its own (%vllm install): torch and vLLM must be of one build"
    return next(
        (hint for name, hint in _LIBRARIES if re.match(name, match[1])),
        "Install the package that has it; if it is there, add its folder to LD_LIBRARY_PATH (--env LD_LIBRARY_PATH=FOLDER)",
    )


def other_build(match: re.Match[str], context: HintContext) -> str:
    """Return which package beside vLLM was built for another torch, by the path of its library."""
    package = _package_of(match[1], context)
    if package is None:
        return f"vLLM's compiled part does not fit what is installed beside it: {match[2]}"
    return f"The package {package} was built for another torch than the one beside it: {match[2]}"


def other_build_hint(match: re.Match[str], context: HintContext) -> str:
    """Return what to do about a package that was built for another torch."""
    package = _package_of(match[1], context)
    if package is None:
        return "Install vLLM again, in an environment of its own (%vllm install): its torch was changed"
    return (
        f"Install the {package} that is made for this torch, or remove it if nothing needs it: {context.python} -m pip uninstall "
        f"{package}"
    )


def _package_of(library: str, context: HintContext) -> str | None:
    """Return the package that brought a library, by its path and by what loads it; None for vLLM, torch and unknown ones."""
    found = re.search(r"-packages/(?!(?:vllm|torch)\w*[/.])([A-Za-z]\w*?)(?:_\d+_cuda|_cuda)?[/.]", library)
    loader = places.importer(context.frames).removeprefix("the package ")
    return loader if found and loader and found[1].startswith(loader) else found[1] if found else None


def damaged_weights(match: re.Match[str], _: HintContext) -> str:
    """Return how a file of weights is damaged, in safetensors' own words."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", match[1]).lower()
    return f"A file of weights cannot be read ({words}): it is cut off, or a pointer of git-lfs"


def weight_without_place(match: re.Match[str], _: HintContext) -> str:
    """Return what to do about a weight that vLLM's code for the model does not know, by the weight's name.

    A checkpoint whose weights have no ``model.`` before their names is one without a head: of an embedding model.
    """
    if "ForCausalLM" in match[0] and re.fullmatch(r"embed_tokens|layers|norm|encoder|embeddings", match[1]):
        return "It may be an embedding model: add --runner pooling (before vLLM 0.11 --task embed)"
    if re.search(r"attention\.w[qkvo]\b|feed_forward\.w\d|attention_norm|ffn_norm|tok_embeddings", match[1]):
        return (
            "It is in Mistral's own format: add --load-format mistral --config-format mistral --tokenizer-mode mistral, or remove "
            "consolidated*.safetensors if the folder has both formats"
        )
    if re.search(r"lora_|base_layer|base_model", match[1]):
        return "It is one of an adapter: merge it into the model (merge_and_unload in peft), or use --lora-modules"
    if re.search(r"absmax|quant_map|quant_state|nested_", match[1]):
        return "It is quantized with bitsandbytes: add --quantization bitsandbytes, or try a newer vLLM"
    if re.search(r"scale|zero|quant|qweight|g_idx|packed|weight_\w", match[1]):
        return (
            "It is quantized in another way than vLLM takes it for: check quantization_config in its config.json, leave "
            "--quantization out, and try a newer vLLM"
        )
    return (
        "Leave --quantization out, and install a newer vLLM, which may know this form of the model; if somebody has trained or "
        "converted it, names and config.json (architectures, quantization_config) must be as in the original"
    )


def host_unreachable(match: re.Match[str], _: HintContext) -> str:
    """Return which host cannot be reached."""
    host = next(filter(None, match.groups()), "The Hub")
    return f"{host} cannot be reached"


def old_nvcc(match: re.Match[str], _: HintContext) -> str:
    """Return what the CUDA compiler does not know."""
    unknown = match[1] or match[2]
    return f"The CUDA compiler on this machine (nvcc) is too old: it does not know {unknown}"


def _with_point(capability: str) -> str:
    return f"{capability[:-1]}.{capability[-1]}"
