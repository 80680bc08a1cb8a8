"""The teacher: completely loaded, frozen, outside of what is trained or saved, and run no further than needed."""

import os
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmpapers.compat import checkpoint as checkpoints
from mmpapers.distill import network, sources
from mmpapers.distill.errors import DistillError
from mmpapers.distill.taps import Record, Taps

UNTRAINED = ('random', 'init_cfg')
_SHOWN = 8
_normalisations: weakref.WeakKeyDictionary[nn.Module, tuple[bool, list[float], list[float]]] = \
    weakref.WeakKeyDictionary()


class Teacher:
    """A frozen model whose features are read.

    It is no ``nn.Module``, so that it is in no ``parameters()``, ``state_dict()``, optimizer, EMA copy or DDP bucket of
    the student that holds it. Every module of it stays in eval mode.

    Args:
        source: Where the model comes from (:mod:`mmpapers.distill.sources`); a built model counts as trained.
        checkpoint: File or URL of its weights. ``'random'`` and ``'init_cfg'`` (pretrained backbone) stand for
            untrained teachers and must be said.
        strict: Refuse a checkpoint that does not fill the model completely. False loads what fits.

    Raises:
        DistillError: If there is no checkpoint, or it does not fit.
    """

    def __init__(self, source: sources.Source, checkpoint: str | os.PathLike | None, strict: bool = True) -> None:
        self.checkpoint = checkpoint
        built = isinstance(source, nn.Module)
        if checkpoint is None and not built:
            raise DistillError('distill.checkpoint is missing: a teacher needs trained weights. Give their file; an '
                               "untrained teacher must be asked for with checkpoint='random' (or 'init_cfg': "
                               'pretrained backbone only)')
        self.cfg = None if built else sources.model_config(source, 'distill.teacher')
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # an untrained teacher is the same one after resuming
            model = source if built else sources.build(self.cfg, 'distill.teacher', pretrained=checkpoint == 'init_cfg')
            if checkpoint == 'init_cfg':
                model.init_weights()
        if checkpoint is not None and checkpoint not in UNTRAINED:
            load(model, os.fspath(checkpoint), strict)
        self.model = model.requires_grad_(False).eval()
        self.watch(())

    def watch(self, taps: Sequence[str], roi_taps: Sequence[str] = ()) -> None:
        """Choose what is read.

        Args:
            taps: Taps of the network's pass; a pass ends at the last of them.
            roi_taps: Taps of the box head, which is run on the student's boxes (:meth:`on_boxes`).

        Raises:
            TapError: If a tap does not exist in the model.
        """
        self.taps = Taps(self.model, taps, 'teacher')
        self.roi_taps = Taps(self.model, roi_taps, 'teacher')

    def __deepcopy__(self, memo: dict) -> 'Teacher':
        """An averaged copy of a student shares its teacher."""
        return self

    def rehearse(self) -> Record:
        """Run on random input and learn where the pass may end.

        Returns:
            What all taps saw.

        Raises:
            TapError: If a tap is never reached.
            DistillError: If the weights give values that are not finite.
        """
        with self.taps.recording(self.model) as record, self.roi_taps.recording(self.model) as rois:
            network.rehearse(self.model, self.cfg, self.taps.auxiliary)
        self.taps.learn(record)
        self.roi_taps.learn(rois)
        record.values.update(rois.values)
        for text, tensors in record.values.items():
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
                raise DistillError(f'the teacher gives NaN or infinite values at {text!r} on random input: its weights '
                                   f'({self.checkpoint}) are broken, or belong to another architecture')
        return record

    def __call__(self, inputs: Any, samples: Sequence, student: nn.Module | None = None) -> Record:
        """Run up to the last tap, without gradients and without labels.

        Args:
            inputs: The student's preprocessed inputs: images (B, 3, H, W), or mmdet3d's dict.
            samples: Data samples of the batch, for their meta information.
            student: The student's preprocessor, to undo its normalisation where the teacher's differs.

        Returns:
            What the taps saw.
        """
        with torch.no_grad(), self.taps.recording(self.model, stop=True) as record:
            network.run(self.model, self.translate(inputs, samples, student), samples, self.taps.auxiliary)
        self.taps.verify(record)
        return record

    def on_boxes(self, features: Sequence[Tensor], rois: Tensor, stage: int = 0) -> Record:
        """Run the box head on boxes that the student chose (RoI delivery).

        Args:
            features: The teacher's neck levels for the same images.
            rois: Boxes (N, 5) as (image index, x1, y1, x2, y2) in pixels of the network's input.
            stage: Stage of a cascade.

        Returns:
            What the box head's taps saw, one row a box.
        """
        head = self.model.roi_head
        extractor, box_head = head.bbox_roi_extractor, head.bbox_head
        if isinstance(box_head, nn.ModuleList):
            extractor, box_head = extractor[stage], box_head[stage]
        kind = next(box_head.parameters()).dtype  # features come in half precision out of autocast
        levels = tuple(level.to(kind) for level in features[:extractor.num_inputs])
        with torch.no_grad(), self.roi_taps.recording(self.model, stop=True) as record:
            pooled = extractor(levels, rois.to(kind))
            if head.with_shared_head:
                pooled = head.shared_head(pooled)
            box_head(pooled)
        return record

    def translate(self, inputs: Any, samples: Sequence, student: nn.Module | None) -> Any:
        """The student's inputs as the teacher's preprocessor would have made them.

        Images are re-normalised where mean, std or channel order differ, and padding stays zero; point clouds are
        voxelised again where voxels differ, and copied where not.
        """
        own = getattr(self.model, 'data_preprocessor', None)
        known = student is not None and own is not None
        if not isinstance(inputs, dict):
            return renormalise(inputs, samples, student, own) if known else inputs
        out = dict(inputs)
        if known and out.get('imgs') is not None:
            out['imgs'] = renormalise(out['imgs'], samples, student, own)
        if known and getattr(own, 'voxel', False) and _voxels(own) != _voxels(student):
            out['voxels'] = own.voxelize(out['points'], list(samples))
        elif out.get('voxels') is not None:  # mmdet3d's pillar encoder writes into what it is given
            out['voxels'] = {name: value.clone() if isinstance(value, Tensor) else value
                             for name, value in out['voxels'].items()}
        return out

    def apply(self, function: Any) -> None:
        """Move or cast the model along with the student."""
        self.model._apply(function)


def load(model: nn.Module, checkpoint: str, strict: bool = True) -> None:
    """Load a teacher's weights completely.

    Args:
        model: Changed in place.
        checkpoint: File or URL: a checkpoint of mmengine, or a bare state dict.
        strict: Whether every key must be there and fit.

    Raises:
        DistillError: Naming the keys that are missing, unexpected or of another shape.
    """
    try:
        content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    except (OSError, RuntimeError) as error:
        raise DistillError(f'distill.checkpoint={checkpoint!r}: {error}') from error
    state = checkpoints.renamed(content.get('state_dict', content) if isinstance(content, dict) else content,
                                lambda key: key.removeprefix('module.'))
    own = model.state_dict()
    wrong = {key: f'{tuple(value.shape)} instead of {tuple(own[key].shape)}' for key, value in state.items()
             if key in own and value.shape != own[key].shape}
    fitting = checkpoints.renamed(state, lambda key: None if key in wrong else key)
    found = model.load_state_dict(fitting, strict=False)
    missing = [key for key in found.missing_keys if key not in wrong and 'num_batches_tracked' not in key]
    if not (wrong or missing or found.unexpected_keys):
        return
    parts = [f'{len(keys)} {kind}: {", ".join(keys[:_SHOWN])}{" ..." if len(keys) > _SHOWN else ""}' for kind, keys in (
        ('keys of the model are missing', missing), ('keys are not in the model', list(found.unexpected_keys)),
        ('shapes differ', [f'{key} {text}' for key, text in wrong.items()])) if keys]
    fit = len(fitting) - len(found.unexpected_keys)
    text = (f'{checkpoint} does not fill the teacher {type(model).__name__} ({fit} of {len(own)} entries fit). '
            f'{". ".join(parts)}.')
    if strict:
        raise DistillError(f'{text} Give the checkpoint that belongs to distill.teacher; strict=False loads what fits.')
    from mmengine.logging import print_log
    print_log(f'strict=False: {text} What is missing keeps its random values.', logger='current', level=30)


def renormalise(images: Tensor, samples: Sequence, student: nn.Module, teacher: nn.Module) -> Tensor:
    """Undo one preprocessor's normalisation and apply another's.

    Args:
        images: (B, 3, H, W), or (B, N, 3, H, W) for N cameras, as the student's preprocessor left them.
        samples: Data samples, whose ``img_shape`` says what is image and what padding.
        student: The student's preprocessor.
        teacher: The teacher's.

    Returns:
        The teacher's images; ``images`` itself if both preprocessors do the same.
    """
    theirs, ours = _normalisation(student), _normalisation(teacher)
    if theirs == ours:
        return images
    (swapped, mean, std), (swap, new_mean, new_std) = theirs, ours
    column = images.new_tensor
    shape = (3, 1, 1)
    out = images * column(std).view(shape) + column(mean).view(shape)
    if swapped != swap:
        out = out.flip(-3)
    out = (out - column(new_mean).view(shape)) / column(new_std).view(shape)
    for image, sample in zip(out, samples):
        size = sample.metainfo.get('img_shape')
        if size is not None and len(size) >= 2 and isinstance(size[0], int):
            image[..., size[0]:, :] = 0
            image[..., size[1]:] = 0
    return out


def _normalisation(preprocessor: nn.Module) -> tuple[bool, list[float], list[float]]:
    """Whether channels are swapped, mean and std; read once, since reading them waits for a GPU."""
    if preprocessor not in _normalisations:
        _normalisations[preprocessor] = _read_normalisation(preprocessor)
    return _normalisations[preprocessor]


def _read_normalisation(preprocessor: nn.Module) -> tuple[bool, list[float], list[float]]:
    swapped = bool(getattr(preprocessor, '_channel_conversion', getattr(preprocessor, 'channel_conversion', False)))
    if not getattr(preprocessor, '_enable_normalize', False):
        return swapped, [0.] * 3, [1.] * 3
    mean, std = preprocessor.mean.flatten().tolist(), preprocessor.std.flatten().tolist()
    return swapped, mean * (3 // len(mean)), std * (3 // len(std))


def _voxels(preprocessor: nn.Module) -> Any:
    """What decides how a preprocessor makes voxels."""
    layer = getattr(preprocessor, 'voxel_layer', None)
    return getattr(preprocessor, 'voxel_type', None), repr(layer)
