"""``%vllm lora``, ``bench``, ``pull`` and ``models``: further commands for models."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from vllm_magic.commands.declaration import (
    Argument,
    CommandAction,
    CommandDeclaration,
    CommandOption,
    ValueKind,
)
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands.base import SERVER, NoArguments, SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.models.download import Download
    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.view import View

LORA_ABOUT = "the LoRA adapters of a server that was started with --enable-lora"


class LoraAction(str, Enum):
    """An action on adapters."""

    LIST = "list"
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class LoraArguments:
    """The arguments of ``%vllm lora``.

    Attributes:
        action: the action.
        name: the name of the adapter; "" for the action ``list``.
        folder: the folder of the adapter; "" except for the action ``load``.
        server: the name of the server; None for the only one.
    """

    action: LoraAction
    name: str = ""
    folder: str = ""
    server: str | None = None


class LoraCommand(SubCommand[LoraArguments]):
    """``%vllm lora``."""

    declaration = CommandDeclaration(
        name="lora",
        about=LORA_ABOUT,
        details="Adapters are loaded and unloaded while the server runs.",
        actions=(
            CommandAction(LoraAction.LIST.value, LORA_ABOUT),
            CommandAction(
                LoraAction.LOAD.value,
                "load an adapter; a request then names it as its model",
                (
                    Argument("NAME", "the name for the adapter", required=True),
                    Argument("FOLDER", "the folder of the adapter", ValueKind.FOLDER, required=True),
                ),
            ),
            CommandAction(
                LoraAction.UNLOAD.value,
                "unload an adapter",
                (Argument("NAME", "the adapter", ValueKind.ADAPTER, required=True),),
            ),
        ),
        options=(
            CommandOption(
                "--server", "the server; may be left out if there is only one", "NAME", kind=ValueKind.SERVER
            ),
        ),
        examples=("%vllm lora load sailor ./adapters/sailor", "%vllm lora list", "%vllm lora unload sailor"),
    )

    def parse(self, args: Sequence[str]) -> LoraArguments:
        """Parse the action and its arguments."""
        values = vars(self.declaration.parse(args))
        return LoraArguments(LoraAction(values.pop("action")), **values)

    def run(self, context: Context, arguments: LoraArguments) -> View:
        """Load or unload an adapter if the action says so, and return the list of all adapters."""
        from vllm_magic.view import View

        server = context.manager.get(arguments.server)
        if arguments.action is LoraAction.LOAD:
            server.load_lora(arguments.name, arguments.folder)
        elif arguments.action is LoraAction.UNLOAD:
            server.unload_lora(arguments.name)
        names = server.loras()
        listed = ", ".join(names) if names else "none. %vllm lora load NAME FOLDER loads one"
        return View(f"Adapters of {server.name}: {listed}.")


@dataclass(frozen=True)
class BenchArguments:
    """The name of the server, None for the only one, and the flags of ``vllm bench serve``."""

    name: str | None
    args: tuple[str, ...]


class BenchCommand(SubCommand[BenchArguments]):
    """``%vllm bench``."""

    declaration = CommandDeclaration(
        name="bench",
        about="measure a server with `vllm bench serve`, to which the flags go",
        details="Without flags, the benchmark sends 50 random prompts of 128 tokens.",
        arguments=(SERVER,),
        flags_of="vllm bench serve",
        examples=("%vllm bench", "%vllm bench small --num-prompts 200 --request-rate 8"),
    )

    def parse(self, args: Sequence[str]) -> BenchArguments:
        """Separate the name of the server, if it is given, from the flags."""
        if args and not args[0].startswith("-"):
            return BenchArguments(args[0], tuple(args[1:]))
        return BenchArguments(None, tuple(args))

    def run(self, context: Context, arguments: BenchArguments) -> View:
        """Run the benchmark, and return its output."""
        from vllm_magic.jupyter.display.progress import new_line
        from vllm_magic.view import View

        server = context.manager.get(arguments.name)
        line = new_line(context.display_mode)

        def report(last_line: str, seconds: float) -> None:
            line.show(f"{server.name}: vllm bench serve, {seconds:.0f} s  {last_line}", None)

        try:
            return View(lines=tuple(server.bench(*arguments.args, report=report)))
        except KeyboardInterrupt:
            raise VllmMagicError("Interrupted: the benchmark was ended. The server still runs.") from None
        finally:
            line.finish("")


@dataclass(frozen=True)
class PullArguments:
    """The model, and a branch, tag or commit of it; None for the main branch."""

    model: str
    revision: str | None = None


class PullCommand(SubCommand[PullArguments]):
    """``%vllm pull``."""

    arguments_type = PullArguments
    declaration = CommandDeclaration(
        name="pull",
        about="download a model before it is served; complete files are not downloaded again",
        details="Bytes and speed are shown during the download.",
        arguments=(
            Argument("MODEL", "ORGANISATION/NAME of the Hugging Face Hub", ValueKind.MODEL, required=True),
        ),
        options=(
            CommandOption("--revision", "a branch, tag or commit (default: the main branch)", "REVISION"),
        ),
        examples=("%vllm pull Qwen/Qwen3-0.6B",),
    )

    def run(self, context: Context, arguments: PullArguments) -> View:
        """Download the model."""
        from vllm_magic.children.pull import pull
        from vllm_magic.jupyter.display.progress import new_line
        from vllm_magic.server.progress_text import download
        from vllm_magic.sizes import gib
        from vllm_magic.view import View

        line = new_line(context.display_mode)

        def report(progress: Download) -> None:
            share = min(1.0, progress.done / progress.total) if progress.total else None
            line.show(f"{arguments.model}: {download(progress)}", share)

        try:
            done = pull(arguments.model, revision=arguments.revision, vllm=context.executable, report=report)
        except KeyboardInterrupt:
            raise VllmMagicError(
                f"Interrupted. Complete files stay; %vllm pull {arguments.model} downloads the others."
            ) from None
        finally:
            line.finish("")
        return View(f"{done.model} is on this machine, {gib(done.size)}: {done.folder}")


class ModelsCommand(SubCommand[NoArguments]):
    """``%vllm models``."""

    arguments_type = NoArguments
    declaration = CommandDeclaration(
        name="models",
        about="the models in the Hugging Face cache, with their sizes and servers",
        details="A model that is not complete is marked.",
        examples=("%vllm models",),
    )

    def run(self, context: Context, arguments: NoArguments) -> View:  # noqa: ARG002
        """Return the table of the models."""
        from vllm_magic.engine.models import hf_cache
        from vllm_magic.jupyter.display import views

        cache = hf_cache.folder((), os.environ)
        return views.models(cache, hf_cache.models(cache), list(context.manager.servers().values()))


COMMANDS: tuple[SubCommand[Any], ...] = (LoraCommand(), BenchCommand(), PullCommand(), ModelsCommand())
