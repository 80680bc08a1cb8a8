"""Time of Hungarian matching in a training step: everything at once, and one by one as in mmdet."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpapers.cli.benchmark_matching import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
