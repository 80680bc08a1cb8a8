"""Write a distillation overlay for a config."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpapers.cli.apply_distill import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
