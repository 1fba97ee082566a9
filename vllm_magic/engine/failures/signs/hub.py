"""Failures on the way to the Hugging Face Hub: names that do not resolve, certificates, proxies, limits."""

from __future__ import annotations

from vllm_magic.engine.failures import hints, machine_hints
from vllm_magic.engine.failures.signs.sign import Sign

SIGNS = (
    Sign(
        r"CERTIFICATE_VERIFY_FAILED",
        "The certificate of the Hub is not trusted here: mostly a proxy puts its own in its place",
        "Name the proxy's certificate: --env REQUESTS_CA_BUNDLE=FILE --env SSL_CERT_FILE=FILE",
    ),
    Sign(
        r"ProxyError\(|Tunnel connection failed: (\d{3})|407 Proxy Authentication Required",
        "The proxy does not let vLLM through to the Hub",
        "Check HTTPS_PROXY, with user and password if it wants them",
    ),
    Sign(  # transformers/utils/hub.py
        r"We couldn't connect to '(\S{1,200}?)' to load the files",
        "{0} cannot be reached",
        machine_hints.UNREACHABLE_HINT,
    ),
    Sign(  # urllib3, httpx
        r"host=\\?'([\w.-]{1,200})\\?', port=\d{1,5}\): (?:Max retries exceeded|Read timed out)|Failed to resolve '([\w.-]{1,200})'|"
        r"NameResolutionError|\[Errno -\d\] (?:Name or service not known|Temporary failure in name resolution)|"
        r"\[Errno 101\] Network is unreachable",
        machine_hints.host_unreachable,
        machine_hints.UNREACHABLE_HINT,
    ),
    Sign(
        r"429 (?:Client Error|Too Many Requests)",
        "The Hub takes no more requests from this address for now (429)",
        "Set HF_TOKEN, which raises the limit, and try again in some minutes",
    ),
    Sign(  # huggingface_hub/file_download.py
        r"Consistency check failed: file should be of size (\d{1,18}) but has size (\d{1,18})",
        "A file of the model was not downloaded whole",
        "Start again: the download goes on where it ended",
    ),
    Sign(
        r"\b50\d Server Error",
        "The Hub does not answer as it should",
        "Try again in some minutes, or set HF_ENDPOINT to a mirror",
    ),
    Sign(  # huggingface_hub/errors.py
        r"Cache directory not found: (\S{1,300}?)\.?(?:\s|$)",
        "There is no folder {0} for the cache of the Hub",
        "Make it, or correct HF_HUB_CACHE and HF_HOME",
    ),
    Sign(  # huggingface_hub/utils/_validators.py
        r"Repo id must be in the form .{0,300}?: '(.{0,300}?)'",
        "There is no model at {0}",
        "Check the path, or give a Hugging Face name such as Qwen/Qwen3-0.6B",
    ),
    Sign(  # huggingface_hub/_snapshot_download.py
        r"Cannot find an appropriate cached snapshot folder",
        hints.not_on_this_machine,
        "Check the name, or unset HF_HUB_OFFLINE to download it",
    ),
    Sign(  # huggingface_hub/utils/_http.py, in offline mode
        r"Cannot reach (\S+): offline mode is enabled",
        "The model is not on this machine, and going online is disabled: {0}",
        "Unset HF_HUB_OFFLINE to download it",
    ),
    Sign(  # transformers/utils/hub.py; the Hub's own words in all versions of huggingface_hub
        r"You are trying to access a gated repo|Cannot access gated repo for url|Your request to access model \S{1,200} (?:is awaiting|has been)|"
        r"Access to model \S{1,200} is restricted|access to public gated repositories in your fine-grained token",
        hints.gated,
        hints.gated_page,
    ),
    Sign(  # transformers/utils/hub.py
        r"(?<!\S)(\S+) is not a local folder and is not a valid model identifier",
        "There is no model called {0}",
        "Check the name; a private one needs HF_TOKEN in the environment",
    ),
    Sign(  # transformers/utils/hub.py
        r"(?<!\S)(\S+) is not a valid git identifier", "The model has no revision {0}", hints.revisions
    ),
    Sign(  # huggingface_hub/utils/_http.py
        r"Make sure your token has the correct permissions|nsufficient permissions to access",
        "The token in HF_TOKEN may not read this model or file",
        "Give it the permission on https://huggingface.co/settings/tokens (a token of the type read has it)",
    ),
    Sign(  # huggingface_hub/utils/_http.py
        r"Access to this resource is disabled",
        "The Hub has disabled this model",
        "Choose another one: its page on Hugging Face tells why",
    ),
    Sign(  # huggingface_hub/utils/_http.py; the Hub also answers 401 for a model that does not exist
        r"(40[13]) Client Error",
        "Hugging Face refuses the model ({0})",
        "Check the name, and set HF_TOKEN to a token that may read it",
        general=True,
    ),
    Sign(  # vllm/transformers_utils/config.py
        r"Invalid repository ID or local directory specified: {0,20}'(.{0,500}?)'|No supported config format found in '?(\S{1,300})",
        "There is no model in {0}{1}",
        "Check the name; a folder needs a config.json; from the Hub it needs a network, and HF_TOKEN where its terms must be accepted",
        general=True,
    ),
    Sign(  # openai_harmony, which gpt-oss needs
        r"HarmonyError: error downloading or loading vocab file",
        "The vocabulary of gpt-oss cannot be downloaded",
        "Put o200k_base.tiktoken and cl100k_base.tiktoken of openaipublic.blob.core.windows.net/encodings into a folder, and "
        "add --env TIKTOKEN_ENCODINGS_BASE=FOLDER",
    ),
    Sign(
        r"botocore\.exceptions\.\w{1,60}: (.{1,300})",
        "The store of the model (S3) refuses: {0}",
        "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and the name of the bucket",
        general=True,
    ),
    Sign(
        r"\b(?:httpx|httpcore|requests\.exceptions|urllib3\.exceptions|aiohttp\.\w{1,30})\.(\w{1,60})",
        "The connection to the Hub has failed ({0})",
        machine_hints.UNREACHABLE_HINT,
        general=True,
    ),
    Sign(  # huggingface_hub/utils/_validators.py
        r"Repo id must use alphanumeric chars.{0,200}?: '(.{0,300}?)'",
        "The Hub can have no model called {0}",
        "Check the name; of a GGUF repository with :QUANTIZATION behind its name, a newer vLLM can load a part",
    ),
    Sign(
        r"huggingface_hub\.(?:errors|utils\.\w{1,30})\.(\w{1,60}): (.{1,200})",
        "The Hub does not give the model ({0}): {1}",
        "Check the name and the revision, and HF_TOKEN and HF_HUB_OFFLINE in the environment",
        general=True,
    ),
    Sign(  # hf_xet
        r"CAS service error|\bhf_xet\b.{0,100}(?:Error|error)",
        "The download from the Hub's own storage (Xet) has failed",
        "Start again: the download goes on where it ended; or add --env HF_HUB_DISABLE_XET=1",
    ),
    Sign(  # huggingface_hub/file_download.py
        r"Fast download using 'hf_transfer' is enabled|downloading using `hf_transfer`",
        "The faster download of the Hub (hf_transfer) has failed or is not installed",
        "Add --env HF_HUB_ENABLE_HF_TRANSFER=0",
        general=True,
    ),
    Sign(
        r"Invalid (?:user|credentials|username).{0,60}(?:token|header|password)|Token is required|Invalid user token",
        "The Hub does not take the token in HF_TOKEN",
        "Make a new one on https://huggingface.co/settings/tokens, or remove it (%env HF_TOKEN=): public models need none",
    ),
    Sign(
        r"404 Client Error|Repository Not Found",
        "The Hub has no such model or file",
        "Check the name and --revision; a private model needs HF_TOKEN in the environment",
        general=True,
    ),
    Sign(
        r"(?:IncompleteRead|ChunkedEncodingError|RemoteDisconnected|ReadTimeoutError|ConnectTimeoutError)\b",
        "The connection to the Hub was interrupted",
        "Start again: the download goes on where it ended; or set HF_ENDPOINT to a mirror",
        general=True,
    ),
)
