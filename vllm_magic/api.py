"""The Python API: the sub-commands of ``%vllm`` as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_magic import arguments, start_progress
from vllm_magic.engine import environments
from vllm_magic.engine.spec import ServerSpec
from vllm_magic.errors import InvalidOption
from vllm_magic.manager.manager import manager

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping
    from types import TracebackType

    from vllm_magic.engine.capacity.fit import Fit
    from vllm_magic.manager.manager import Start
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server


def start(
    model: str | os.PathLike[str],
    *args: Any,
    name: str | None = None,
    gpus: str | int | Collection[str | int] | None = None,
    port: int | str | None = None,
    executable: str | os.PathLike[str] | None = None,
    vllm: str | None = None,
    ttl: float | str | None = None,
    force: bool = False,
    env: Mapping[str, Any] | None = None,
    keep: float | str | None = None,
    cluster: str | None = None,
    wait: bool = True,
    timeout: float | str | None = None,
) -> Server:
    """Start a server, or return the running server with the same arguments.

    Args:
        model: a Hugging Face name, or a folder.
        *args: any flags of ``vllm serve``, each word an argument: ``"--max-model-len", "4096"``; numbers and paths become
            text.
        name: the name of the server; by default the last part of the model's name.
        gpus: "0,1" or [0, 1] (indices or UUIDs), or "auto" for the GPUs with the most free memory; None lets vLLM choose.
        port: the TCP port; None for a free port.
        executable: the path of ``vllm``; None to search for it.
        vllm: the version of vLLM, "0.17.0", of those that are installed in environments of their own; None to search for it.
        ttl: seconds without a request after which the server is released, also written as "30m"; None for never.
        force: whether to start even if the GPUs have too little free memory, or a check says that the start cannot succeed.
        env: environment variables that are added to those of this process.
        keep: seconds (or "10m") for which the server waits for another kernel after the end of this one; None to release it
            at once.
        cluster: the address of the Ray cluster on which the server runs (``http://HEAD:8265``, or "auto" for $RAY_ADDRESS);
            None for this machine.
        wait: whether to wait until the server is ready.
        timeout: seconds to wait, after which the server is released; None for no limit.

    Raises:
        InvalidOption: an argument is not valid.
        NotEnoughMemory: the GPUs have too little free memory.
        StartFailed: the server ended before it was ready, and is released.
        VllmMagicError: any other error, see `errors`.
    """
    args, env = arguments.words(args), arguments.environment(env)  # no variable shows a key from here on
    timeout = arguments.seconds_or_none("timeout", timeout)
    wait = arguments.yes_or_no("wait", wait)
    spec = _spec(
        model,
        args,
        name=name,
        gpus=gpus,
        port=port,
        executable=_path(executable, vllm),
        ttl=ttl,
        force=force,
        env=env,
        keep=keep,
        cluster=cluster,
    )
    with start_progress.shown() as report:
        return manager.start(spec, wait=wait, timeout=timeout, report=report).server


def _spec(
    model: str | os.PathLike[str],
    args: tuple[str, ...],
    *,
    name: str | None,
    gpus: str | int | Collection[str | int] | None,
    port: int | str | None,
    executable: str | None,
    ttl: float | str | None,
    force: bool,
    env: Mapping[str, str],
    keep: float | str | None = None,
    cluster: str | None = None,
) -> ServerSpec:
    return ServerSpec(
        model=arguments.model(model),
        args=args,
        name=arguments.name(name) or "",
        gpus=arguments.gpus(gpus),
        port=arguments.port(port),
        executable=executable,
        ttl=arguments.seconds_or_none("ttl", ttl),
        force=arguments.yes_or_no("force", force),
        env=tuple(env.items()),
        keep=arguments.seconds_or_none("keep", keep),
        cluster=arguments.text("cluster", cluster, 'an address, as text: "http://HEAD:8265"')
        if cluster not in (None, "")
        else None,
    )


def _path(executable: str | os.PathLike[str] | None, vllm: str | None) -> str | None:
    """Return the path of vLLM that the arguments name; None if they name none."""
    if vllm in (None, ""):
        return arguments.path("executable", executable) if executable not in (None, "") else None
    if executable not in (None, ""):
        raise InvalidOption("vllm= and executable= both say which vLLM to run. Leave one of them out.")
    return environments.named(arguments.text("vllm", vllm, 'a version, as text: "0.17.0"')).executable


def fit(
    model: str | os.PathLike[str],
    *args: Any,
    gpus: str | int | Collection[str | int] | None = None,
    env: Mapping[str, Any] | None = None,
    vllm: str | None = None,
) -> Fit:
    """Estimate whether a model fits on the GPUs as they are now, without a start.

    Args:
        model: a Hugging Face name, or a folder. For a model that is not on this machine, the Hub is asked, if
            huggingface_hub is installed and HF_HUB_OFFLINE does not forbid it.
        *args: any flags of ``vllm serve``, as for `start`.
        gpus: as for `start`.
        env: as for `start`.
        vllm: as for `start`.

    Raises:
        InvalidOption: a flag has a value that vLLM refuses, or ``gpus`` names a GPU that does not exist.
        NoEstimate: the model is not found, or its architecture is not supported.
    """
    args, env = arguments.words(args), arguments.environment(env)
    return manager.fit(
        ServerSpec(
            arguments.model(model),
            args,
            gpus=arguments.gpus(gpus),
            env=tuple(env.items()),
            executable=_path(None, vllm),
        )
    )


def stop(name: str | None = None) -> Release | list[Release]:
    """Stop a server, and return its release.

    Args:
        name: the name of the server; None to stop all servers of this kernel, and return a list.

    Raises:
        ServerNotFound: there is no server of this name.
        ReleaseFailed: a process did not end, or memory did not come back.
    """
    return manager.stop_all() if name is None else manager.stop(arguments.name(name))


def attach(name: str | None = None) -> Server:
    """Take over a server that was started with ``keep``, and whose kernel has ended.

    Args:
        name: the name of the server; None for the only kept server.

    Raises:
        ServerNotFound: there is no kept server of this name, or more than one.
        NameInUse: a server of this kernel has the same name.
    """
    return manager.attach(arguments.name(name))


def servers() -> dict[str, Server]:
    """Return the servers of this kernel, by name. A failed server is included until it is stopped or started again."""
    return manager.servers()


class serve:  # noqa: N801 - used like a function
    """A server that runs during a block: ``with serve("model") as server:``, or ``async with``.

    Takes what `start` takes but for ``keep``, ``cluster`` and ``wait``, and raises the same errors.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *args: Any,
        name: str | None = None,
        gpus: str | int | Collection[str | int] | None = None,
        port: int | str | None = None,
        executable: str | os.PathLike[str] | None = None,
        vllm: str | None = None,
        ttl: float | str | None = None,
        force: bool = False,
        env: Mapping[str, Any] | None = None,
        timeout: float | str | None = None,
    ) -> None:
        args, env = arguments.words(args), arguments.environment(env)  # no variable shows a key from here on
        self._timeout = arguments.seconds_or_none("timeout", timeout)
        self._spec = _spec(
            model,
            args,
            name=name,
            gpus=gpus,
            port=port,
            executable=_path(executable, vllm),
            ttl=ttl,
            force=force,
            env=env,
        )
        self._start: Start | None = None

    def __enter__(self) -> Server:
        with start_progress.shown() as report:
            self._start = manager.start(self._spec, wait=True, timeout=self._timeout, report=report)
        return self._start.server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A server that was running before the block is not stopped.
        if self._start is not None and not self._start.reused:
            self._start.server.stop()

    async def __aenter__(self) -> Server:
        import asyncio

        def begin() -> None:
            self._start = manager.start(self._spec, wait=False, timeout=self._timeout)

        def stop() -> None:
            self.__exit__(None, None, None)

        beginning = asyncio.ensure_future(asyncio.to_thread(begin))
        try:
            await asyncio.shield(beginning)
            assert self._start is not None  # noqa: S101 - begun above
            server = self._start.server
            await asyncio.to_thread(server.wait, self._timeout)
        except BaseException:  # a cancelled task must not leave a server behind
            await asyncio.shield(asyncio.wait([beginning]))
            await asyncio.shield(asyncio.to_thread(stop))
            raise
        return server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, trace)
