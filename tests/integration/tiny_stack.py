"""Runs a supervised stack of tiny workers, with its settings given as one JSON argument."""

import json
import sys
from pathlib import Path

from streams.errors import CaptionstreamError
from streams.local.supervisor import run_stack
from streams.settings import Settings

WORKER = Path(__file__).with_name("tiny_worker.py")


def main() -> int:
    arguments = json.loads(sys.argv[1])
    try:
        return run_stack(
            Settings(**arguments["settings"]),
            data_dir=Path(arguments["data_dir"]),
            mongo_uri=arguments["mongo_uri"],
            kafka=arguments["kafka"],
            out=sys.stdout,
            worker_command=lambda name: [sys.executable, str(WORKER), name],
            processes=("first", "second"),
        )
    except CaptionstreamError as exc:
        print(f"captionstream: {exc}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
