"""What the contract tests discover: project folders, their configs, registered classes."""

from pathlib import Path

import mmpapers
from mmpapers import registry

REPOSITORY = Path(mmpapers.__file__).resolve().parents[1]
PROJECTS = sorted(p.parent for p in REPOSITORY.glob('projects/*/__init__.py'))
CONFIGS = sorted(c for p in PROJECTS for c in p.glob('configs/*.py'))


def pytest_generate_tests(metafunc) -> None:
    """Parametrise by ``project`` (folder), ``config`` (file), ``tiny`` (file) or ``component`` (row of the index)."""
    found = {
        'project': PROJECTS,
        'config': CONFIGS,
        'tiny': [c for c in CONFIGS if c.stem.endswith('_tiny-cpu')],
        'component': [row for row in registry.scan() if row[2].startswith('mmpapers.projects.')],
    }
    for name, values in found.items():
        if name in metafunc.fixturenames:
            ids = [v[1] if name == 'component' else f'{v.parent.parent.name}-{v.stem}' if v.suffix else v.name
                   for v in values]
            metafunc.parametrize(name, values, ids=ids)
