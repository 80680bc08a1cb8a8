"""Pictures of a DETR's decoder: ``python tools/analysis_tools/view_detr.py CONFIG CHECKPOINT --out FOLDER``."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # when mmpapers is not installed
from mmpapers.cli.view_detr import main  # noqa: E402

raise SystemExit(main())
