"""Where a model comes from: a config file, one of an installed toolbox, a ``Config``, a dict, or a built model."""

import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from mmpapers.config_tree import walk
from mmpapers.distill.errors import DistillError

Source = str | Path | Config | dict | nn.Module


def model_config(source: Source, key: str, folders: tuple[str | Path, ...] = ('.',)) -> dict:
    """The self-contained config of a model.

    Args:
        source: A config file (path, or ``mmdet::retinanet/x.py`` of an installed toolbox), a ``Config``, or the dict of
            a whole config or of a model.
        key: Key of the config that holds the source, for messages.
        folders: Where relative paths are looked for.

    Returns:
        A copy of the model's dict with its preprocessor and, where the config states one, its scope as ``_scope_``.

    Raises:
        DistillError: If there is no such file or no model in it.
    """
    if isinstance(source, str | Path):
        source = _read(str(source), key, folders)
    if isinstance(source, dict) and 'type' in source:
        return copy.deepcopy(dict(source))
    model = source.get('model') if isinstance(source, dict | Config) else None
    if not model:
        raise DistillError(f'{key} holds no `model`; give a config that can be trained, not {type(source).__name__} '
                           f'{str(source)[:80]!r}')
    model = copy.deepcopy(dict(model))
    if source.get('data_preprocessor') and not model.get('data_preprocessor'):
        model['data_preprocessor'] = copy.deepcopy(source['data_preprocessor'])
    if source.get('default_scope'):
        model.setdefault('_scope_', source['default_scope'])
    if 'student' in model:  # a distilled student is a model like any other
        return model_config(model['student'], f'{key}: model.student', folders)
    return model


def _read(text: str, key: str, folders: tuple[str | Path, ...]) -> Config:
    """Read a config file."""
    if '::' in text:
        from mmengine.hub import get_config
        try:
            return get_config(text)
        except Exception as error:
            raise DistillError(f'{key}={text!r}: {" ".join(str(error).split())}') from error
    tried = [Path(text)] if Path(text).is_absolute() else [Path(folder) / text for folder in dict.fromkeys(folders)]
    path = next((path for path in tried if path.is_file()), None)
    if path is None:
        raise DistillError(f'{key}={text!r} does not exist (looked for {", ".join(map(str, tried))}); give the '
                           "path of a config, or of an installed one, 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'")
    return Config.fromfile(path)


def build(source: Source, key: str, pretrained: bool = True, data_preprocessor: dict | None = None) -> nn.Module:
    """Build a model.

    Args:
        source: See :func:`model_config`; a built model is returned as it is.
        key: Key of the config that holds the source, for messages.
        pretrained: Keep ``init_cfg`` entries that load weights; a model that is about to be loaded needs none.
        data_preprocessor: Used where the model has none.
    """
    if isinstance(source, nn.Module):
        return source
    cfg = model_config(source, key)
    if data_preprocessor is not None and not cfg.get('data_preprocessor'):
        cfg['data_preprocessor'] = copy.deepcopy(data_preprocessor)
    if not pretrained:
        for _, node in list(walk(cfg)):
            if isinstance(node, dict) and _loads(node.get('init_cfg')):
                node['init_cfg'] = None
            if isinstance(node, dict) and isinstance(node.get('pretrained'), str):
                node['pretrained'] = None
    return MODELS.build(Config(dict(model=cfg)).model)  # models read nested dicts as attributes


def _loads(init: Any) -> bool:
    """Whether an ``init_cfg`` reads a checkpoint."""
    return isinstance(init, dict) and 'Pretrained' in str(init.get('type'))
