"""Failures of the Python packages and libraries beside vLLM."""

from __future__ import annotations

from vllm_magic.engine.failures import hints, machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

_OWN_ENVIRONMENT = "Install vLLM again, in an environment of its own (%vllm install)"

SIGNS = (
    Sign(
        r"undefined symbol: (?:__nvJitLink|cublas|cudnn|cusparse|cusolver|cufft)\w{1,100}",
        "A library of CUDA that is found first is older than the one that torch was built for",
        "Take it out of LD_LIBRARY_PATH (%env LD_LIBRARY_PATH=), or install vLLM again in an environment of its own (%vllm install)",
    ),
    Sign(  # torch/_ops.py, where a part is used that could not be loaded
        r"'_OpNamespace' '(\w{1,100})' object has no attribute '(\w{1,100})'",
        hints.not_loaded,
        hints.not_loaded_hint,
    ),
    Sign(
        r"Numba needs NumPy (\d{1,3}\.\d{1,3}) or less\. Got NumPy (\d{1,3}\.\d{1,3})",
        "NumPy {1} is too new for the numba in vLLM's environment",
        machine_hints.install("'numpy<={0}'"),
    ),
    Sign(
        r"A module that was compiled using NumPy 1\.x cannot be run in NumPy (\d{1,3}[\d.]{0,20}\d)|"
        r"numpy\.(?:dtype|ufunc) size changed, may indicate binary incompatibility",
        "A package in vLLM's environment was built for another NumPy",
        _OWN_ENVIRONMENT,
    ),
    Sign(
        r"ImportError: (lib[\w+.-]{1,100}?\.so[\d.]{0,20}): cannot open shared object file",
        machine_hints.library_missing,
        machine_hints.library_package,
    ),
    Sign(
        r"Error: .{0,300}?version `(GLIBC_[\d.]{1,20})' not found",
        "This system's C library is too old for a package beside vLLM: it needs {0}",
        "Use a newer system or container, or a vLLM that was built for an older C library",
    ),
    Sign(
        r"Error: .{0,300}?version `((?:GLIBCXX|CXXABI)_[\d.]{1,20})' not found",
        "The C++ library that is found first is too old: {0} is missing in it",
        "If it is conda's library: conda install -c conda-forge libstdcxx-ng, or remove its folder from LD_LIBRARY_PATH",
    ),
    Sign(  # not the warning "Failed to import from vllm._C: ModuleNotFoundError(...)": 0.33 for CUDA gives it wherever it sees no GPU
        r"(?<!\(\")No module named 'vllm\._C(?:_\w{1,40})?'|operator _C::\w{1,100} does not exist",
        "The compiled part of vLLM cannot be loaded",
        "Install vLLM again, as a wheel for this machine and Python (%vllm install); do not start it in a folder with vLLM's source",
    ),
    Sign(
        r"operator torchvision::\w{1,50} does not exist",
        "torchvision does not fit the torch beside it",
        _OWN_ENVIRONMENT,
    ),
    Sign(
        r"Could not run '(_?\w{1,40}::\w{1,100})' with arguments from the '(\w{1,40})' backend",
        "This build of vLLM has no {0} for {1}: it was built for another kind of device",
        "Install the vLLM for this machine's GPU, in an environment of its own (%vllm install)",
    ),
    Sign(
        r"cannot import name '(\w{1,100})' from '(vllm[\w.]{0,200})' \((.{1,300}?)\)",
        machine_hints.not_in_vllm,
        machine_hints.not_in_vllm_hint,
    ),
    Sign(
        r"module 'vllm' has no attribute '(\w{1,100})'",
        "A folder that is called vllm stands in the way of the package vllm: it has no {0}",
        "Start the server from a folder without one in it; if there is none, install vLLM again (%vllm install)",
    ),
    Sign(
        r"cannot import name '(\w{1,100})' from '(transformers[\w.]{0,200})'",
        "The transformers beside vLLM is too old or too new: it has no {0}",
        machine_hints.other_transformers,
    ),
    Sign(
        r"cannot import name '(\w{1,100})' from partially initialized module '([\w.]{1,200})'.{0,200}?\((/.{1,300}?)\)",
        "The file {2} is imported instead of the module {1}",
        "Rename that file, or start the server from another folder",
    ),
    Sign(
        r"Descriptors cannot be created directly",
        "The protobuf beside vLLM is too new for another package there",
        "Add --env PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python, or install protobuf 3.20",
    ),
    Sign(  # vllm/model_executor/layers/quantization/bitsandbytes.py
        r"(\b\w{1,40}) version is wrong\. Please install (\S{1,60}?)\.?(?=\s|$)",
        "The {0} beside vLLM is too old or too new",
        machine_hints.install("'{1}'"),
    ),
    Sign(
        r"Please install .{0,100}`pip install (bitsandbytes[^`\s]{0,30})`",
        "This quantization needs the package {0}, which is not installed beside vLLM",
        machine_hints.install("'{0}'"),
    ),
    Sign(
        r"Please install vllm\[(\w{1,30})\]",
        "This model needs packages that are not installed beside vLLM ({0})",
        machine_hints.install("'vllm[{0}]'"),
    ),
    Sign(
        r"ImportError: .{0,200}(?:requires|need|needs) .{0,100}`?pip install ([\w.\[\]-]{1,100})`?",
        "vLLM misses the package {0}",
        machine_hints.install("{0}"),
    ),
    Sign(
        r"has no attribute all_special_tokens_extended",
        "The transformers beside vLLM is too new: this vLLM needs a version before 5",
        machine_hints.install("'transformers<5'"),
    ),
    Sign(  # Python's dynamic loader
        r"ImportError: (?=(\S{1,300}))(\S{1,300}\.so\S{0,100}: undefined symbol.*)",
        machine_hints.other_build,
        machine_hints.other_build_hint,
    ),
    Sign(  # Python's dynamic loader, for a library that is not called lib...
        r"ImportError: (?!lib)([\w+.-]{1,100}?\.so[\d.]{0,20}): cannot open shared object file",
        machine_hints.library_missing,
        machine_hints.library_package,
    ),
    Sign(
        r"cannot import name '(\w{1,100})' from '(\w{1,60})[\w.]{0,200}'",
        "The {1} beside vLLM is too old or too new: it has no {0}",
        machine_hints.check_packages,
        general=True,
    ),
    Sign(
        r"AttributeError: module '(\w{1,60})[\w.]{0,200}' has no attribute '(\w{1,100})'",
        "The {0} beside vLLM is too old or too new: it has no {1}",
        machine_hints.check_packages,
        general=True,
    ),
    Sign(
        r"TypeError: ([\w.]{1,200}\(\)) ((?:got an unexpected keyword argument|got multiple values for|missing \d{1,3} required|"
        r"takes \d{1,3} positional|takes from \d).{0,200})",
        "{0} {1}: two packages do not fit together, or it is a fault of this version",
        machine_hints.wrong_call,
        general=True,
    ),
    Sign(
        r"AttributeError: '(\w{0,100}(?:Processor|Tokenizer|TokenizerFast|TokenizersBackend|FeatureExtractor))' object has no "
        r"attribute '(\w{1,100})'",
        "The transformers beside vLLM is too old or too new for this model: its {0} has no {1}",
        "Install the transformers that the model's page names, or a newer vLLM",
        general=True,
    ),
    Sign(  # Python, where the package is there and a part of it is not
        r"ModuleNotFoundError: No module named '(\w{1,100})\.([\w.]{1,200})'",
        machine_hints.no_module,
        machine_hints.no_module_hint,
        general=True,
    ),
    Sign(
        r"ModuleNotFoundError: No module named 'numpy\.(lib\.\w{1,100})'",
        "NumPy is too new for a package in vLLM's environment: NumPy 2 has no numpy.{0}",
        machine_hints.install("'numpy<2'"),
    ),
    Sign(
        r"ModuleNotFoundError: No module named '(.{0,300}?)'",
        "vLLM misses the module {0}",
        machine_hints.missing_module,
        general=True,
    ),
    Sign(
        r"ModuleNotFoundError: No module named 'vllm\.([\w.]{1,200})'",
        machine_hints.no_part,
        machine_hints.no_part_hint,
    ),
    Sign(  # transformers/utils/versions.py
        r"ImportError: (\w[\w.-]{0,60}\W[^ ]{1,60}) is required for a normal functioning of this module, but found (\S{1,60})",
        "The transformers beside vLLM needs {0}, and there is {1}",
        machine_hints.install("'{0}'"),
    ),
    Sign(  # nixl/_bindings
        r"\bnixlBackendError\b|\bNIXL_ERR_BACKEND\b|UCP version is incompatible",
        "NIXL, which moves the KV cache, cannot use the UCX that it finds: mostly one without CUDA, or of another version",
        "Take other copies of UCX (HPC-X, the system's) out of LD_LIBRARY_PATH, and install nixl again; else leave --kv-transfer-config out",
    ),
    Sign(
        r"No package metadata was found for (\S{1,100})",
        "vLLM misses the package {0}",
        machine_hints.install("{0}"),
    ),
    Sign(
        r"Torch not compiled with CUDA enabled",
        "The torch beside vLLM was built without CUDA",
        _OWN_ENVIRONMENT,
    ),
    Sign(  # the C++ runtime
        r"terminate called after throwing an instance of '(.{1,200}?)'",
        "A compiled part of vLLM has ended with {0}",
        machine_hints.check_packages,
        general=True,
    ),
    Sign(
        r"(?:ImportError|OSError): (lib[\w+.-]{1,100}?\.so[\w.]{0,20})[: ].{0,100}(?:No such file|cannot open|not found)",
        machine_hints.library_missing,
        machine_hints.library_package,
        general=True,
    ),
    Sign(
        r"(?:[Pp]lease install|[Ii]nstall (?:it )?(?:with|via|by)|[Rr]un):? `?pip install (\w[\w.\[\]=<>-]{0,60}\w)",
        "vLLM misses the package {0}",
        machine_hints.install("'{0}'"),
        general=True,
    ),
    Sign(  # transformers/utils/import_utils.py
        r"\b(\w{1,100}) requires the (\S{1,60}) library but it was not found in your environment",
        "transformers' {0} needs the package {1}, which is not beside vLLM",
        machine_hints.install("{1}"),
    ),
    Sign(  # transformers/utils/import_utils.py
        r"Could not import module '(\w{1,100})'\. Are this object's requirements defined correctly",
        "transformers cannot load its {0}: a package beside it is missing, or of another version (often torchvision)",
        machine_hints.check_packages,
    ),
    Sign(  # transformers/utils/import_utils.py
        r"Failed to import ([\w.]{1,200}) because of the following error \(look up to see its traceback\):\s{1,3}(.{1,200})",
        "transformers cannot load {0}: {1}",
        machine_hints.check_packages,
    ),
    Sign(  # torch/_library/infer_schema.py
        r"infer_schema\(func\): (.{1,200})",
        "The torch beside vLLM is too old or too new for it: {0}",
        "Install vLLM again, in an environment of its own (%vllm install): its torch was changed",
    ),
    Sign(  # torch
        r"Only a single TORCH_LIBRARY can be used to register|Tried to instantiate class '_\w{1,40}|"
        r"already (?:been )?registered.{0,100}(?:namespace|operator)|Tried to register an operator .{1,200} multiple times",
        "vLLM's compiled parts are there twice, or do not fit torch",
        "Install vLLM again, in an environment of its own (%vllm install)",
    ),
    Sign(  # torchvision/extension.py
        r"PyTorch and torchvision were compiled with different CUDA",
        "torchvision does not fit the torch beside it",
        "Install vLLM again, in an environment of its own (%vllm install)",
    ),
    Sign(
        r"^((?:SyntaxError|IndentationError): .{1,200}|TypeError: unsupported operand type\(s\) for \|.{0,100})",
        "A package beside vLLM is not for this version of Python: {0}",
        "Install vLLM in an environment with a Python that it supports (%vllm install)",
        general=True,
    ),
    Sign(
        r"^pydantic(?:_core)?\.(?:errors|_pydantic_core)\.(?!ValidationError)(\w{1,80}): (.{1,200})",
        "The pydantic beside vLLM does not fit: {1}",
        machine_hints.check_packages,
        general=True,
    ),
    Sign(
        r"OSError: (\S{1,300}\.so[\w.]{0,20}): (.{1,200})",
        "The library {0} cannot be loaded: {1}",
        "Install vLLM again, in an environment of its own (%vllm install), and take other copies of its libraries out of LD_LIBRARY_PATH",
        general=True,
    ),
    Sign(
        r"ImportError: (.{1,300})",
        "A part of vLLM or beside it cannot be loaded: {0}",
        machine_hints.check_packages,
        general=True,
    ),
)
