"""Install mmpapers. Projects and configs live beside the package in a checkout and inside it in a wheel."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r"__version__ = '(.+)'", (here / 'mmpapers/__init__.py').read_text('utf-8')).group(1)
projects = {f'mmpapers.projects.{folder.parent.name}': str(folder.parent.relative_to(here))
            for folder in sorted(here.glob('projects/*/__init__.py'))}


def requirements(name: str) -> list[str]:
    """Read the requirement lines of ``requirements/<name>.txt``."""
    lines = (here / 'requirements' / f'{name}.txt').read_text('utf-8').splitlines()
    return [line for line in lines if line and not line.startswith('#')]


extras = {name: requirements(name) for name in ('det', 'seg', 'det3d', 'tests', 'docs')}
extras['all'] = sorted({line for name in ('det', 'seg', 'det3d') for line in extras[name]})

setup(
    name='mmpapers',
    version=version,
    description='Published vision methods as registered components of mmdet, mmseg and mmdet3d',
    long_description=(here / 'README.md').read_text('utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    # No OpenMMLab distribution here: pip would write it over a maintained fork of the same import name.
    install_requires=requirements('core'),
    extras_require=extras,
    packages=[*find_packages(include=['mmpapers', 'mmpapers.*']), *projects, 'mmpapers.configs'],
    package_dir={**projects, 'mmpapers.configs': 'configs'},
    package_data={**{name: ['README.md', 'metafile.yml', 'configs/*.py', 'configs/**/*.py'] for name in projects},
                  'mmpapers': ['cli/templates/*', 'cli/templates/*/*'], 'mmpapers.configs': ['**/*.py']},
    entry_points={'console_scripts': ['mmpapers=mmpapers.cli.main:main']},
    classifiers=['Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Image Recognition'],
)
