"""The data sets of a config behind their wrappers, with classes, files and filters read from the config alone."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .finding import Key, dotted
from .resolve import resolve

SPLITS = ('train', 'val', 'test')


@dataclass(frozen=True)
class Leaf:
    """One data set that reads files.

    Args:
        split: ``'train'``, ``'val'`` or ``'test'``.
        key: Key path of its dict.
        cfg: Its dict.
        target: Its class, None if that could not be found.
    """

    split: str
    key: Key
    cfg: dict
    target: type | None

    @property
    def where(self) -> str:
        """Dotted key."""
        return dotted(self.key)

    @property
    def required(self) -> str:
        """Level of a finding about missing files: a test set may well come later than training."""
        return 'warning' if self.split == 'test' else 'error'

    def is_a(self, *names: str) -> bool:
        """Whether the class or one of its parents has one of these names."""
        return self.target is not None and any(cls.__name__ in names for cls in self.target.__mro__)

    def value(self, name: str, default: Any = None) -> Any:
        """Value of an argument: from the config, else the default of the class that declares it."""
        if name in self.cfg:
            return self.cfg[name]
        for cls in self.target.__mro__ if self.target else ():
            parameter = inspect.signature(cls.__init__).parameters.get(name) if '__init__' in vars(cls) else None
            if parameter is not None and parameter.default is not inspect.Parameter.empty:
                return parameter.default
        return default

    def own_metainfo(self) -> dict:
        """What the config says; empty if it leaves the class's default."""
        meta = self.cfg.get('metainfo')
        return meta if isinstance(meta, dict) else {}

    def default_classes(self) -> tuple[str, ...]:
        """Classes that the data set's class declares."""
        return tuple(getattr(self.target, 'METAINFO', {}).get('classes') or ())

    def classes(self) -> tuple[str, ...]:
        """Classes in use; a file of names is read; a string that is not a file counts as absent."""
        named = self.own_metainfo().get('classes')
        if isinstance(named, str):
            path = Path(named)
            return tuple(path.read_text('utf-8').split('\n')[:-1 or None]) if path.is_file() else ()
        return tuple(named) if named is not None else self.default_classes()

    def path(self, name: str) -> Path | None:
        """A file or folder argument joined to ``data_root`` as mmengine does; None if it is not set."""
        value = self.cfg.get('data_prefix', {}).get(name) if name != 'ann_file' else self.value('ann_file')
        if name != 'ann_file' and value is None and isinstance(self.value('data_prefix'), dict):
            value = self.value('data_prefix').get(name)
        if value is None or (name == 'ann_file' and not value):
            return None
        return Path(self.cfg.get('data_root') or '') / value

    def identity(self) -> tuple:
        """Equal for data sets that read the same files."""
        return (self.cfg.get('type'), self.cfg.get('data_root'), str(self.cfg.get('ann_file')),
                str(self.cfg.get('data_prefix')), self.classes())


def leaves(cfg: Config) -> list[Leaf]:
    """List the data sets of the train, val and test loaders behind RepeatDataset, ConcatDataset and the like."""
    scope = cfg.get('default_scope') or 'mmengine'
    found = []
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader')
        if isinstance(loader, dict) and isinstance(loader.get('dataset'), dict):
            found += _unwrap(loader['dataset'], (f'{split}_dataloader', 'dataset'), split, scope)
    return found


def _unwrap(dataset: dict, key: Key, split: str, scope: str) -> Iterator[Leaf]:
    """Yield the leaves below one dict."""
    if isinstance(dataset.get('dataset'), dict):
        yield from _unwrap(dataset['dataset'], (*key, 'dataset'), split, scope)
    elif isinstance(dataset.get('datasets'), (list, tuple)):
        for i, part in enumerate(dataset['datasets']):
            if isinstance(part, dict):
                yield from _unwrap(part, (*key, 'datasets', i), split, scope)
    elif dataset.get('type'):
        target = resolve(dataset['type'], dataset.get('_scope_') or scope, ('DATASETS',), strict=True).target
        yield Leaf(split, key, dataset, target if inspect.isclass(target) else None)


def pipeline_argument(leaf: Leaf, transform: str, name: str, default: Any = None) -> Any:
    """Value of an argument of the first pipeline step whose type ends with ``transform``."""
    for step in leaf.cfg.get('pipeline') or []:
        if isinstance(step, dict) and str(step.get('type', '')).endswith(transform):
            return step.get(name, default)
    return default
