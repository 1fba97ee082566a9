"""What the package promises to those who import it: its names, its errors, and that it costs them nothing."""

from __future__ import annotations

from importlib import metadata

import pytest

import vllm_magic
from vllm_magic import errors

NAMES = {
    "ClusterError",
    "ClusterUnreachable",
    "ExecutableNotFound",
    "InstallFailed",
    "Fit",
    "InvalidOption",
    "NameInUse",
    "NoChatTemplate",
    "NoVllmFits",
    "NoEstimate",
    "NotEnoughMemory",
    "Proof",
    "Release",
    "ReleaseFailed",
    "RequestFailed",
    "Server",
    "ServerFailed",
    "ServerNotFound",
    "ServerState",
    "SleepFailed",
    "StartFailed",
    "StartInterrupted",
    "StartTimeout",
    "VllmMagicError",
    "attach",
    "fit",
    "install",
    "load_ipython_extension",
    "panel",
    "serve",
    "servers",
    "start",
    "stop",
    "unload_ipython_extension",
}
# Error, and what it can be caught as.
TREE = {
    "VllmMagicError": (Exception,),
    "InvalidOption": (errors.VllmMagicError, ValueError),
    "ExecutableNotFound": (errors.VllmMagicError,),
    "InstallFailed": (errors.VllmMagicError,),
    "NameInUse": (errors.VllmMagicError,),
    "ServerNotFound": (errors.VllmMagicError, LookupError),
    "NotEnoughMemory": (errors.VllmMagicError,),
    "NoEstimate": (errors.VllmMagicError,),
    "NoVllmFits": (errors.VllmMagicError,),
    "ServerFailed": (errors.VllmMagicError,),
    "StartFailed": (errors.ServerFailed,),
    "StartTimeout": (errors.StartFailed,),
    "StartInterrupted": (errors.StartFailed,),
    "RequestFailed": (errors.VllmMagicError,),
    "SleepFailed": (errors.VllmMagicError,),
    "NoChatTemplate": (errors.RequestFailed,),
    "ReleaseFailed": (errors.VllmMagicError,),
    "ClusterError": (errors.VllmMagicError,),
    "ClusterUnreachable": (errors.ClusterError,),
}


def test_the_names():
    assert set(vllm_magic.__all__) == NAMES
    assert vllm_magic.__all__ == sorted(vllm_magic.__all__, key=lambda name: (name[0].islower(), name))
    assert set(dir(vllm_magic)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_name_is_there(name):
    assert getattr(vllm_magic, name).__doc__


def test_no_other_name_is():
    with pytest.raises(AttributeError, match="no_such_name"):
        vllm_magic.no_such_name  # noqa: B018
    with pytest.raises(ImportError):
        from vllm_magic import no_such_name  # noqa: F401


def test_importing_everything():
    found: dict[str, object] = {}
    exec("from vllm_magic import *", found)
    assert found.keys() >= NAMES


def test_the_tree_of_errors():
    defined = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert {name: kind.__bases__ for name, kind in defined.items()} == TREE
    for name, kind in defined.items():
        assert getattr(vllm_magic, name) is kind
        assert f"── {name} " in (errors.__doc__ or "") or name == "VllmMagicError"


def test_what_an_error_says():
    error = errors.StartFailed("The model is gated", "Set HF_TOKEN", ["one", "two"])
    assert str(error) == "The model is gated. Set HF_TOKEN"
    assert (error.cause, error.hint, error.log_tail) == ("The model is gated", "Set HF_TOKEN", ("one", "two"))
    assert error._render_traceback_() == ["StartFailed: The model is gated. Set HF_TOKEN", "  one", "  two"]
    assert str(errors.StartFailed("It ended")) == "It ended."
    assert errors.ReleaseFailed("x", [(1, "vllm")]).left == ((1, "vllm"),)
    assert errors.NameInUse("x").details == []


def test_the_version_is_that_of_the_package():
    assert vllm_magic.__version__ == metadata.version("vllm-magic")
