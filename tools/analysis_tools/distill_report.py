"""Write a page about a distilled student."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmpapers.cli.distill_report import main  # noqa: E402

if __name__ == '__main__':
    raise SystemExit(main())
