"""Run the cells of ``%%vllm``: each cell is a prompt, or a turn of a conversation, and its answer is streamed below the cell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from vllm_magic.engine.client import generate
from vllm_magic.errors import InvalidOption, NoChatTemplate
from vllm_magic.jupyter.display import answer

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from vllm_magic.engine.client.generate import ChatMessage, Stream
    from vllm_magic.jupyter.commands.ask import AskArguments
    from vllm_magic.jupyter.display.mode import DisplayMode
    from vllm_magic.server.server import Server

QUOTED_CHARACTERS = 100  # characters of an invalid schema that its error quotes
# The default of --max-tokens for a model without a chat template, which may continue a text without an end.
NO_TEMPLATE_TOKENS = 128
_BROKEN_OFF = "broken off"  # the note below an answer that has ended because of an error


class Interrupted(KeyboardInterrupt):
    """An interrupt without a traceback. As after any other interrupt, the cells below do not run."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class ChatCells:
    """The cells of ``%%vllm`` of one notebook, with their conversations."""

    def __init__(self) -> None:
        self._conversations: WeakKeyDictionary[Server, list[ChatMessage]] = WeakKeyDictionary()

    def run(
        self,
        server: Server,
        text: str,
        arguments: AskArguments,
        namespace: MutableMapping[str, Any],
        mode: DisplayMode,
    ) -> None:
        """Send the text of a cell to a server, and show the answer.

        Args:
            server: the server.
            text: the text of the cell.
            arguments: the options of the cell.
            namespace: the variables of the notebook; if an option names a variable, the answer is assigned to it.
            mode: the way in which the answer is shown.

        Raises:
            RequestFailed: the server gave no answer.
            Interrupted: the user interrupted the cell; the request has ended on the server too.
            InvalidOption: an option is not valid, or the text is empty.
        """
        if not text.strip():
            raise InvalidOption("The cell is empty. Write a text for the model in the lines below %%vllm.")
        schema = None if arguments.schema is None else _schema(arguments.schema, namespace)
        history = self._history(server, arguments)
        messages = generate.conversation(text, arguments.system, history)
        output = answer.new_answer(mode, as_json=schema is not None)
        stream, note = None, _BROKEN_OFF
        try:
            options = {"temperature": arguments.temperature, "json_schema": schema}
            stream, has_template = request_answer(server, messages, arguments.max_tokens, **options)
            if not has_template:
                print(f"The model of {server.name} has no chat template: it continues the text of the cell.")  # noqa: T201
            for piece in stream.pieces():
                output.add(piece)
            note = ""
        except KeyboardInterrupt:
            note = "interrupted"
            raise Interrupted("the server ends this answer too. The text so far is kept.") from None
        finally:
            if stream is not None:
                stream.close()
                output.finish(stream.answer.summary(note))
                # An answer that an error has cut off is not a part of the conversation.
                if note != _BROKEN_OFF:
                    generate.remember(history, messages, stream.answer)
                if arguments.variable and schema is None:
                    namespace[arguments.variable] = stream.answer.text
        if arguments.variable and schema is not None:
            namespace[arguments.variable] = stream.answer.parsed

    def _history(self, server: Server, arguments: AskArguments) -> list[ChatMessage]:
        """Return the conversation with the server that the cell continues; a new list if it continues none."""
        if not arguments.history:
            return []
        if arguments.new:
            self._conversations.pop(server, None)
        return self._conversations.setdefault(server, [])


def request_answer(
    server: Server, messages: list[ChatMessage], max_tokens: int | None = None, **options: Any
) -> tuple[Stream, bool]:
    """Request the answer to a conversation. A model without a chat template continues the conversation as a text.

    Args:
        server: the server.
        messages: the conversation; the last message is the prompt.
        max_tokens: the largest number of tokens of the answer; None for the default.
        **options: further arguments of `Server.chat` and `Server.complete`.

    Returns:
        The stream of the answer, and whether the model has a chat template.

    Raises:
        RequestFailed: the server does not begin an answer.
    """
    try:
        return server.chat(messages, stream=True, max_tokens=max_tokens, **options), True
    except NoChatTemplate:
        text = generate.transcript(messages)
        return server.complete(
            text, stream=True, max_tokens=max_tokens or NO_TEMPLATE_TOKENS, **options
        ), False


def _schema(text: str, namespace: Mapping[str, Any]) -> Any:
    """Return the JSON schema: the value of the variable with this name, which may be a pydantic model class, or the parsed text."""
    try:
        schema = namespace[text] if text in namespace else json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidOption(
            f"--json {text[:QUOTED_CHARACTERS]}: neither a variable nor JSON. Put JSON in single quotes."
        ) from None
    if isinstance(schema, dict) or hasattr(schema, "model_json_schema"):
        return schema
    raise InvalidOption(
        f"--json {text[:QUOTED_CHARACTERS]}: a JSON schema (a dict), or a pydantic model class."
    )
