"""Loading checkpoints: everything of mmengine's, nothing foreign, one sentence for every bad file."""

import http.server
import json
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, load_checkpoint

from mmpapers import compat
from mmpapers.compat import checkpoint

pytestmark = pytest.mark.core


class Evil:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


class Net(BaseModule):
    """One layer, initialised from a file."""

    def __init__(self, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.layer = torch.nn.Linear(2, 2)


@pytest.fixture(autouse=True)
def _no_trust() -> Iterator[None]:
    yield
    checkpoint.trust(False)


def test_mmengine_records_load(tmp_path: Path) -> None:
    """What mmengine's runner, hooks and data sets put into a checkpoint comes back."""
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    saved = {'history': history, 'scalar': np.float32(0.5), 'integer': np.int64(3), 'array': np.arange(3),
             'bool': np.array([True]), 'names': np.array(['a', 'bc']), 'cfg': ConfigDict(a={'b': 1}),
             'path': tmp_path, 'state_dict': {'w': torch.ones(2)}}
    torch.save(saved, tmp_path / 'a.pth')
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))
    assert loaded['history'].mean() == 1.5 and loaded['history'].statistics('max') == 2
    assert loaded['scalar'] == np.float32(0.5) and type(loaded['scalar']) is np.float32 and loaded['integer'] == 3
    assert np.array_equal(loaded['array'], saved['array']) and loaded['bool'].dtype == bool
    assert loaded['names'].tolist() == ['a', 'bc'] and loaded['cfg'].a.b == 1
    assert loaded['path'] == tmp_path and torch.equal(loaded['state_dict']['w'], torch.ones(2))


def test_numpy_spellings(tmp_path: Path) -> None:
    """Files written under numpy 1 and numpy 2 name the same functions differently; both load."""
    for name in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        data = pickle.dumps(np.float64(2.5), protocol=2)
        for other in (b'numpy._core.multiarray', b'numpy.core.multiarray'):
            data = data.replace(b'c' + other + b'\n', b'c' + name.encode() + b'\n')
        assert name.encode() in data
        file = tmp_path / 'legacy.pth'
        with file.open('wb') as stream:  # torch's format before 1.6: magic, protocol, system, object, storages
            for part in (0x1950a86a20f9469cfc6c, 1001, {'little_endian': True}):
                pickle.dump(part, stream, protocol=2)
            stream.write(data)
            pickle.dump([], stream, protocol=2)
        assert checkpoint.read(file) == 2.5


@pytest.mark.parametrize('raw', [False, True])
def test_foreign_code_does_not_run(tmp_path: Path, raw: bool) -> None:
    """A pickle that would create a file is refused by name and creates nothing; trusting the file is explicit."""
    trace, file = tmp_path / 'trace', tmp_path / 'evil.pth'
    evil = {'state_dict': {}, 'x': Evil(trace)}
    file.write_bytes(pickle.dumps(evil)) if raw else torch.save(evil, file)
    with pytest.raises(checkpoint.CheckpointError, match='not weights') as caught:
        CheckpointLoader.load_checkpoint(str(file))
    assert not trace.exists()
    message = str(caught.value)
    assert str(file) in message and '--trust-checkpoint' in message and '\n' not in message
    assert 'getattr' in message or 'pathlib' in message
    if not raw:
        checkpoint.trust(file)
        CheckpointLoader.load_checkpoint(str(file))
        assert trace.exists()


def test_getattr_reaches_nothing_but_statistics(tmp_path: Path) -> None:
    """mmengine's files use getattr; a hostile one cannot use it for anything else."""
    class Reach:
        def __reduce__(self) -> tuple:
            return getattr, (HistoryBuffer, '__init__')
    torch.save({'x': Reach()}, tmp_path / 'a.pth')
    with pytest.raises(checkpoint.CheckpointError, match=r'builtins\.getattr'):
        checkpoint.read(tmp_path / 'a.pth')


def test_trust_is_per_file(tmp_path: Path) -> None:
    """Trust of one file does not extend to another; True covers all; False takes it back."""
    checkpoint.trust(tmp_path / 'a.pth')
    assert checkpoint.is_trusted(tmp_path / 'b' / '..' / 'a.pth') and not checkpoint.is_trusted(tmp_path / 'b.pth')
    checkpoint.trust(True)
    assert checkpoint.is_trusted('anything')
    checkpoint.trust(False)
    assert not checkpoint.is_trusted(tmp_path / 'a.pth')


def _bad(folder: Path, kind: str) -> Path:
    """Make a file that is no checkpoint."""
    file = folder / 'x.pth'
    if kind == 'folder':
        file.mkdir()
        torch.save({}, file / 'epoch_1.pth')
    elif kind != 'missing':
        torch.save({'state_dict': {'w': torch.randn(1000)}}, file)
        whole = file.read_bytes()
        file.write_bytes({'truncated': whole[:2000], 'empty': b'', 'page': b'\n<!DOCTYPE html><html></html>',
                          'json': b'{"a": 1}', 'lfs': b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n',
                          'noise': b'\x00\x01 no checkpoint'}[kind])
    return file


BAD = {'missing': 'does not exist', 'folder': 'is a folder', 'truncated': 'truncated', 'empty': 'empty',
       'page': 'web page', 'json': 'JSON file', 'lfs': 'git lfs pull', 'noise': 'cannot be read'}


@pytest.mark.parametrize('kind', BAD)
def test_bad_files_are_named(tmp_path: Path, kind: str) -> None:
    """load_from, resume (both through the loader) and init_cfg answer with one sentence that names the file."""
    file = _bad(tmp_path, kind)
    for load in (lambda: load_checkpoint(Net(), str(file)),
                 lambda: Net({'type': 'Pretrained', 'checkpoint': str(file)}).init_weights()):
        with pytest.raises(checkpoint.CheckpointError, match=BAD[kind]) as caught:
            load()
        assert str(file) in str(caught.value) and '\n' not in str(caught.value)
        assert isinstance(caught.value, FileNotFoundError) == (kind == 'missing')


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    """A misspelt name is answered with the files that are there."""
    torch.save({}, tmp_path / 'epoch_12.pth')
    with pytest.raises(checkpoint.MissingCheckpointError, match=r'holds epoch_12\.pth'):
        checkpoint.read(tmp_path / 'epoch_21.pth')


def test_damage_inside_is_found_by_check_sums(tmp_path: Path) -> None:
    """A flipped byte in the weights: the quick look passes, the deep one does not."""
    file = tmp_path / 'a.pth'
    torch.save({'w': torch.zeros(4000)}, file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xff
    file.write_bytes(data)
    assert checkpoint.damage(file) is None
    assert 'damaged' in checkpoint.damage(file, deep=True)


def test_safetensors(tmp_path: Path) -> None:
    """The format is read without the package, straight into a model; a cut file is named."""
    tensors = {'layer.weight': torch.randn(2, 2), 'layer.bias': torch.randn(2), 'none': torch.zeros(0, 3),
               'half': torch.ones(3).bfloat16()}
    header, data = {'__metadata__': {'format': 'pt'}}, b''
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b''
        dtype = 'BF16' if tensor.dtype == torch.bfloat16 else 'F32'
        header[name] = {'dtype': dtype, 'shape': list(tensor.shape), 'data_offsets': [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    file = tmp_path / 'w.safetensors'
    file.write_bytes(len(text).to_bytes(8, 'little') + text + data)
    loaded = checkpoint.read(file, 'cpu')
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    net = Net()
    load_checkpoint(net, str(file))
    assert torch.equal(net.layer.weight, tensors['layer.weight'])
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(checkpoint.CheckpointError, match='not a complete safetensors'):
        checkpoint.read(file)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine that serves ``tmp_path/web``."""
    (tmp_path / 'web').mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, directory=str(tmp_path / 'web'), **kwargs)

        def log_message(self, *args) -> None:
            pass
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{web.server_port}'
        web.shutdown()


def test_urls(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads are cached, checked like local files, and their failure says where to put the file."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    torch.save({'w': torch.ones(1)}, tmp_path / 'web' / 'good.pth')
    torch.save({'x': Evil(tmp_path / 'trace')}, tmp_path / 'web' / 'evil.pth')
    assert CheckpointLoader.load_checkpoint(f'{server}/good.pth')['w'] == 1
    cache = Path(torch.hub.get_dir()) / 'checkpoints'
    assert (cache / 'good.pth').is_file()
    with pytest.raises(checkpoint.CheckpointError, match='not weights'):
        CheckpointLoader.load_checkpoint(f'{server}/evil.pth')
    assert not (tmp_path / 'trace').exists()
    with pytest.raises(checkpoint.CheckpointError) as caught:
        CheckpointLoader.load_checkpoint(f'{server}/absent.pth')
    assert str(cache / 'absent.pth') in str(caught.value) and not (cache / 'absent.pth').exists()


def test_torchvision_names_without_torchvision() -> None:
    """``torchvision://resnet50`` resolves with torchvision absent or built for another torch."""
    def broken() -> dict:
        raise RuntimeError('operator torchvision::nms does not exist')
    assert checkpoint.torchvision_urls(broken)['resnet50'].startswith('https://download.pytorch.org/models/resnet50')
    assert checkpoint.torchvision_urls(lambda: {'a': 'b'}) == {'a': 'b'}


def test_install_twice_changes_nothing() -> None:
    """setup() is idempotent."""
    from mmengine.runner import checkpoint as stock
    before = stock.get_torchvision_models, stock.save_checkpoint
    compat.setup()
    assert before == (stock.get_torchvision_models, stock.save_checkpoint)
