"""The lazy registry: lookup by name, suggestions, named missing packages, cheap import."""

import subprocess
import sys
from pathlib import Path

import mmengine
import pytest
from mmengine.registry import HOOKS, MODELS, DefaultScope

import mmpapers.projects
from mmpapers import registry

pytestmark = pytest.mark.core

SLICE = '''
from mmpapers.registry import {symbol}


@{symbol}.register_module()
class {name}:
    def __init__(self, width=1):
        self.width = width
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes a module of a throw-away project; everything is undone afterwards."""
    monkeypatch.setattr(mmpapers.projects, '__path__', [*mmpapers.projects.__path__, str(tmp_path)])
    folder = tmp_path / 'throwaway'
    folder.mkdir()
    (folder / '__init__.py').touch()
    modules, registered = set(sys.modules), {s: dict(getattr(registry, s).module_dict) for s in registry._symbols}

    def write(module: str, text: str) -> None:
        (folder / f'{module}.py').write_text(text)
        registry.index.cache_clear()

    yield write
    registry.index.cache_clear()
    for name in set(sys.modules) - modules:
        if name.startswith('mmpapers.projects.throwaway'):
            del sys.modules[name]
    for symbol, before in registered.items():
        module_dict = getattr(registry, symbol).module_dict
        for name in set(module_dict) - set(before):
            if module_dict[name].__module__.startswith('mmpapers.projects.throwaway'):
                del module_dict[name]


def _run(code: str, **kwargs) -> str:
    """Run code in a fresh interpreter outside the checkout and return what it printed."""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize('scope', [None, 'mmseg', 'mmpapers'])
def test_built_by_name_under_any_scope(project, scope: str | None) -> None:
    project('thing', SLICE.format(symbol='MODELS', name='ThrowawayNet'))
    if scope is None:
        assert MODELS.build(dict(type='mmpapers.ThrowawayNet', width=3)).width == 3
    else:
        with DefaultScope.overwrite_default_scope(scope):
            assert MODELS.build(dict(type='mmpapers.ThrowawayNet', width=3)).width == 3


def test_only_the_asked_module_is_imported(project) -> None:
    project('wanted', SLICE.format(symbol='MODELS', name='ThrowawayWanted'))
    project('other', SLICE.format(symbol='MODELS', name='ThrowawayOther'))
    MODELS.get('mmpapers.ThrowawayWanted')
    assert 'mmpapers.projects.throwaway.wanted' in sys.modules
    assert 'mmpapers.projects.throwaway.other' not in sys.modules


def test_missing_package_breaks_only_its_component(project) -> None:
    project('needy', 'import package_that_is_not_there\n' + SLICE.format(symbol='MODELS', name='ThrowawayNeedy'))
    project('fine', SLICE.format(symbol='HOOKS', name='ThrowawayHook'))
    for _ in range(2):  # the second failure must not become "already registered"
        with pytest.raises(ImportError, match="ThrowawayNeedy needs the package 'package_that_is_not_there'"):
            MODELS.build(dict(type='mmpapers.ThrowawayNeedy'))
    assert HOOKS.get('mmpapers.ThrowawayHook').__name__ == 'ThrowawayHook'


def test_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(KeyError, match=r'mmpapers.TTFNt does not exist .* did you mean mmpapers.TTFNet'):
        MODELS.build(dict(type='mmpapers.TTFNt'))


def test_wrong_registry_is_named(project) -> None:
    project('thing', SLICE.format(symbol='HOOKS', name='ThrowawayHook'))
    with pytest.raises(KeyError, match='registered in HOOKS'):
        MODELS.build(dict(type='mmpapers.ThrowawayHook'))


def test_unprefixed_foreign_name_reaches_the_root() -> None:
    assert registry.OPTIMIZERS.get('SGD').__name__ == 'SGD'


def test_facade_imports_and_completes() -> None:
    import mmpapers.models
    from mmpapers.models import TTFNet
    assert TTFNet is MODELS.get('mmpapers.TTFNet')
    assert {'TTFNet', 'RTFormer'} <= set(dir(mmpapers.models))
    with pytest.raises(ImportError, match='TTFNt'):
        from mmpapers.models import TTFNt  # noqa: F401


def test_import_is_cheap_and_patches_nothing(tmp_path: Path) -> None:
    heavy = _run('import sys, mmpapers, mmpapers.registry; '
                 'print([m for m in ("torch", "mmcv", "mmdet", "mmseg", "mmdet3d", "numba") if m in sys.modules])',
                 cwd=tmp_path)
    assert heavy == '[]'


def test_lists_components_without_any_toolbox(tmp_path: Path) -> None:
    listed = _run('import sys\n'
                  'for name in ("mmcv", "mmdet", "mmseg", "mmdet3d", "torch"): sys.modules[name] = None\n'
                  'from mmpapers.registry import index; print(("MODELS", "TTFNet") in index())', cwd=tmp_path)
    assert listed == 'True'


def test_duplicate_of_a_user_does_not_stop_a_run(project) -> None:
    project('one', SLICE.format(symbol='MODELS', name='ThrowawayTwin'))
    project('two', SLICE.format(symbol='MODELS', name='ThrowawayTwin'))
    assert registry.index()['MODELS', 'ThrowawayTwin'].endswith('.one')
    assert MODELS.get('mmpapers.ThrowawayTwin').__module__.endswith('.one')


def test_every_root_registry_has_a_node() -> None:
    names = [n for n, v in vars(mmengine.registry).items() if isinstance(v, mmengine.registry.Registry)]
    assert len(names) >= 20
    assert all(getattr(registry, name).scope == 'mmpapers' for name in names)
