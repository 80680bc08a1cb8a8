"""Convert official RTFormer weights (``.pdparams``): ``python tools/model_converters/rtformer.py --help``."""
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # when mmpapers is not installed
from mmpapers.projects.rtformer.convert import main  # noqa: E402

raise SystemExit(main())
