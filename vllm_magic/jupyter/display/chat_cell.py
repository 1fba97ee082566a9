"""``%%vllm``: a cell as a turn of a chat, its answer streamed below it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from vllm_magic.engine.client import generate
from vllm_magic.errors import InvalidOption, NoChatTemplate
from vllm_magic.jupyter.display.answer import NotebookAnswer, TerminalAnswer, line

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from vllm_magic.engine.client.generate import Message, Stream
    from vllm_magic.jupyter.commands.ask import AskArguments
    from vllm_magic.server.server import Server

QUOTED = 100  # characters of what is no schema
_BROKEN = "broken off"
COMPLETION = 128  # tokens of a model that has no turns, and so no end of one, unless told otherwise


class Interrupted(KeyboardInterrupt):
    """As any interrupt it keeps the cells below from running; but there is nothing to trace."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class Asker:
    """Asks the servers of one notebook.

    Args:
        notebook: whether a front end is there that can update an output; otherwise it is a terminal or a file.
    """

    def __init__(self, *, notebook: bool) -> None:
        self._notebook = notebook
        self._conversations: WeakKeyDictionary[Server, list[Message]] = WeakKeyDictionary()

    def ask(
        self, server: Server, said: str, wanted: AskArguments, namespace: MutableMapping[str, Any]
    ) -> None:
        """Say this to a server, and show its answer.

        Args:
            server: to ask.
            said: the cell.
            wanted: its options.
            namespace: the notebook's variables; the answer goes there, where that is wanted.

        Raises:
            RequestFailed: there is no answer.
            Interrupted: the person had enough; the request is over on the server too.
            InvalidOption: an option does not fit.
        """
        if not said.strip():
            raise InvalidOption("Nothing is asked. Write it in the lines below %%vllm.")
        schema = None if wanted.schema is None else _schema(wanted.schema, namespace)
        history = self._history(server, wanted)
        messages = generate.conversation(said, wanted.system, history)
        shown = NotebookAnswer(as_json=schema is not None) if self._notebook else TerminalAnswer()
        stream, note = None, _BROKEN
        try:
            stream = _begin(server, messages, wanted, schema)
            for piece in stream.pieces():
                shown.add(piece)
            note = ""
        except KeyboardInterrupt:
            note = "interrupted"
            raise Interrupted("the server ends this answer as well; what it said so far is kept.") from None
        finally:
            if stream is not None:
                stream.close()
                shown.finish(line(stream.answer, note))
                if note != _BROKEN:  # half an answer is none to go on from
                    generate.remember(history, messages, stream.answer)
                if wanted.variable and schema is None:
                    namespace[wanted.variable] = stream.answer.text
        if wanted.variable and schema is not None:
            namespace[wanted.variable] = stream.answer.parsed

    def _history(self, server: Server, wanted: AskArguments) -> list[Message]:
        if not wanted.history:
            return []
        if wanted.new:
            self._conversations.pop(server, None)
        return self._conversations.setdefault(server, [])


def _begin(server: Server, messages: list[Message], wanted: AskArguments, schema: Any) -> Stream:
    options: dict[str, Any] = {"temperature": wanted.temperature, "json_schema": schema}
    try:
        return server.chat(messages, stream=True, max_tokens=wanted.max_tokens, **options)
    except NoChatTemplate:
        print(f"The model of {server.name} has no chat template: it goes on from the text of the cell.")  # noqa: T201
        count = wanted.max_tokens or COMPLETION
        return server.complete(generate.transcript(messages), stream=True, max_tokens=count, **options)


def _schema(text: str, namespace: Mapping[str, Any]) -> Any:
    """A JSON text, or the name of a variable that holds a schema or a pydantic model class."""
    try:
        schema = namespace[text] if text in namespace else json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidOption(
            f"--json {text[:QUOTED]}: neither a variable nor JSON. Put JSON in single quotes."
        ) from None
    if isinstance(schema, dict) or hasattr(schema, "model_json_schema"):
        return schema
    raise InvalidOption(f"--json {text[:QUOTED]}: a JSON schema (a dict), or a pydantic model class.")
