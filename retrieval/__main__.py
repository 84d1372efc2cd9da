"""``python -m retrieval`` is the ``retrieval`` command."""

from retrieval.cli import main

main(prog_name="retrieval")
