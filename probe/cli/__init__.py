"""The command line: `probe tour` and the rest of `probe --help`."""

from probe.cli.commands import app, main

__all__ = ["app", "main"]
