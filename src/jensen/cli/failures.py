"""From exceptions to one message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from jensen.errors import ConfigError, JensenError

UNEXPECTED, USAGE, INTERRUPTED, TERMINATED, BROKEN_PIPE = 1, 2, 130, 143, 141
TRACEBACK = "JENSEN_TRACEBACK"


class Guarded(TyperGroup):
    """A group of commands in which every failure ends as one message on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            _quiet_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED, prefix="")
        except (typer.Exit, typer.Abort):
            raise
        except Exception as e:
            if hasattr(e, "format_message"):  # a usage error, which typer prints with the usage
                raise
            answer(_as_typed(e, self.get_command(ctx, ctx.invoked_subcommand or "")))


def stopped(terminated: bool, command: str | None) -> NoReturn:
    """Say that work was interrupted, by SIGTERM or by Ctrl-C, and what goes on with it, and exit."""
    code, word = (TERMINATED, "terminated") if terminated else (INTERRUPTED, "interrupted")
    fail(f"{word}; go on with: {command}" if command else word, code, prefix="")


def _as_typed(error: Exception, command: Any) -> Exception:
    """Problems that begin with the name of an option's argument, as `kinds: …`, with the option, `--kind: …`."""
    if not isinstance(error, ConfigError):
        return error
    typed = {p.name: max(p.opts, key=len) for p in getattr(command, "params", ()) if p.opts[0].startswith("-")}
    typed = {name: option for name, option in typed.items() if option.lstrip("-") != name}
    told = [problem.partition(": ") for problem in error.problems]
    return ConfigError([f"{typed.get(name, name)}{colon}{rest}" for name, colon, rest in told])


def answer(error: Exception) -> NoReturn:
    """Print what went wrong and exit. With `JENSEN_TRACEBACK` set, print where, too."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, JensenError):
        fail(str(error), error.exit_code)
    if isinstance(error, OSError) and error.errno is not None:
        fail(*_of_system(error))
    if isinstance(error, MemoryError):
        fail("out of memory", UNEXPECTED)
    words = " ".join(str(error).split()) or "no message"
    fail(
        f"unexpected {type(error).__name__}: {_shortened(words)}\nrun with {TRACEBACK}=1 for the traceback",
        UNEXPECTED,
    )


def fail(message: str, code: int, prefix: str = "error: ") -> NoReturn:
    """One message on stderr, then exit."""
    typer.echo(f"{prefix}{message}", err=True)
    raise typer.Exit(code)


def _of_system(error: OSError) -> tuple[str, int]:
    where = f" {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing{where or ' output'}; nothing complete was harmed", UNEXPECTED
    usage = (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    )
    reason = (error.strerror or str(error)).lower()
    return f"cannot open or write{where}: {reason}", USAGE if error.errno in usage else UNEXPECTED


def _shortened(text: str, most: int = 300) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _quiet_stdout() -> None:
    """Whoever read stdout has gone; let nothing try to write there again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
