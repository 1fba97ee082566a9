"""Failures on the way to the Hugging Face Hub: names that do not resolve, certificates, proxies, limits."""

from __future__ import annotations

from vllm_magic.engine.failures import machine_hints
from vllm_magic.engine.failures.patterns import Sign

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
        "There is no way to {0}",
        machine_hints.NO_WAY,
    ),
    Sign(  # urllib3, httpx
        r"host=\\?'([\w.-]{1,200})\\?', port=\d{1,5}\): (?:Max retries exceeded|Read timed out)|Failed to resolve '([\w.-]{1,200})'|"
        r"NameResolutionError|\[Errno -\d\] (?:Name or service not known|Temporary failure in name resolution)|"
        r"\[Errno 101\] Network is unreachable",
        machine_hints.no_way_to,
        machine_hints.NO_WAY,
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
)
