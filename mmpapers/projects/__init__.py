"""Paper slices. A source checkout keeps them in ``<repository>/projects``, a wheel in this package."""

from pathlib import Path

_repository = Path(__file__).resolve().parents[2]
# Other packages install a top-level ``projects`` too: take the folder only if it stands beside *our* setup.py.
if (_repository / 'setup.py').is_file() and (_repository / 'mmpapers' / 'registry.py').is_file():
    __path__.insert(0, str(_repository / 'projects'))
