"""Write mmdet3d infos for Argoverse 2 sweeps; see ``mmpapers.datasets.converters.argoverse2``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpapers.datasets.converters.argoverse2 import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
