"""The Python API: what the magics do, as functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_magic import arguments
from vllm_magic.engine.spec import ServerSpec
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
    ttl: float | str | None = None,
    force: bool = False,
    env: Mapping[str, Any] | None = None,
    keep: float | str | None = None,
    cluster: str | None = None,
    wait: bool = True,
    timeout: float | str | None = None,
) -> Server:
    """Start a server, or return the one that runs with the same words.

    Args:
        model: a Hugging Face name, or a folder.
        *args: any flags of ``vllm serve``, a word each: ``"--max-model-len", "4096"``; numbers and paths become text.
        name: what to call it; the last part of the model's name unless given.
        gpus: "0,1" or [0, 1] (indices or UUIDs), or "auto" for the freest that are enough; None leaves it to vLLM.
        port: the TCP port; None for a free one.
        executable: path of ``vllm``; None for the one that is found.
        ttl: seconds without a request after which it is released, also written as "30m"; None for never.
        force: start also where the GPUs have too little free memory, or vLLM has no such flag.
        env: environment variables on top of this process's.
        keep: seconds (or "10m") for which it waits for another kernel after the end of this one; None ends it at once.
        cluster: the address of a Ray cluster on which it runs (``http://HEAD:8265``, or "auto" for $RAY_ADDRESS); None for
            this machine.
        wait: return when it is ready; otherwise at once.
        timeout: seconds to wait; after that it is released. None waits as long as it starts.

    Raises:
        InvalidOption: an argument is none that can be meant.
        NotEnoughMemory: the GPUs have no room for it.
        StartFailed: it ended before it was ready; nothing of it is left.
        VllmMagicError: see `errors`.
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
        executable=executable,
        ttl=ttl,
        force=force,
        env=env,
        keep=keep,
        cluster=cluster,
    )
    return manager.start(spec, wait=wait, timeout=timeout).server


def _spec(
    model: str | os.PathLike[str],
    args: tuple[str, ...],
    *,
    name: str | None,
    gpus: str | int | Collection[str | int] | None,
    port: int | str | None,
    executable: str | os.PathLike[str] | None,
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
        executable=arguments.path("executable", executable) if executable not in (None, "") else None,
        ttl=arguments.seconds_or_none("ttl", ttl),
        force=arguments.yes_or_no("force", force),
        env=tuple(env.items()),
        keep=arguments.seconds_or_none("keep", keep),
        cluster=arguments.text("cluster", cluster, 'an address, as text: "http://HEAD:8265"')
        if cluster not in (None, "")
        else None,
    )


def fit(
    model: str | os.PathLike[str],
    *args: Any,
    gpus: str | int | Collection[str | int] | None = None,
    env: Mapping[str, Any] | None = None,
) -> Fit:
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
    args, env = arguments.words(args), arguments.environment(env)
    return manager.fit(
        ServerSpec(arguments.model(model), args, gpus=arguments.gpus(gpus), env=tuple(env.items()))
    )


def stop(name: str | None = None) -> Release | list[Release]:
    """Stop the server of this name, or, without one, all of them.

    Raises:
        ServerNotFound: there is none of this name.
        ReleaseFailed: something would not end, or memory did not come back.
    """
    return manager.stop_all() if name is None else manager.stop(arguments.name(name))


def attach(name: str | None = None) -> Server:
    """Take over a server that was started with ``keep`` by a kernel which is gone.

    Args:
        name: its name; None for the only one that waits.

    Raises:
        ServerNotFound: none waits under this name, or not exactly one.
        NameInUse: a server of this kernel has its name.
    """
    return manager.attach(arguments.name(name))


def servers() -> dict[str, Server]:
    """The servers of this process by name; failed ones too, until they are stopped or started again."""
    return manager.servers()


class serve:  # noqa: N801 - used like a function
    """A server for the length of a block: ``with serve("model") as server:``, or ``async with``.

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
            executable=executable,
            ttl=ttl,
            force=force,
            env=env,
        )
        self._start: Start | None = None

    def __enter__(self) -> Server:
        self._start = manager.start(self._spec, wait=True, timeout=self._timeout)
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
