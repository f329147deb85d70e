"""The command line: `probe tour`, `probe record`, `probe models`, `probe check`."""

from probe.cli.commands import app, main

__all__ = ["app", "main"]
