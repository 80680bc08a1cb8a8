"""Make a plain detector's checkpoint of one with further query sets: ``... strip_query_sets.py --help``."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # when mmpapers is not installed
from mmpapers.cli.strip_query_sets import main  # noqa: E402

raise SystemExit(main())
