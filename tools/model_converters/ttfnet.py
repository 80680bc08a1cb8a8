"""Convert official TTFNet checkpoints (mmdetection 1.x): ``python tools/model_converters/ttfnet.py --help``."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # when mmpapers is not installed
from mmpapers.projects.ttfnet.convert import main  # noqa: E402

raise SystemExit(main())
