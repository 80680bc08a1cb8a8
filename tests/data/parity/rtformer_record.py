"""Record what PaddleSeg's RTFormer computes on seeded weights, where paddlepaddle and its requirements are installed:

PYTHONPATH=<checkout of PaddlePaddle/PaddleSeg at d7975e7c> python tests/data/parity/rtformer_record.py

No weights are stored: :func:`weight` makes them again from their names.
"""

import json
import zlib
from pathlib import Path

import numpy as np

CLASSES = 19
SIZE = (90, 122)
PICKED = 300
MODELS = {
    'slim': dict(base_channels=32, head_channels=64, use_injection=[True, True]),
    'base': dict(base_channels=64, head_channels=128, use_injection=[True, False]),
}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a parameter or buffer from a generator seeded with the CRC-32 of its official name."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith('._variance') or len(shape) == 1 and name.endswith('.weight'):
        values = generator.uniform(0.5, 1., shape)
    elif len(shape) == 1:
        values = 0.1 * generator.standard_normal(shape)
    else:
        values = generator.standard_normal(shape) * np.prod(shape[1:]) ** -0.5
    return values.astype(np.float32)


def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images (2, 3, H, W), labels (2, H, W) with some 255, and indices of the logits that are recorded."""
    generator = np.random.default_rng(1)
    images = generator.standard_normal((2, 3, *SIZE)).astype(np.float32)
    labels = generator.integers(0, CLASSES, (2, *SIZE))
    labels[:, :7] = 255
    return images, labels, np.random.default_rng(2).integers(0, 2 * CLASSES * SIZE[0] * SIZE[1], PICKED)


def record(settings: dict) -> tuple[dict[str, np.ndarray], dict]:
    """Run the official network forward and backward; return the recorded arrays and the names with their shapes."""
    import paddle
    from paddleseg.models.losses import CrossEntropyLoss
    from paddleseg.models.rtformer import RTFormer
    paddle.set_device('cpu')
    model = RTFormer(CLASSES, drop_path_rate=0., **settings)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    model.set_state_dict({name: paddle.to_tensor(weight(name, tuple(shape))) for name, shape in shapes.items()})
    images, labels, picked = batch()
    model.eval()
    with paddle.no_grad():
        predicted, = model(paddle.to_tensor(images))
    model.train()
    logits = model(paddle.to_tensor(images))
    losses = [factor * CrossEntropyLoss()(x, paddle.to_tensor(labels)) for factor, x in zip((1, 0.4), logits)]
    sum(losses).backward()
    gradients = {name: np.linalg.norm(parameter.grad.numpy().astype(np.float64))
                 for name, parameter in model.named_parameters() if not parameter.stop_gradient}
    arrays = dict(
        predict=predicted.numpy().ravel()[picked],
        main=logits[0].numpy().ravel()[picked],
        auxiliary=logits[1].numpy().ravel()[picked],
        losses=np.array([float(x) for x in losses]),
        gradients=np.array([*gradients.values()], np.float32),
        running_means=np.array([value.numpy().mean() for name, value in model.state_dict().items()
                                if name.endswith('._mean')]))
    return arrays, dict(shapes=shapes, gradients=[*gradients])


def main() -> None:
    """Write rtformer.npz and rtformer_tiny.pdparams beside this file."""
    import paddle
    here = Path(__file__).parent
    arrays, names = {}, {}
    for model, settings in MODELS.items():
        found, names[model] = record(settings)
        arrays.update({f'{model}_{key}': value for key, value in found.items()})
    provenance = dict(
        repository='PaddlePaddle/PaddleSeg', commit='d7975e7cb3b9102eae4eabcef5afb81b878473aa',
        file='paddleseg/models/rtformer.py', paddlepaddle=paddle.__version__, numpy=np.__version__, device='CPU',
        command='PYTHONPATH=<PaddleSeg> python tests/data/parity/rtformer_record.py')
    np.savez_compressed(here / 'rtformer.npz', names=json.dumps(names), provenance=json.dumps(provenance), **arrays)
    tiny = paddle.nn.Sequential(paddle.nn.Conv2D(1, 2, 1), paddle.nn.BatchNorm2D(2))
    paddle.save({name: paddle.to_tensor(weight(name, tuple(value.shape)))
                 for name, value in tiny.state_dict().items()}, str(here / 'rtformer_tiny.pdparams'))


if __name__ == '__main__':
    main()
