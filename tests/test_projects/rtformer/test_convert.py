"""Reading ``.pdparams`` files, refusing what is none, renaming, the report and the command."""

import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmpapers
from mmpapers.projects.rtformer.convert import convert, main, read_pdparams, rename

pytestmark = pytest.mark.seg
REPOSITORY = Path(mmpapers.__file__).resolve().parents[1]
PARITY = REPOSITORY / 'tests/data/parity'
TINY = REPOSITORY / 'projects/rtformer/configs/rtformer_tiny-cpu.py'


def _tiny_model() -> torch.nn.Module:
    init_default_scope('mmseg')
    return MODELS.build(Config.fromfile(TINY).model)


def _official_weights(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Official names, as recorded from the official network, with the shapes of a model."""
    names = json.loads(str(np.load(PARITY / 'rtformer.npz')['names']))['slim']['shapes']
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shapes[rename(name)]).astype(np.float32) for name in names}


def _write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_reads_what_paddle_wrote() -> None:
    spec = importlib.util.spec_from_file_location('rtformer_record', PARITY / 'rtformer_record.py')
    recorder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recorder)
    state = read_pdparams(PARITY / 'rtformer_tiny.pdparams')
    assert set(state) == {'0.weight', '0.bias', '1.weight', '1.bias', '1._mean', '1._variance'}
    for name, value in state.items():
        np.testing.assert_array_equal(value, recorder.weight(name, value.shape))


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_reads_every_protocol(tmp_path: Path, protocol: int) -> None:
    weights = {'a': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': np.array(2, np.int64)}
    state = read_pdparams(_write(tmp_path / 'w', {**weights, 'StructuredToParameterName@@': {'a': 'x'}}, protocol))
    assert set(state) == {'a', 'b'}
    for name in weights:
        np.testing.assert_array_equal(state[name], weights[name])


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_runs_no_code_of_the_file(tmp_path: Path) -> None:
    mark = tmp_path / 'mark'
    path = _write(tmp_path / 'evil.pdparams', {'a': _Malicious(mark)})
    with pytest.raises(ValueError, match='it asks for .*, and weights need numpy arrays only'):
        read_pdparams(path)
    assert not mark.exists()


def test_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    whole = _write(tmp_path / 'whole', {'a': np.zeros(1000, np.float32)})
    cut = tmp_path / 'cut'
    cut.write_bytes(whole.read_bytes()[:500])
    text = tmp_path / 'text'
    text.write_text('<html>not found</html>')
    for path in (cut, text):
        with pytest.raises(ValueError, match=f'{path.name} is not a .pdparams state dict or is damaged'):
            read_pdparams(path)
    with pytest.raises(ValueError, match='holds no state dict of arrays: a is a float'):
        read_pdparams(_write(tmp_path / 'number', {'a': 1.}))
    with pytest.raises(ValueError, match='holds no state dict of arrays: found a list'):
        read_pdparams(_write(tmp_path / 'list', [1]))


@pytest.mark.parametrize('official, ours', [
    ('conv1.3.weight', 'backbone.stem.3.weight'),
    ('layer2.0.downsample.1._mean', 'backbone.layer2.0.downsample.1.running_mean'),
    ('layer3_.0.bn2._variance', 'backbone.layer3_high.conv2.bn.running_var'),
    ('compression3.2.weight', 'backbone.compression.conv.weight'),
    ('layer4.attn_l.k', 'backbone.layer4.low_attention.key'),
    ('layer5.cross_kv.2.weight', 'backbone.layer5.high_attention.kv.2.weight'),
    ('layer4.down.3.bias', 'backbone.layer4.injection.1.bn.bias'),
    ('layer5.mlp_h.conv1.bias', 'backbone.layer5.high_mlp.conv1.bias'),
    ('spp.scale4.3.weight', 'backbone.spp.scales.4.1.conv.weight'),
    ('spp.process1.0.weight', 'backbone.spp.processes.0.bn.weight'),
    ('seghead.conv2.bias', 'decode_head.conv_seg.bias'),
    ('seghead_extra.bn1.weight', 'auxiliary_head.conv.bn.weight'),
])
def test_rename(official: str, ours: str) -> None:
    assert rename(official) == ours


def test_report_names_what_does_not_fit() -> None:
    model = _tiny_model()
    weights = _official_weights(model)
    del weights['conv1.0.weight']
    weights['head.fc.weight'] = np.zeros((2, 2), np.float32)
    weights['layer4.attn_l.k'] = np.zeros((3, 3, 1, 1), np.float32)
    state, report = convert(weights, model)
    assert not report.complete
    assert report.unused == ['head.fc.weight'] and report.missing == ['backbone.stem.0.weight']
    assert list(report.misshapen) == ['layer4.attn_l.k']
    assert 'backbone.layer4.low_attention.key' not in state
    assert len(report.used) == len(weights) - 2
    assert str(report).splitlines() == [
        f'used {len(weights) - 2}, unused 1, missing 1, of another shape 1',
        '  unused     head.fc.weight',
        '  missing    backbone.stem.0.weight',
        '  shape      layer4.attn_l.k: [3, 3, 1, 1] in the file, [64, 32, 1, 1] in backbone.layer4.low_attention.key']


def test_command_writes_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model, out = _tiny_model(), tmp_path / 'out.pth'
    weights = _official_weights(model)
    assert main([str(_write(tmp_path / 'w.pdparams', weights)), str(TINY), str(out)]) == 0
    assert f'used {len(weights)}, unused 0, missing 0' in capsys.readouterr().out
    model.load_state_dict(torch.load(out, weights_only=True)['state_dict'], strict=True)
    np.testing.assert_array_equal(model.backbone.layer4.low_attention.key.detach(), weights['layer4.attn_l.k'])


def test_command_asks_before_it_writes_a_part(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / 'out.pth'
    weights = {n: w for n, w in _official_weights(_tiny_model()).items() if not n.startswith(('spp', 'seghead'))}
    arguments = [str(_write(tmp_path / 'w.pdparams', weights)), str(TINY), str(out)]
    assert main(arguments) == 1 and not out.exists()
    assert 'missing    decode_head.conv_seg.weight' in capsys.readouterr().out
    assert main([*arguments, '--partial']) == 0
    other = str(_write(tmp_path / 'other.pdparams', {'fc.weight': np.zeros((2, 2), np.float32)}))
    assert main([other, *arguments[1:], '--partial']) == 1, 'nothing fits'
    assert set(torch.load(out, weights_only=True)['state_dict']) >= {rename(n) for n in weights}


def test_command_names_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path / 'absent.pdparams'), str(TINY), str(tmp_path / 'out.pth')])
    assert exit_.value.code == 2 and 'absent.pdparams' in capsys.readouterr().err
