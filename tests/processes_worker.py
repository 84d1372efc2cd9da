"""Runs several commands of the tool in one process, one of those that torchrun starts.

python processes_worker.py COMMANDS: a JSON list of lists of arguments as for ``python -m retrieval``.
To import torch anew takes longer than any of these commands.
"""

import json
import runpy
import sys

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["retrieval", *arguments]
    try:
        runpy.run_module("retrieval", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
