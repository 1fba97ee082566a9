"""Where the console script begins."""

import sys

__all__ = ["main"]


def main():
    """Serve, or build the parser of all sub-commands, as vLLM does before it looks at its arguments."""
    if sys.argv[1:2] == ["serve"]:
        from stand_in.main import main as serve

        return serve()
    import vllm.entrypoints.cli.serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(description="vLLM CLI")
    subparsers = parser.add_subparsers(required=False, dest="subparser")
    for command in vllm.entrypoints.cli.serve.cmd_init():
        command.subparser_init(subparsers)
    parser.parse_args()
    return 0
