"""The wheel: one top-level name, everything inside, usable from any folder; the installer's messages."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mmpapers

pytestmark = pytest.mark.core
REPOSITORY = Path(mmpapers.__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources."""
    copy = tmp_path_factory.mktemp('source')
    for name in ('mmpapers', 'projects', 'configs', 'requirements'):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'README.md', 'pyproject.toml', 'LICENSE'):
        shutil.copy(REPOSITORY / name, copy / name)
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', str(copy / 'out')]
    done = subprocess.run([*command, str(copy)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next((copy / 'out').glob('*.whl'))


def test_wheel_holds_one_package_with_everything(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split('/')[0] for n in names if '.dist-info/' not in n} == {'mmpapers'}
    for project in REPOSITORY.glob('projects/*/__init__.py'):
        for file in ('README.md', 'metafile.yml', *(f'configs/{c.name}' for c in project.parent.glob('configs/*.py'))):
            assert f'mmpapers/projects/{project.parent.name}/{file}' in names
    for base in REPOSITORY.glob('configs/_base_/**/*.py'):
        assert f'mmpapers/{base.relative_to(REPOSITORY)}' in names
    metadata = next(n for n in names if n.endswith('METADATA'))
    required = [line for line in zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
                if line.startswith('Requires-Dist') and 'extra ==' not in line]
    assert not [line for line in required if 'mm' in line], required


def test_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / 'site'
    zipfile.ZipFile(wheel).extractall(site)
    code = ('from pathlib import Path; import sys; sys.path.insert(0, sys.argv[1]); import mmpapers; '
            'assert mmpapers.__file__.startswith(sys.argv[1]), mmpapers.__file__; '
            'from mmpapers import compat; compat.setup(); '
            'from mmengine import Config; from mmpapers.registry import index; '
            'configs = sorted(Path(sys.argv[1]).glob("mmpapers/projects/*/configs/*.py")); '
            '[Config.fromfile(c) for c in configs]; '
            'from mmpapers.models import TTFNet, RTFormer; print(len(configs), TTFNet.__module__)')
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-c', code, str(site)],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    count, module = done.stdout.split()[-2:]
    assert int(count) == len(list(REPOSITORY.glob('projects/*/configs/*.py')))
    assert module == 'mmpapers.projects.ttfnet.ttfnet'


@pytest.fixture
def installer():
    """tools/install.py as a module."""
    spec = importlib.util.spec_from_file_location('install', REPOSITORY / 'tools/install.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_installer_names_the_unsupported_python(installer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / 'python3'
    fake.write_text('#!/bin/sh\necho 3 8\n')
    fake.chmod(0o755)
    monkeypatch.setenv('PYTHON', str(fake))
    with pytest.raises(installer.Failure, match=r'3\.10 to 3\.12 found \(.*is 3\.8\)'):
        installer.find_python()


@pytest.mark.parametrize(('output', 'advice'), [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device', 'disk is full'),
    ('NewConnectionError: Failed to establish a new connection', 'index was not reached'),
    ('ERROR: No matching distribution found for torch==2.13.0', 'another interpreter'),
])
def test_installer_says_what_to_do(installer, tmp_path: Path, output: str, advice: str) -> None:
    python = tmp_path / 'venv/bin/python'
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "Collecting torch"\necho "{output}"\nexit 1\n')
    python.chmod(0o755)
    with pytest.raises(installer.Failure, match=advice) as failure:
        installer.pip(python, 'torch', 'torch==2.13.0')
    assert output in str(failure.value) and 'install.log' in str(failure.value)
    assert output in (tmp_path / 'venv/install.log').read_text()
