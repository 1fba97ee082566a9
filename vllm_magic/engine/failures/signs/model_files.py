"""Failures of a model's files: missing, cut off, quantized otherwise, of an architecture that is not known."""

from __future__ import annotations

from vllm_magic.engine.failures import machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

_WHOLE = "Download it again whole (%vllm pull), and check that git-lfs has fetched the weights"

SIGNS = (
    Sign(  # safetensors
        r"Error while deserializing header: (\w{1,60})",
        machine_hints.damaged_weights,
        _WHOLE,
    ),
    Sign(
        r"incomplete metadata, file not fully covered",
        "A file of weights is cut off",
        _WHOLE,
    ),
    Sign(
        r"_pickle\.UnpicklingError: (?:invalid load key, '(.{1,10}?)'|.{1,200})|PytorchStreamReader failed|EOFError: Ran out of input",
        "A file of weights is no file of torch: it is cut off, or a pointer of git-lfs",
        _WHOLE,
    ),
    Sign(  # vllm/model_executor/models/utils.py
        r"There is no module or parameter named '(.{1,200}?)' in (\w{1,100})",
        "The checkpoint has the weight {0}, for which vLLM's code for the model ({1}) has no place",
        machine_hints.weight_without_place,
    ),
    Sign(  # vllm/model_executor/models/utils.py and model_loader
        r"Following weights were not initialized from checkpoint: (.{1,300})",
        "Weights are missing in the checkpoint: {0}",
        machine_hints.missing_weights,
    ),
    Sign(  # vllm/tokenizers/mistral.py, which processors of transformers cannot use
        r"'Mistral(?:Common)?(?:Tokenizer|Backend)\w{0,20}' object has no attribute '(\w{1,100})'",
        "A tokenizer of Mistral's kind has no {0}, which the model's processor wants",
        "Leave --tokenizer-mode mistral out, or give --tokenizer-mode, --config-format and --load-format mistral together",
    ),
    Sign(  # vllm/model_executor/model_loader/weight_utils.py
        r"Attempted to load weight \(torch\.Size\((.{1,100}?)\)\) into parameter \(torch\.Size\((.{1,100}?)\)\)",
        "A weight has the shape {0}, and the model wants {1}",
        "Check that config.json and the weights are of one model; --quantization and --tensor-parallel-size change sizes",
    ),
    Sign(
        r"Couldn't instantiate the backend tokenizer",
        "The model has no tokenizer that can be loaded (tokenizer.json or tokenizer.model)",
        "Download its tokenizer files too, or name another one: --tokenizer NAME; some need sentencepiece or tiktoken "
        "beside vLLM",
    ),
    Sign(  # transformers/tokenization_utils_base.py
        r"Can't load tokenizer for '(.{1,300}?)'",
        "There is no tokenizer in {0}",
        "Download its tokenizer files too, or name another one: --tokenizer NAME",
    ),
    Sign(
        r"Tokenizer class (\w{1,100}) does not exist or is not currently imported",
        "The transformers beside vLLM does not know the tokenizer {0}",
        "Upgrade transformers there, add --trust-remote-code if the model brings it, or name another --tokenizer",
    ),
    Sign(  # transformers/utils/hub.py
        r"(?<!\S)(\S{1,300}) does not appear to have a file named (\S{1,200}?\w)\.?(?:\s|$)",
        "{0} has no file {1}",
        "Check that it is a model for transformers and that it was downloaded whole; GGUF and adapters need flags of their own",
    ),
    Sign(  # transformers/models/auto/configuration_auto.py
        r"Unrecognized model in (\S{1,300}?)\. Should have a `model_type` key",
        "The config.json of {0} has no model_type",
        "Check that it is a model for transformers; a GGUF file is started by its path, with --tokenizer NAME",
    ),
    Sign(
        r"It looks like the config file at '(.{1,300}?)' is not a valid JSON file",
        "{0} is no JSON",
        "Download it again, or correct it",
    ),
    Sign(  # vllm/model_executor/layers/quantization/__init__.py
        r"(?:Unknown|Invalid) quantization method:? '?(\w{1,60})'?",
        "vLLM does not know the quantization {0}",
        "Choose a model that is quantized otherwise, or a newer vLLM",
    ),
    Sign(  # vllm/config/model.py
        r"Quantization method specified in the model config \((\w{1,60})\) does not match the quantization method specified "
        r"in the `quantization` argument \((\w{1,60})\)",
        "The model is quantized with {0}, and --quantization says {1}",
        "Leave --quantization out",
    ),
    Sign(  # vllm/model_executor/models/registry.py
        r"Error in inspecting model architecture '(\w{1,100})'",
        "vLLM's process that looks at the architecture {0} has failed",
        "The lines before it name the reason; up to vLLM 0.20 it is often a GPU's UUID in CUDA_VISIBLE_DEVICES: give indices",
    ),
    Sign(  # load_weights in vllm/model_executor/models
        r"KeyError: '((?:\w[\w.]{0,100}\.)?layers\.\d{1,4}\.[\w.]{1,200})(?<!\.attn)(?<!\.mixer)'",
        "The checkpoint has the weight {0}, for which vLLM's code for the model has no place",
        machine_hints.weight_without_place,
    ),
    Sign(  # transformers/convert_slow_tokenizer.py
        r"Converting from (?:SentencePiece and )?\w{8} failed",
        "The model's tokenizer cannot be converted",
        "Install sentencepiece, tiktoken and protobuf beside vLLM, or upgrade transformers there",
    ),
    Sign(  # vllm/config/model.py
        r"No model architectures are specified",
        "The model's config.json names no architecture",
        "Check that it is a model for transformers; a folder with an adapter alone is started with its base model and "
        "--lora-modules",
    ),
    Sign(  # Python's json
        r"Expecting value: line 1 column 1 \(char 0\)",
        "A JSON file of the model is empty, or no JSON",
        "Download the model again; git-lfs may have left a pointer in place of a file",
    ),
    Sign(  # transformers/modeling_gguf_pytorch_utils.py
        r"GGUF model with architecture (\S{1,60}) is not supported yet",
        "The transformers beside vLLM cannot read GGUF files of the architecture {0}",
        "Serve the model's safetensors in place of the GGUF file, or upgrade transformers there",
    ),
    Sign(  # vllm/config/model.py
        r"The model type '(\w{1,60})' does not support float16\. Reason: (.{1,100}?)\. Please use (\w{1,20})",
        "Models of the type {0} cannot be served in float16 ({1})",
        "Set --dtype {2}, or --dtype float32 on a GPU below compute capability 8.0",
    ),
    Sign(  # transformers/dynamic_module_utils.py
        r"The repository (\S+) contains custom code which must be executed",
        "{0} brings code of its own, and that is not run unasked",
        "Look at it, and add --trust-remote-code if you trust it",
    ),
    Sign(  # vllm/transformers_utils/config.py
        r"Failed to load the model config\. If the model is a custom model",
        "The model's configuration needs code of its own, and that is not run unasked",
        "Look at it, and add --trust-remote-code if you trust it; or upgrade transformers",
    ),
    Sign(  # transformers/models/auto/configuration_auto.py
        r"has model type `(.{0,300}?)` but Transformers does not recognize this architecture",
        "Transformers does not know the model type {0}",
        "Upgrade transformers beside vLLM, or check model_type in the model's config.json",
    ),
    Sign(  # vllm/model_executor/models/registry.py
        r"Model architectures \[(.{0,300}?)\] are not supported for now",
        "vLLM does not support the architecture {0}",
        "Choose another model, or a newer vLLM",
    ),
    Sign(  # vllm/model_executor/model_loader/default_loader.py
        r"Cannot find any model weights with `(.{0,500}?)`",
        "There are no weights in {0}",
        "Check that it was downloaded whole (*.safetensors), or choose another --load-format",
    ),
    Sign(  # vllm/model_executor/model_loader/__init__.py
        r"Load format `(.{0,300}?)` is not supported",
        "There is no load format {0}",
        "Leave --load-format out, or look it up: vllm serve --help=load-format",
    ),
    Sign(  # vllm/model_executor/model_loader/weight_utils.py
        r"Cannot find the config file for (\w+)",
        "The model is not quantized with {0}: it has no configuration for that",
        "Leave --quantization out, or choose a model that was quantized with {0}",
    ),
    Sign(  # vllm/model_executor/model_loader/bitsandbytes_loader.py and others
        r"(\b\w{1,100}) does not support (\w{1,40}) quantization",
        "vLLM cannot use {1} with {0}",
        "Choose the model with its own weights, or quantized otherwise (AWQ, GPTQ, FP8)",
    ),
    Sign(  # vllm/model_executor/model_loader/gguf_loader.py
        r"ailed to map GGUF parameters",
        "vLLM does not know where parts of this GGUF file belong in the model",
        "Serve the model's safetensors in place of the GGUF file, or install a newer vLLM",
    ),
    Sign(  # vllm/config/model.py
        r"rope_scaling should have a 'rope_type' key",
        "The model's rope_scaling does not say of which type it is",
        'Leave rope_scaling out of --hf-overrides (before vLLM 0.12 --rope-scaling), or add "rope_type" to it',
    ),
    Sign(
        r"AttributeError: '((?:Vllm|Speculative|Cache|Parallel|Scheduler|Model|Load|LoRA|Compilation|KVTransfer|MultiModal|Device)Config)' "
        r"object has no attribute '(\w{1,100})'",
        "vLLM's own {0} has no {1}: this is a fault of this version, or of a plugin that is made for another one",
        "Try another version of vLLM; a plugin must be of the version that is made for it",
        general=True,
    ),
    Sign(
        r"AttributeError: '(\w{1,100}Config)' object has no attribute '(\w{1,100})'",
        "The model's configuration ({0}) has no {1}, which is expected of such a model",
        "Check that this vLLM knows the model (its page names the version); upgrade vLLM, and transformers beside it",
        general=True,
    ),
    Sign(  # transformers/configuration_utils.py
        r"Can't load the configuration of '(.{1,300}?)'",
        "There is no configuration of a model in {0}",
        "Check the name or the path: a folder needs a config.json, and in a container it must be mounted",
    ),
    Sign(  # vllm/model_executor/models/registry.py
        r"Model architectures \[(.{0,300}?)\] failed to be inspected",
        "vLLM's process that looks at the architecture {0} has failed",
        "The lines above name the reason, mostly a package that is missing or broken (%vllm logs)",
        general=True,
    ),
    Sign(  # load_weights in vllm/model_executor/models
        r"KeyError: '([\w.]{1,200}\.(?:q?weight|bias|scales|qzeros|g_idx|weight_\w{1,40}|input_scale))'",
        "The checkpoint has the weight {0}, for which vLLM's code for the model has no place",
        machine_hints.weight_without_place,
        general=True,
    ),
    Sign(  # tokenizers, in Rust
        r"did not match any variant of untagged enum (\w{1,60})",
        "The tokenizers and transformers beside vLLM are too old for the model's tokenizer.json",
        "Upgrade transformers and tokenizers there, or use a newer vLLM",
    ),
    Sign(  # transformers/tokenization_utils_base.py, where tokenizer_config.json was written by transformers 5
        r"AttributeError: 'list' object has no attribute 'keys'",
        "The transformers beside vLLM is too old for the model's tokenizer_config.json (extra_special_tokens)",
        "Upgrade transformers there, or take extra_special_tokens out of tokenizer_config.json",
    ),
    Sign(  # sentencepiece
        r"^TypeError: not a string$|could not parse ModelProto|Not found: \"\S{0,300}\": No such file or directory Error #2",
        "The model's tokenizer file (tokenizer.model) is missing or damaged",
        "Download the model again whole, or name another tokenizer: --tokenizer NAME",
    ),
    Sign(  # transformers/models/auto
        r"Unrecognized (configuration class|image processor|processing class|feature extractor|video processor)\b",
        "The transformers beside vLLM does not know the model's {0}",
        "Install the transformers that the model's page names, add --trust-remote-code if the model brings code, or use a newer vLLM",
        general=True,
    ),
    Sign(  # transformers
        r"Can't load (image processor|feature extractor|processor|video processor) for '(.{1,300}?)'",
        "There is no file for the {0} in {1}",
        "Copy preprocessor_config.json and processor_config.json from the base model into its folder, or download it again whole",
    ),
    Sign(  # vllm/inputs/registry.py and transformers_utils/processor.py
        r"Invalid type of HuggingFace (?:processor|config)\. (.{1,300})",
        "The transformers beside vLLM does not fit this model: {0}",
        "Install the transformers that the model's page names, or a newer vLLM",
    ),
    Sign(  # vllm/model_executor/models/registry.py, model_loader/utils.py
        r"\b(\w{1,100}) has no vLLM implementation|Cannot find model module\. '(\w{1,100})'|"
        r"The Transformers implementation of '?(\w{1,100})'? is not compatible with vLLM",
        "This vLLM has no code for the architecture {0}{1}{2}",
        "Install a newer vLLM, and the transformers that the model's page names; or choose another model",
    ),
    Sign(  # vllm/model_executor/layers/rotary_embedding and transformers/modeling_rope_utils.py
        r"Error: .{0,20}\brope_(?:scaling|parameters)\b.{0,40}must (?:be|have|contain) |Unknown RoPE scaling type \S",
        "What the model's configuration says of rope_scaling is not known here",
        "Upgrade transformers beside vLLM or vLLM itself; or correct rope_scaling (--hf-overrides)",
    ),
    Sign(  # vllm/tokenizers, mistral_common
        r"No tokenizer file found in directory|(?:tekken|tokenizer\.model\.v\d)\S{0,40}.{0,100}(?:not found|does not exist|missing)",
        "The model has no tokenizer of Mistral's kind (tekken.json)",
        "Add --tokenizer-mode hf, or name another one: --tokenizer NAME",
    ),
    Sign(  # vllm/transformers_utils/config.py
        r"Failed to load mistral 'params\.json' config for model (\S{1,300}?)\.?(?:\s|$)",
        "{0} has no params.json: it is no model in Mistral's own format",
        "Leave --config-format mistral, --tokenizer-mode mistral and --load-format mistral out",
    ),
    Sign(  # vllm/model_executor/kernels/linear, layers/quantization/kernels
        r"Failed to find a kernel that can implement the (\w{1,60}) linear layer\. Reasons:\s{1,3}(.{0,200})",
        "vLLM has no kernel for these quantized weights in these sizes on this GPU: {1}",
        "Lower --tensor-parallel-size, or choose a model that is quantized otherwise",
    ),
    Sign(  # vllm/model_executor/layers/quantization/compressed_tensors
        r"No compressed-tensors compatible scheme was found|Unsupported FusedMoe scheme|Unsupported quantization config: .{1,200}",
        "This vLLM has no code for the way in which the model is quantized",
        "Install a newer vLLM, or choose a model that is quantized otherwise",
    ),
    Sign(  # vllm/model_executor/layers/quantization
        r"ome but not all shards of (\S{1,200}) are quantized|Found a different quantization (?:configuration|schemes?) for (.{1,200})",
        "Layers that vLLM joins are quantized differently ({0}{1})",
        "Install a newer vLLM, or a model where they are alike; its quantization_config must ignore all of them or none",
    ),
    Sign(  # transformers, for torch.load
        r"CVE-2025-32434|require users to upgrade torch to at least v2\.6",
        "The weights are in files of pickle (*.bin), which this torch may not load safely",
        "Choose a model with *.safetensors, or upgrade torch to 2.6 or newer",
    ),
    Sign(  # transformers/dynamic_module_utils.py
        r"trust_remote_code(?:=True|`? to True)",
        "The model brings code of its own, and that is not run unasked",
        "Look at it, and add --trust-remote-code if you trust it",
        general=True,
    ),
)
