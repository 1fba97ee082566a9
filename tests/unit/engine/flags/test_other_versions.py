"""What is said about a flag that another version of vLLM has."""

from __future__ import annotations

from vllm_magic.engine.flags import other_versions


def advice(flag: str, version: str, *known: str) -> str:
    return other_versions.advice(flag, ("--seed", *known), version)


def test_a_remedy_is_given_where_this_vllm_has_its_flags():
    said = advice("--cuda-graph-sizes", "0.32.0", "--cudagraph-capture-sizes")
    assert said == " any more. It is --cudagraph-capture-sizes now."
    assert advice("--cuda-graph-sizes", "0.10.0") == ""
    assert advice("--cuda_graph_sizes", "0.32.0", "--cudagraph-capture-sizes") == said
    assert advice("--use-v2-block-manager", "0.32.0").startswith(" any more. Leave it out")
    assert advice("--no-use-v2-block-manager", "0.32.0").startswith(" any more. Leave it out")


def test_every_remedy_is_given_where_the_flags_of_this_vllm_are_not_known():
    assert (
        other_versions.advice("--cuda-graph-sizes", (), "")
        == " any more. It is --cudagraph-capture-sizes now."
    )
    assert other_versions.advice("--moe-backend", (), "") == ""


def test_a_newer_flag_is_said_to_be_newer():
    assert advice("--moe-backend", "0.15.1") == ": vLLM 0.17 has it. Update vLLM, or leave it out."
    assert advice("--moe-backend", "0.15.1+cpu")
    for version in (
        "0.17.0",
        "0.32.0",
        "",
        "0.1.dev1",
    ):  # removed since, or it is not known how old this vLLM is
        assert advice("--moe-backend", version) == ""


def test_nothing_is_said_about_what_no_version_has():
    assert advice("--zzz", "0.15.1") == ""


def test_each_entry_is_a_flag_with_something_to_do():
    remedies = {**other_versions.REMOVED, **other_versions.FOREIGN}
    assert len(remedies) == len(other_versions.REMOVED) + len(other_versions.FOREIGN)
    assert not set(remedies) & set(other_versions.NEWER)
    for flag in (*remedies, *other_versions.NEWER):
        assert other_versions._FLAG.fullmatch(flag), flag
    for flag, remedy in remedies.items():
        assert remedy.endswith("."), flag
        assert flag not in other_versions._FLAG.findall(remedy), flag
