"""Commands that show expected errors as one line: those of the tool, and the scripts."""

from typing import Any

import click

from index.errors import GalleryError
from retrieval.errors import RetrievalError


class Command(click.Command):
    """Shows expected errors as one line, and leaves with status 1 (Ctrl-C: 130)."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (RetrievalError, GalleryError) as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            named = error.filename is not None and error.strerror is not None
            told = f"{error.filename}: {error.strerror}" if named else str(error)
            raise click.ClickException(told or type(error).__name__) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


class CommandGroup(Command, click.Group):
    """A group whose commands do so."""
