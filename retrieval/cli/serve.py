"""The command that opens the search page."""

import ipaddress
import socket
from pathlib import Path

import click

from retrieval.cli.options import find_gallery, gallery_option, say
from retrieval.errors import ConfigError

MAX_CONNECTIONS = 1000
"""With so many, requests are answered by 503 in place of growing memory: each holds some 64 KiB."""


@click.command()
@gallery_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Where to listen. Others than this machine can ask only if you give another address, such as "
    "0.0.0.0, and then without a password.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes any that is free.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Another name that it may be asked by, such as that of a proxy. Addresses in numbers, "
    "localhost, --host and the name of this machine are known.",
)
@click.option("--browser", is_flag=True, help="Open the page in the browser.")
def serve(
    gallery_path: Path | None, host: str, port: int, names: tuple[str, ...], browser: bool
) -> None:
    """Search in the browser: drop, paste or choose a picture, or a part of it, and see the nearest.

    \b
    Examples:
      retrieval serve --gallery photos.gallery --browser
      retrieval serve --gallery photos.gallery --port 8080
      curl --data-binary @photo.jpg 'http://127.0.0.1:8000/api/query?k=5'

    Prints the address of the page. Programs ask by the same address: docs/serving.md. Ctrl-C stops it.
    Changes that other commands make to the gallery are seen at once.
    """
    try:
        import uvicorn

        from retrieval.web.app import search_app
    except ImportError as error:
        raise ConfigError(
            f"the search page needs {error.name}, which is not installed; run: pip install "
            "'retrieval[web]'"
        ) from error
    from retrieval.web.gallery_thread import GalleryThread

    listening = _listen(host, port)
    with listening:
        gallery = GalleryThread(find_gallery(gallery_path))
        address = _address(host, listening.getsockname()[1])
        click.echo(address)
        if not _is_own(host):
            say(f"Everybody who can reach {host} can see the pictures of this gallery.")
        if browser:
            click.launch(address)
        known = (host, socket.gethostname(), socket.getfqdn(), *names)
        app = search_app(gallery, [name.lower() for name in known])
        server = uvicorn.Server(
            uvicorn.Config(
                # The application tells its own errors; the rest is of requests cut off at the end.
                app,
                log_level="critical",
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=3,
            )
        )
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # the way to end it
            say("Stopped.")


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family)
        # Else the second part of an answer waits 40 ms for the first to be acknowledged. asyncio sees
        # to it only where a socket names its protocol, which those of create_server do not.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror}; give another --port (0: any that "
            "is free), or another --host"
        ) from error


def _address(host: str, port: int) -> str:
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/"


def _is_own(host: str) -> bool:
    """Whether nobody but this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
