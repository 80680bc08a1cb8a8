"""Try one stock config of each family of mmdet, mmseg and mmdet3d: a training step and a prediction."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpapers.cli.stock_configs import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
