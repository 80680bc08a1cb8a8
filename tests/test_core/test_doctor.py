"""The doctor finds what is missing, broken or doubled, names the line that mends it, and survives everything."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmpapers
from mmpapers import registry
from mmpapers.cli import doctor

pytestmark = pytest.mark.core
HEALTHY = {'torch': {'error': '', 'facts': {'cuda': None, 'gpus': [], 'mps': False, 'threads': 2}}}


@pytest.fixture
def healthy(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    """Nothing is imported for real; tests write what the probes are to find."""
    results = dict(HEALTHY)
    monkeypatch.setattr(doctor, 'run_probe', lambda names: {
        name: results.get(name, {'error': '', 'facts': {}}) for name in names})
    monkeypatch.setattr(doctor, '_is_there', lambda name: True)
    monkeypatch.setattr('shutil.which', lambda name: None)
    return results


def test_healthy(healthy: dict, capsys: pytest.CaptureFixture) -> None:
    """A sound environment ends with a verdict and exit code 0; distributions behind import names are shown."""
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith('The stack is usable.') and 'Must be mended' not in out
    assert 'mmsegmentation' in out and sys.executable in out and 'CPU (2 threads)' in out
    assert max(map(len, out.splitlines())) < 160


def test_missing_required(healthy: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Without mmcv nothing works: exit code 1 and the pinned line, which is mmcv-lite."""
    monkeypatch.setattr(doctor, '_is_there', lambda name: name != 'mmcv')
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert 'mmcv is not installed' in out and '-m pip install mmcv-lite==2.1.0' in out
    assert 'The stack is not usable as it is.' in out


def test_missing_toolbox(healthy: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Without mmseg detection still works: exit code 0, with a hint."""
    monkeypatch.setattr(doctor, '_is_there', lambda name: name != 'mmseg')
    assert doctor.main([]) == 0
    assert '-m pip install mmsegmentation==1.2.2' in capsys.readouterr().out


@pytest.mark.parametrize(('module', 'error', 'fix', 'code'), [
    ('torch', 'OSError: libcudart.so: cannot open shared object file', 'torch==2.13.0', 1),
    ('mmdet.models', "ModuleNotFoundError: No module named 'imaug'", 'install imaug', 0),
    ('torchvision', 'RuntimeError: operator torchvision::nms does not exist', 'uninstall torchvision', 0),
    ('mmpapers.compat', 'AttributeError: x', '--json', 1)])
def test_broken(healthy: dict, capsys: pytest.CaptureFixture, module: str, error: str, fix: str, code: int) -> None:
    """What is there and does not import is told from what is absent, with its reason."""
    healthy[module] = {'error': error, 'facts': {}}
    assert doctor.main([]) == code
    out = capsys.readouterr().out
    assert error in out and fix in out


def test_double_ownership(healthy: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Two distributions of one import name: both are named, and the lines that leave one, not undone by pip."""
    stock = importlib.metadata.version
    both = {'onedl-mmengine': '0.10.12'}
    monkeypatch.setattr('importlib.metadata.version', lambda name: both.get(name) or stock(name))
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert 'mmengine belongs to 2 distributions (mmengine 0.10.7, onedl-mmengine 0.10.12)' in out
    assert 'pip uninstall -y mmengine onedl-mmengine' in out and 'install --no-deps onedl-mmengine==0.10.12' in out
    assert doctor.pip_line('mmdet').endswith('pip install --no-deps mmdet==3.3.0')


def test_gpu_without_cuda_build(healthy: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """A driver and a CPU build of torch are a hint, and GPUs are named when torch sees them."""
    monkeypatch.setattr('shutil.which', lambda name: '/usr/bin/nvidia-smi')
    assert doctor.main([]) == 0
    assert 'a CPU build' in capsys.readouterr().out
    healthy['torch'] = {'error': '', 'facts': {'cuda': '12.6', 'gpus': ['NVIDIA H200'], 'mps': False, 'threads': 2}}
    doctor.main([])
    assert 'CUDA 12.6: NVIDIA H200' in capsys.readouterr().out


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose helper module needs an absent package, and one that guards it."""
    folder = tmp_path / 'needy'
    folder.mkdir()
    head = 'from mmpapers.registry import MODELS\n'
    (folder / '__init__.py').write_text('')
    (folder / 'helper.py').write_text('import os\nimport no_such_package.sub\n')
    (folder / 'needy.py').write_text(f'{head}from .helper import x\n\n\n'
                                     '@MODELS.register_module()\nclass Needy:\n    pass\n')
    (folder / 'free.py').write_text(f'{head}try:\n    import no_such_package\nexcept ImportError:\n    pass\n\n\n'
                                    '@MODELS.register_module()\nclass Free:\n    pass\n')
    monkeypatch.setattr('mmpapers.projects.__path__', [str(tmp_path)])


def test_components_name_what_they_lack(project: None, monkeypatch: pytest.MonkeyPatch, healthy: dict,
                                        capsys: pytest.CaptureFixture) -> None:
    """A package missing two imports away is found by reading; a guarded import is no need."""
    monkeypatch.setattr(doctor, '_is_there', lambda name: name != 'no_such_package')
    assert doctor.main(['--components', '--grep', 'needy']) == 0
    out = capsys.readouterr().out
    assert 'mmpapers.Needy  mmpapers.projects.needy.needy  needs no_such_package' in out
    assert 'mmpapers.Free ' in out and 'SafeCheckpointHook' not in out
    doctor.main([])
    assert 'without no_such_package: mmpapers.Needy' in capsys.readouterr().out


def test_all_components_are_listed(healthy: dict, capsys: pytest.CaptureFixture) -> None:
    """--components shows every row of the registry's index; a pattern that matches nothing says so."""
    doctor.main(['--components'])
    out = capsys.readouterr().out
    assert all(f'mmpapers.{name} ' in out for _, name, _ in registry.scan())
    doctor.main(['--grep', 'no such component'])
    assert capsys.readouterr().out == 'No component matches.\n'


def test_json(healthy: dict, capsys: pytest.CaptureFixture) -> None:
    """--json holds the same facts for machines."""
    assert doctor.main(['--json']) == 0
    report = json.loads(capsys.readouterr().out)
    assert report['usable'] and report['mmpapers'] == mmpapers.__version__
    assert {package['name'] for package in report['packages']} >= {*doctor.REQUIRED, *doctor.TOOLBOXES}
    assert {'registry', 'name', 'module', 'missing'} == set(report['components'][0])


def test_bad_pattern(healthy: dict, capsys: pytest.CaptureFixture) -> None:
    """A pattern that is no regular expression is a usage error."""
    with pytest.raises(SystemExit) as caught:
        doctor.main(['--grep', '('])
    assert caught.value.code == 2 and 'not a regular expression' in capsys.readouterr().err


def test_probe_survives_crash_and_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that kills Python, one that hangs and one that exits count against themselves alone."""
    for name, code in {'doctor_crash': 'import os; os.abort()', 'doctor_exit': 'raise SystemExit(3)',
                       'doctor_noise': 'print("{}")', 'doctor_hang': 'import time; time.sleep(60)'}.items():
        (tmp_path / f'{name}.py').write_text(code)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    found = doctor.run_probe(['json', 'doctor_crash', 'doctor_exit', 'doctor_noise', 'doctor_hang', 'ast'], timeout=3)
    assert found['json']['error'] == found['ast']['error'] == found['doctor_noise']['error'] == ''
    assert 'crashed Python' in found['doctor_crash']['error'] and 'SystemExit' in found['doctor_exit']['error']
    assert 'did not end' in found['doctor_hang']['error']


def test_bare_python(tmp_path: Path) -> None:
    """With no package at all (``-S``) the report is complete and says what to install first."""
    env = {**os.environ, 'PYTHONPATH': str(Path(mmpapers.__file__).parents[1])}
    done = subprocess.run([sys.executable, '-S', '-m', 'mmpapers.doctor'], capture_output=True, text=True, env=env,
                          cwd=tmp_path)
    assert done.returncode == 1 and done.stderr == ''
    for name in doctor.REQUIRED:
        assert f'{name} is not installed' in done.stdout
    assert 'cannot be listed without a working mmengine' in done.stdout


def test_this_environment(capfd: pytest.CaptureFixture) -> None:
    """The real thing, imports included: the environment that runs the tests is usable."""
    assert doctor.main([]) == 0, capfd.readouterr().out
    assert 'BROKEN' not in capfd.readouterr().out
