"""The arguments of ``vllm-magic``: they are read, and refused, as those of ``%vllm``."""

from __future__ import annotations

import shlex

import pytest
from IPython.core.error import UsageError
from records import record

from vllm_magic import cli, ledger
from vllm_magic.commands.selection import HELP_COMMAND
from vllm_magic.guard import record as records
from vllm_magic.recovery import remote_stop
from vllm_magic.release.result import nothing_to_release


@pytest.mark.parametrize(
    "words",
    [
        "bogus",
        "stpo small",
        "help bogus",
        "help dcotor",
        "help stop logs",
        "stop small other",
        "stop small --grace soon",
        "stop small --grace -1",
        "stop small --grace",
        "stop ''",
        "logs small -n 0",
        "logs small -n many",
        "logs small --no-such",
        "reap 1",
        "reap --pid",
        "reap --pid x",
        "reap --pid=-5",
        "doctor --js",
        "gpu x",
    ],
)
def test_an_error_reads_the_same_in_both_front_ends(shell, capsys, words):
    assert cli.main(shlex.split(words)) == cli.WRONG_LINE
    printed = capsys.readouterr()
    assert printed.out == ""
    with pytest.raises(UsageError) as caught:
        shell.run_line_magic("vllm", words)
    assert printed.err == f"vllm-magic: {str(caught.value).replace('%vllm', 'vllm-magic')}\n"


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_the_list_of_the_commands(capsys, words):
    assert cli.main(words) == cli.DONE
    assert capsys.readouterr().out.startswith("vllm-magic  ")


@pytest.mark.parametrize("words", [["help", "stop"], ["stop", "--help"], ["stop", "small", "-h"]])
def test_the_page_of_a_command(capsys, words):
    assert cli.main(words) == cli.DONE
    assert capsys.readouterr().out.startswith("vllm-magic stop NAME [options]\n")


@pytest.mark.parametrize(("words", "times"), [((), (65.0, 62.5)), (("--grace", "7"), (7.0, 7.0))])
def test_a_stop_has_the_times_that_its_own_kernel_would_give_it(home, monkeypatch, words, times):
    folder = ledger.create("m")
    records.write(str(folder.path), record(folder.id, name="m", stop_grace=65.0, stop_patience=62.5))
    given = []

    def stop(entry, record, probe, grace, patience):
        given.append((grace, patience))
        return nothing_to_release(record.name)

    monkeypatch.setattr(remote_stop, "stop", stop)
    assert cli.main(["stop", "m", *words]) == cli.DONE
    assert given == [times]


def test_the_help_is_shown_on_a_system_that_is_not_supported(monkeypatch):
    def refuse() -> None:
        raise AssertionError("the help needs no support of the system")

    monkeypatch.setattr("vllm_magic.linux.support.check", refuse)
    assert cli.main([]) == cli.DONE
    assert cli.main(["stop", "--help"]) == cli.DONE


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.declaration.name)
def test_the_examples_can_be_parsed(command):
    for example in command.declaration.examples:
        program, *rest = example.split()
        assert program == "vllm-magic"
        name, *words = rest or [HELP_COMMAND]
        assert name == command.declaration.name
        command.declaration.parse(words)
