"""The facade for ``mmcv._ext``, and every recorded call of a compiled mmcv through it."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
import types
import warnings
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch

from mmpapers.ops import _numba, boundary

pytestmark = pytest.mark.core

PARITY = np.load(Path(__file__).parents[1] / 'data/parity/ops_boxes.npz')
CALLS = json.loads(str(PARITY['calls']))


def replay(call: dict) -> None:
    """Repeat a call and compare what it returns and writes: integers exactly, floats to 1e-5 (1e-10 in float64)."""
    given = {key: torch.from_numpy(PARITY[v]) if isinstance(v, str) else v for key, v in call['given'].items()}
    returned = boundary.implementation(call['op'])(**given)
    if isinstance(returned, list):
        returned = torch.tensor([i for group in returned for i in (*group, -1)], dtype=torch.int64)
    results = [(returned, call['returned'])] if call['returned'] else []
    results += [(given[key][:None if returned is None else len(returned)], v) for key, v in call['written'].items()]
    for result, name in results:
        expected = torch.from_numpy(PARITY[name])
        assert result.dtype == expected.dtype
        tolerance = 0 if 'nms' in call['op'] else 1e-10 if expected.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance, equal_nan=True)


@pytest.mark.parametrize('path', ['numba', 'torch'])
@pytest.mark.parametrize('op', sorted({call['op'] for call in CALLS}))
def test_recorded_calls_of_compiled_kernels(op: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == 'torch':
        monkeypatch.setattr(_numba, 'native', lambda tensor: False)
    calls = [call for call in CALLS if call['op'] == op]
    assert len(calls) >= 5
    for call in calls:
        replay(call)


def test_every_function_of_mmcv_is_listed_once() -> None:
    asked = set()
    for file in (Path(mmcv.__file__).parent / 'ops').glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text('utf-8'))):
            if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                asked.update(ast.literal_eval(node.args[1]))
    implemented = [name for names in boundary.IMPLEMENTED.values() for name in names]
    assert sorted([*implemented, *boundary.NOT_IMPLEMENTED]) == sorted(asked)
    assert asked >= boundary.COMPILED_ON_CPU
    assert asked <= set(dir(boundary.ExtFacade()))
    for name in implemented:
        parameters = inspect.signature(boundary.implementation(name)).parameters.values()
        assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)


def test_an_op_that_is_missing_says_what_to_do() -> None:
    facade = boundary.ExtFacade()
    with pytest.raises(boundary.MissingOpError, match=r"'upfirdn2d' has no implementation for meta .*mmcv-lite.*"
                                                      r'Install a compiled mmcv==2.1.0 \(`make compiled`'):
        facade.upfirdn2d(torch.zeros(1, device='meta'))
    with pytest.raises(boundary.MissingOpError, match='compiled without it'):
        boundary.ExtFacade(types.ModuleType('fake')).upfirdn2d(torch.zeros(1))
    with pytest.raises(AttributeError):
        _ = facade.__wrapped__


def test_mmcv_sees_a_module_that_exists() -> None:
    from mmcv.utils.ext_loader import check_ops_exist
    facade = boundary.install()
    assert boundary.install() is facade is sys.modules['mmcv._ext'] is mmcv._ext
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert check_ops_exist() is True
    assert importlib.util.find_spec('mmcv._ext').loader is facade.__loader__
    assert importlib.import_module('mmcv._ext') is facade
    from mmcv import ops
    if facade.compiled is None:
        assert ops.get_compiler_version().startswith('numba ')
        assert ops.get_compiling_cuda_version() == 'not available'


def fake_ext(cuda: str) -> types.ModuleType:
    """A compiled module whose functions say their names."""
    fake = types.ModuleType('fake')
    fake.get_compiling_cuda_version = lambda: cuda
    for name in ('nms', 'roi_pool_forward', 'knn_forward'):
        setattr(fake, name, lambda *args, name=name, **kwargs: f'compiled {name}')
    return fake


@pytest.mark.parametrize('cuda', ['not available', '12.1'])
def test_calls_go_where_a_kernel_is(cuda: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facade = boundary.ExtFacade(fake_ext(cuda))
    monkeypatch.setattr(boundary, 'implementation', lambda name: None if 'knn' in name else lambda *a, **k: 'ours')
    cpu, other = torch.zeros(1), torch.zeros(1, device='meta')
    assert facade.nms(cpu) == 'compiled nms'
    assert facade.nms(boxes=cpu) == 'compiled nms'
    assert facade.nms(cpu.double()) == 'ours'  # the compiled kernel takes float32 only
    assert facade.roi_pool_forward(cpu) == 'ours'  # exists, but has no kernel for the CPU
    assert facade.nms(other) == 'ours'
    with pytest.raises(boundary.MissingOpError):
        facade.knn_forward(cpu)
    gpu = types.SimpleNamespace(device=types.SimpleNamespace(type='cuda'))
    assert facade._has_compiled('roi_pool_forward', gpu.device.type) == (cuda == '12.1')


LATE = '''
import sys, types, warnings
import mmcv
fake = types.ModuleType('mmcv._ext')
def answer(name):
    if name.startswith('__'):
        raise AttributeError(name)
    return lambda *args, **kwargs: name
fake.__getattr__ = answer
sys.modules['mmcv._ext'] = mmcv._ext = fake
import mmcv.ops
early = sys.modules['mmcv.ops.nms']
from mmpapers.ops import boundary
facade = boundary.install()
assert facade.compiled is fake
assert early.ext_module is facade
'''
BROKEN = '''
import sys, warnings
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmcv._ext':
            raise ImportError('undefined symbol: _ZN2at')
sys.meta_path.insert(0, Broken())
from mmpapers.ops import boundary
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    facade = boundary.install()
assert facade.compiled is None
assert any('undefined symbol' in str(w.message) and 'Rebuild mmcv for torch' in str(w.message) for w in caught)
'''


@pytest.mark.parametrize('script', [LATE, BROKEN], ids=['ops imported before', 'kernels that do not load'])
def test_install_in_a_fresh_process(script: str) -> None:
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_kernels_are_cached_on_disk_or_run_without() -> None:
    def double(x):
        return x * 2

    exec_only = types.FunctionType(compile('def f(x):\n    return x * 2', '<no file>', 'exec').co_consts[0], {})
    for function in (double, exec_only):  # the second has no file beside which a cache could lie
        assert _numba.jit(function)(np.float32(3)) == 6
