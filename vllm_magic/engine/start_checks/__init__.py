"""Checks that refuse a start which cannot succeed, in less than a second, before anything is stopped or launched.

A wrong refusal is worse than none: where vLLM might accept the server in some way, vLLM decides.
"""
