"""The parser class."""

import argparse


class FlexibleArgumentParser(argparse.ArgumentParser):
    """argparse's own, which is enough to read the flags from."""
