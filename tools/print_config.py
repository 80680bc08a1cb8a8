"""Print a resolved config, or who set a value of it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpapers.cli.print_config import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
