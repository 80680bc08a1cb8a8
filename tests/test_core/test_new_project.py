"""A new slice passes its own tests and the contracts, untouched, in a copy of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmpapers
from mmpapers.cli import new_project

pytestmark = pytest.mark.core
REPOSITORY = Path(mmpapers.__file__).resolve().parents[1]


def test_slices_pass_the_contracts(tmp_path: Path) -> None:
    for name in ('mmpapers', 'configs', 'tools', 'tests/test_contracts'):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'README.md', 'pyproject.toml', 'tests/conftest.py'):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    new_project.write_project(tmp_path, 'toy_det', 'detection', 'ToyDET')
    new_project.write_project(tmp_path, 'toy_seg', 'segmentation')
    # Twins of the two templates are not the newcomer's mistake; everything else must hold for both.
    command = [sys.executable, '-m', 'pytest', 'tests', '-k', 'toy and not near_duplicate', '-p', 'no:cacheprovider']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert done.returncode == 0, done.stdout[-3000:]
    assert ' passed' in done.stdout and 'failed' not in done.stdout


def test_derived_and_given_class_names(tmp_path: Path) -> None:
    written = new_project.write_project(tmp_path, 'kd_detr', 'detection')
    assert 'class KdDetrHead(' in next(p for p in written if p.name == 'kd_detr_head.py').read_text()


@pytest.mark.parametrize('name', ['KD-DETR', '3d', 'a__b', ''])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match='not a snake-case name'):
        new_project.write_project(tmp_path, name, 'detection')


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    new_project.write_project(tmp_path, 'twice', 'detection')
    with pytest.raises(ValueError, match='exists already'):
        new_project.write_project(tmp_path, 'twice', 'detection')
