"""Checks that refuse a start which cannot succeed, in less than a second, before a server is stopped or launched.

A wrong refusal is worse than none: if vLLM may accept the server, a check says nothing, and vLLM decides.
"""
