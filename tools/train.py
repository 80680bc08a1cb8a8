"""Train a config of mmdet, mmseg, mmdet3d or mmpapers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpapers.cli.train import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
