"""Import guards and package look-ups."""

import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.utils import get_installed_path, is_installed

from mmpapers.compat import imports, packages, versions

pytestmark = pytest.mark.core


def run(code: str) -> str:
    """Run code in a fresh Python and return what it printed."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_versions_come_from_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork under another distribution name is found; two owners of one import name are both listed."""
    installed = {'onedl-mmengine': '0.10.12', 'mmengine': '0.10.7', 'mmcv-lite': '2.2.0'}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]
    monkeypatch.setattr('importlib.metadata.version', version)
    assert versions.owners('mmengine') == {'mmengine': '0.10.7', 'onedl-mmengine': '0.10.12'}
    assert versions.version('mmcv') == '2.2.0' and versions.version('mmdet3d') is None
    assert versions.release('2.13.0+cpu') == (2, 13, 0) < versions.release('2.13.1') and versions.release('?') == ()


@pytest.mark.parametrize('package', ['mmdet', 'mmseg', 'mmdet3d'])
def test_newer_requirements_are_accepted(tmp_path: Path, package: str) -> None:
    """An assertion of an upper bound passes, a warning says so, and the true version is back afterwards."""
    for name, version in (('mmcv', '2.3.6'), ('mmengine', '1.1.0'), ('mmdet', '3.5.1')):
        if name != package:
            (tmp_path / name).mkdir()
            (tmp_path / name / '__init__.py').write_text(f'__version__ = {version!r}\n')
    (tmp_path / package).mkdir()
    (tmp_path / package / '__init__.py').write_text(
        'import mmcv, mmengine\nassert mmcv.__version__ < "2.2.0", mmcv.__version__\n'
        'assert mmengine.__version__ < "1.0.0"\n' +
        ('import mmdet\nassert mmdet.__version__ < "3.4.0"\n' if package == 'mmdet3d' else '') + 'value = 1\n')
    out = run(f'''
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
from mmpapers.compat import imports
imports.install()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import {package}, mmcv, mmengine
print({package}.value, mmcv.__version__, mmengine.__version__, caught[0].message)
''')
    assert out.startswith('1 2.3.6 1.1.0') and 'asserts older versions than mmcv 2.3.6' in out


def test_older_requirements_are_left_alone() -> None:
    """Inside the bounds nothing is shown, warned or changed."""
    import mmcv
    mmcv_version = mmcv.__version__
    with imports.accepted_versions('mmdet'):
        assert mmcv.__version__ == mmcv_version


@pytest.mark.det3d
def test_mmdet3d_imports_without_toolkits() -> None:
    """With every toolkit absent, mmdet3d's data sets and metrics import; using one names what to install."""
    blocked = [*imports.TOOLKITS, 'open3d']
    out = run(f'''
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from mmpapers import compat
compat.setup()
import mmdet3d.datasets, mmdet3d.evaluation, mmdet3d.visualization, mmdet3d.models
from mmdet3d.evaluation.metrics import nuscenes_metric
for use in (lambda: nuscenes_metric.NuScenesBox(), lambda: nuscenes_metric.pyquaternion.Quaternion.random()):
    try:
        use()
    except ImportError as error:
        print(error)
try:
    import nuscenes
except ImportError:
    print('still absent')
''')
    assert "'nuscenes' is not installed: pip install nuscenes-devkit" in out
    assert "'pyquaternion' is not installed: pip install pyquaternion" in out and out.endswith('still absent\n')


@pytest.mark.det3d
def test_old_numpy_names_work() -> None:
    """mmdet3d's database sampler says np.long, which numpy 1.24 to 1.26 do not have."""
    import numpy as np
    from mmdet3d.datasets.transforms import dbsampler
    assert np.arange(3, dtype=dbsampler.np.long).dtype == np.int64 and dbsampler.np.concatenate is np.concatenate


def test_old_numpy_names_stay_inside() -> None:
    """The stand-in is a view of numpy; numpy itself is not changed."""
    import numpy as np
    old = imports._OldNumpy('numpy')
    assert old.float is float and old.pi == np.pi
    with pytest.raises(AttributeError):
        old.no_such_name  # noqa: B018


def test_guard_knows_only_its_modules() -> None:
    """Every other import passes by, absent ones included."""
    guard = imports.ImportGuard()
    assert guard.find_spec('json') is None and guard.find_spec('mmdet.models') is None
    imports.install()
    assert sum(isinstance(finder, imports.ImportGuard) for finder in sys.meta_path) == 1


def test_packages_without_pkg_resources() -> None:
    """Look-ups by import name, distribution name and absent name, as mmengine calls them."""
    assert is_installed('mmdet') and is_installed('mmsegmentation') and is_installed('mmseg')
    assert not is_installed('no_such_package')
    assert Path(get_installed_path('mmsegmentation')).name == 'mmseg' == Path(get_installed_path('mmseg')).name
    assert packages.module_of('onedl-mmsegmentation') == 'mmseg' and packages.module_of('PyYAML') == 'yaml'
    with pytest.raises(ModuleNotFoundError, match='no_such_package is not installed'):
        get_installed_path('no_such_package')


@pytest.mark.parametrize('base', ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
                                  'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py',
                                  'mmdet3d::second/second_hv_secfpn_8xb6-80e_kitti-3d-car.py'])
def test_external_base_configs(tmp_path: Path, base: str) -> None:
    """``_base_ = 'mmdet::...'`` reads the config that lies in the wheel."""
    file = tmp_path / 'mine.py'
    file.write_text(f'_base_ = {base!r}\nwork_dir = "x"\n')
    cfg = Config.fromfile(file)
    assert cfg.model.type and cfg.work_dir == 'x'


def test_fork_provides_the_import_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a fork no distribution is called mmsegmentation; the package is found by its import name."""
    monkeypatch.setattr('importlib.metadata.version', lambda name: (_ for _ in ()).throw(
        importlib.metadata.PackageNotFoundError(name)))
    monkeypatch.setattr('importlib.util.find_spec', lambda name: types.SimpleNamespace(
        origin=str(tmp_path / name / '__init__.py')) if name == 'mmseg' else None)
    assert packages.is_installed('mmsegmentation') and not packages.is_installed('mmdet')
    assert packages.get_installed_path('mmsegmentation') == str(tmp_path / 'mmseg')


def test_torchvision_is_not_imported() -> None:
    """setup() and the import of our registry leave torchvision, mmdet, mmseg and mmdet3d alone."""
    out = run('import sys\nfrom mmpapers import compat, registry\ncompat.setup(); compat.setup()\n'
              'print([n for n in ("torchvision", "mmdet", "mmseg", "mmdet3d", "numba") if n in sys.modules])')
    assert out == '[]\n'
