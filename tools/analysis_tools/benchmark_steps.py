"""Time and memory of a training step of several configs, relative to the first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpapers.cli.benchmark_steps import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
