"""``%vllm lora``, ``bench``, ``pull`` and ``models``: what else is done with models."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from vllm_magic.commands.declaration import Action, Argument, CommandDeclaration, CommandOption, ValueKind
from vllm_magic.errors import VllmMagicError
from vllm_magic.jupyter.commands.base import SERVER, NoArguments, SubCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllm_magic.engine.models.download import Download
    from vllm_magic.jupyter.commands.context import Context
    from vllm_magic.view import View

LORA_ABOUT = "the LoRA adapters of a server that was started with --enable-lora"


class LoraAction(str, Enum):
    """What can be done with adapters."""

    LIST = "list"
    LOAD = "load"
    UNLOAD = "unload"


@dataclass(frozen=True)
class LoraArguments:
    """``name`` of an adapter and ``folder`` are "" where they are not needed; ``server`` is None for the only one."""

    action: LoraAction
    name: str = ""
    folder: str = ""
    server: str | None = None


class LoraCommand(SubCommand[LoraArguments]):
    """``%vllm lora``."""

    declaration = CommandDeclaration(
        name="lora",
        about=LORA_ABOUT,
        details="They are loaded and unloaded while the server runs.",
        actions=(
            Action(LoraAction.LIST.value, LORA_ABOUT),
            Action(
                LoraAction.LOAD.value,
                "load one; name it as the model in a request",
                (
                    Argument("NAME", "what to call it", required=True),
                    Argument("FOLDER", "where it is", ValueKind.FOLDER, required=True),
                ),
            ),
            Action(
                LoraAction.UNLOAD.value,
                "unload it",
                (Argument("NAME", "the adapter", ValueKind.ADAPTER, required=True),),
            ),
        ),
        options=(
            CommandOption(
                "--server", "of which server, where there are several", "NAME", kind=ValueKind.SERVER
            ),
        ),
        examples=("%vllm lora load sailor ./adapters/sailor", "%vllm lora list", "%vllm lora unload sailor"),
    )

    def parse(self, words: Sequence[str]) -> LoraArguments:
        """The action and what it needs."""
        found = self.read(words)
        return LoraArguments(LoraAction(found.pop("action")), **found)

    def run(self, context: Context, arguments: LoraArguments) -> View:
        """Load or unload one, and list them."""
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
    """``args`` are flags of ``vllm bench serve``."""

    name: str | None
    args: tuple[str, ...]


class BenchCommand(SubCommand[BenchArguments]):
    """``%vllm bench``."""

    declaration = CommandDeclaration(
        name="bench",
        about="measure a server with `vllm bench serve`, which takes the flags",
        details="There are 50 random prompts of 128 tokens unless the flags say otherwise.",
        arguments=(SERVER,),
        flags_of="vllm bench serve",
        examples=("%vllm bench", "%vllm bench small --num-prompts 200 --request-rate 8"),
    )

    def parse(self, words: Sequence[str]) -> BenchArguments:
        """A name first, if any, and everything else to vLLM as it stands."""
        if words and not words[0].startswith("-"):
            return BenchArguments(words[0], tuple(words[1:]))
        return BenchArguments(None, tuple(words))

    def run(self, context: Context, arguments: BenchArguments) -> View:
        """Run the benchmark, and show what it says."""
        from vllm_magic.jupyter.display.progress import Line
        from vllm_magic.view import View

        server = context.manager.get(arguments.name)
        line = Line(notebook=context.notebook)

        def report(last: str, seconds: float) -> None:
            line.show(f"{server.name}: vllm bench serve, {seconds:.0f} s  {last}", None)

        try:
            return View(lines=tuple(server.bench(*arguments.args, report=report)))
        except KeyboardInterrupt:
            raise VllmMagicError("Interrupted: the benchmark was ended. The server runs on.") from None
        finally:
            line.finish("")


@dataclass(frozen=True)
class PullArguments:
    """``revision`` is a branch, tag or commit, None for the main one."""

    model: str
    revision: str | None = None


class PullCommand(SubCommand[PullArguments]):
    """``%vllm pull``."""

    declaration = CommandDeclaration(
        name="pull",
        about="download a model ahead of its start; what is here whole is not downloaded again",
        details="Bytes and speed are shown meanwhile.",
        arguments=(
            Argument("MODEL", "ORGANISATION/NAME of the Hugging Face Hub", ValueKind.MODEL, required=True),
        ),
        options=(CommandOption("--revision", "a branch, tag or commit (else the main one)", "REVISION"),),
        examples=("%vllm pull Qwen/Qwen3-0.6B",),
    )

    def parse(self, words: Sequence[str]) -> PullArguments:
        """The model and its revision."""
        return PullArguments(**self.read(words))

    def run(self, context: Context, arguments: PullArguments) -> View:
        """Download it."""
        from vllm_magic.children.pull import pull
        from vllm_magic.jupyter.display.progress import Line, download
        from vllm_magic.sizes import gib
        from vllm_magic.view import View

        line = Line(notebook=context.notebook)

        def report(seen: Download) -> None:
            share = min(1.0, seen.done / seen.total) if seen.total else None
            line.show(f"{arguments.model}: {download(seen)}", share)

        try:
            done = pull(arguments.model, revision=arguments.revision, vllm=context.executable, report=report)
        except KeyboardInterrupt:
            raise VllmMagicError(
                f"Interrupted. Files that are here whole stay, for the next %vllm pull {arguments.model}."
            ) from None
        finally:
            line.finish("")
        return View(f"{done.model} is here, {gib(done.size)}: {done.folder}")


class ModelsCommand(SubCommand[NoArguments]):
    """``%vllm models``."""

    declaration = CommandDeclaration(
        name="models",
        about="what is in the Hugging Face cache: size, served or not",
        details="A model that is not here whole is marked.",
        examples=("%vllm models",),
    )

    def parse(self, words: Sequence[str]) -> NoArguments:
        """None."""
        return NoArguments(**self.read(words))

    def run(self, context: Context, arguments: NoArguments) -> View:  # noqa: ARG002
        """The models of the cache."""
        from vllm_magic.engine.models import hf_cache
        from vllm_magic.jupyter.display import views

        cache = hf_cache.folder((), os.environ)
        return views.models(cache, hf_cache.models(cache), list(context.manager.servers().values()))


COMMANDS: tuple[SubCommand[Any], ...] = (LoraCommand(), BenchCommand(), PullCommand(), ModelsCommand())
