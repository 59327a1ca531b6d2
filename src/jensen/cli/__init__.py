"""The command line, `jensen`. Heavy imports stand inside commands, so that `--help` answers at once."""

from jensen.cli.app import app, main

__all__ = ["app", "main"]
