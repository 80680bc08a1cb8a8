"""Write the slice of a new paper; see ``mmpapers.cli.new_project``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmpapers.cli.new_project import main  # noqa: E402

raise SystemExit(main())
