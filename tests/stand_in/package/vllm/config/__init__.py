"""Like vLLM's: its classes decide which flags there are."""

DTYPES = ["auto", "bfloat16", "float16", "float32"]
KV_DTYPES = ["auto", "fp8"]
