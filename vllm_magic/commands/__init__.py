"""Declarations of the commands of ``%vllm`` and ``vllm-magic``: parsers, help and completion are made from them."""
