"""The parser class, with the action of vLLM 0.33 for switches."""

import argparse


class EnableDisableAction(argparse.BooleanOptionalAction):
    """Pairs `--enable-x` with `--disable-x`; `--no-enable-x` is accepted too, and hidden from the help."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, **kwargs)
        inverses = [one.replace("--enable-", "--disable-") for one in option_strings if "--enable-" in one]
        self.visible = [*option_strings, *inverses] if inverses else list(self.option_strings)
        self.option_strings = [*self.option_strings, *inverses]


class FlexibleArgumentParser(argparse.ArgumentParser):
    """argparse's own, which is enough to read the flags from."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.register("action", argparse.BooleanOptionalAction, EnableDisableAction)

    def add_argument(self, *args, **kwargs):
        action = super().add_argument(*args, **kwargs)
        if isinstance(action, EnableDisableAction):
            action.option_strings = action.visible
        return action
