"""Detect a /proc of another PID namespace from its content."""

from __future__ import annotations

import pytest

from vllm_magic.linux import machine


@pytest.mark.parametrize(
    ("link", "numbers", "why"),
    [
        ("42", ["42"], ""),
        ("42", [], ""),  # a Linux without PID namespaces does not tell
        ("4711", ["4711", "42"], "in which this process has the number 4711"),
        ("42", ["42", "42"], "in which this process has the number 42"),  # the same by chance
        ("", [], "in which this process is not"),
    ],
)
def test_a_proc_of_another_namespace_is_detected(link, numbers, why):
    problem = machine.find_proc_problem(42, link, numbers)
    assert why in problem
    assert bool(problem) is bool(why)
