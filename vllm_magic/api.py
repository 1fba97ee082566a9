"""The Python API: what the magics do, as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_magic.engine.spec import ServerSpec
from vllm_magic.manager.manager import manager

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from vllm_magic.engine.capacity.fit import Fit
    from vllm_magic.manager.manager import Start
    from vllm_magic.release.result import Release
    from vllm_magic.server.server import Server


def start(
    model: str,
    *args: str,
    name: str | None = None,
    gpus: str | None = None,
    port: int | None = None,
    executable: str | None = None,
    ttl: float | None = None,
    force: bool = False,
    env: Mapping[str, str] | None = None,
    keep: float | None = None,
    cluster: str | None = None,
    wait: bool = True,
    timeout: float | None = None,
) -> Server:
    """Start a server, or return the one that runs with the same words.

    Args:
        model: a Hugging Face name, or a folder.
        *args: any flags of ``vllm serve``, as strings: ``"--max-model-len", "4096"``.
        name: what to call it; the last part of the model's name unless given.
        gpus: "0,1" (indices or UUIDs), or "auto" for the freest that are enough; None leaves it to vLLM.
        port: the TCP port; None for a free one.
        executable: path of ``vllm``; None for the one that is found.
        ttl: seconds without a request after which it is released; None for never.
        force: start also where the GPUs have too little free memory, or vLLM has no such flag.
        env: environment variables on top of this process's.
        keep: seconds for which it waits for another kernel after the end of this one; None ends it at once.
        cluster: the address of a Ray cluster on which it runs (``http://HEAD:8265``, or "auto" for $RAY_ADDRESS); None for
            this machine.
        wait: return when it is ready; otherwise at once.
        timeout: seconds to wait; after that it is released. None waits as long as it starts.

    Raises:
        NotEnoughMemory: the GPUs have no room for it.
        StartFailed: it ended before it was ready; nothing of it is left.
        VllmMagicError: see `errors`.
    """
    spec = _spec(
        model,
        args,
        name=name,
        gpus=gpus,
        port=port,
        executable=executable,
        ttl=ttl,
        force=force,
        env=env,
        keep=keep,
        cluster=cluster,
    )
    return manager.start(spec, wait=wait, timeout=timeout).server


def _spec(
    model: str,
    args: tuple[str, ...],
    *,
    name: str | None,
    gpus: str | None,
    port: int | None,
    executable: str | None,
    ttl: float | None,
    force: bool,
    env: Mapping[str, str] | None,
    keep: float | None = None,
    cluster: str | None = None,
) -> ServerSpec:
    return ServerSpec(
        model=str(model),
        args=tuple(str(arg) for arg in args),
        name=name or "",
        gpus=gpus,
        port=port,
        executable=executable,
        ttl=ttl,
        force=force,
        env=tuple(sorted((name, str(value)) for name, value in (env or {}).items())),
        keep=keep,
        cluster=cluster,
    )


def fit(model: str, *args: str, gpus: str | None = None, env: Mapping[str, str] | None = None) -> Fit:
    """Estimate whether a model fits on the GPUs as they are now; nothing is started.

    Args:
        model: a Hugging Face name, or a folder. What is not on this machine is asked of the Hub, where
            huggingface_hub is installed and HF_HUB_OFFLINE does not forbid it.
        *args: any flags of ``vllm serve``, as strings.
        gpus: as in `start`.
        env: environment variables on top of this process's.

    Raises:
        InvalidOption: a flag has a value that vLLM refuses, or ``gpus`` names what is not there.
        NoEstimate: the model is not known, or not of a kind that is known here.
    """
    spec = ServerSpec(str(model), tuple(map(str, args)), gpus=gpus, env=tuple(sorted((env or {}).items())))
    return manager.fit(spec)


def stop(name: str | None = None) -> Release | list[Release]:
    """Stop the server of this name, or, without one, all of them.

    Raises:
        ServerNotFound: there is none of this name.
        ReleaseFailed: something would not end, or memory did not come back.
    """
    return manager.stop_all() if name is None else manager.stop(name)


def attach(name: str | None = None) -> Server:
    """Take over a server that was started with ``keep`` by a kernel which is gone.

    Args:
        name: its name; None for the only one that waits.

    Raises:
        ServerNotFound: none waits under this name, or not exactly one.
        NameInUse: a server of this kernel has its name.
    """
    return manager.attach(name)


def servers() -> dict[str, Server]:
    """The servers of this process by name; failed ones too, until they are stopped or started again."""
    return manager.servers()


class serve:  # noqa: N801 - used like a function
    """A server for the length of a block: ``with serve("model") as server:``, or ``async with``.

    Takes what `start` takes.
    """

    def __init__(
        self,
        model: str,
        *args: str,
        name: str | None = None,
        gpus: str | None = None,
        port: int | None = None,
        executable: str | None = None,
        ttl: float | None = None,
        force: bool = False,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> None:
        def begin(wait: bool) -> Start:  # noqa: FBT001
            spec = _spec(
                model,
                args,
                name=name,
                gpus=gpus,
                port=port,
                executable=executable,
                ttl=ttl,
                force=force,
                env=env,
            )
            return manager.start(spec, wait=wait, timeout=timeout)

        self._begin = begin
        self._timeout = timeout
        self._start: Start | None = None

    def __enter__(self) -> Server:
        self._start = self._begin(True)
        return self._start.server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # One that ran before the block is not the block's to stop.
        if self._start is not None and not self._start.reused:
            self._start.server.stop()

    async def __aenter__(self) -> Server:
        import asyncio

        def begin() -> None:
            self._start = self._begin(False)

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
