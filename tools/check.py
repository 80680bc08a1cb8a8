"""Find mistakes in a config and its data before a run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpapers.cli.check import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
