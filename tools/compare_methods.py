"""Train and test several configs with the same seeds; write a table and a plot."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpapers.cli.compare_methods import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
