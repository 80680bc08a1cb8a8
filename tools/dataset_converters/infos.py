"""Convert mmdet3d infos from JSON to pickle; see ``mmpapers.datasets.converters.infos``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpapers.datasets.converters.infos import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
