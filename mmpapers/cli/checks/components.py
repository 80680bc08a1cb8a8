"""Every ``dict(type=...)`` of a config against the class it names: unknown types, unknown and missing arguments."""

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from inspect import isclass
from typing import Any

from mmengine.config import Config

from .finding import Finding, Key, assignment, did_you_mean, dotted, nearest
from .resolve import resolve
from .signatures import Signature, signature, words


@dataclass(frozen=True)
class Place:
    """What the runner builds at a place of the config.

    Args:
        pattern: Regular expression for the whole dotted key.
        symbols: Registries that it is built from.
        extra: Keys that the builder takes out before it calls the class, and arguments that it adds itself.
        default: Type that is meant when the dict has none.
        certain: Whether a required argument that is absent must be an error.
    """

    pattern: str
    symbols: tuple[str, ...]
    extra: frozenset[str] = frozenset()
    default: str = ''
    certain: bool = True


def _place(pattern: str, symbols: str, extra: str = '', default: str = '', certain: bool = True) -> Place:
    return Place(pattern, tuple(symbols.split()), frozenset(extra.split()), default, certain)


_LOADER = r'(train|val|test)_dataloader'
_DATASET = _LOADER + r'(\.\d+)?\.dataset(\.dataset|\.datasets\.\d+)*'
PLACES = (
    _place(r'default_hooks\.\w+|custom_hooks\.\d+', 'HOOKS', 'priority'),
    _place(rf'({_DATASET}\.(pipeline|transforms)|(\w+_)?pipeline|tta_pipeline)\.\d+(\.transforms(\.\d+)+)*',
           'TRANSFORMS'),
    _place(_DATASET, 'DATASETS'),
    _place(_LOADER + r'\.(sampler|batch_sampler)', 'DATA_SAMPLERS', 'dataset sampler batch_size seed'),
    _place('optim_wrapper', 'OPTIM_WRAPPERS', 'constructor paramwise_cfg optimizer', 'OptimWrapper'),
    _place(r'optim_wrapper\.optimizer', 'OPTIMIZERS', 'params'),
    _place(r'param_scheduler(\.\d+)?', 'PARAM_SCHEDULERS', 'convert_to_iter_based optimizer'),
    _place(r'(val|test)_evaluator(\.\d+|\.metrics(\.\d+)?)?', 'METRICS EVALUATOR'),
    _place(r'train_cfg', 'LOOPS', 'by_epoch runner dataloader'),
    _place(r'val_cfg', 'LOOPS', 'runner dataloader evaluator', 'ValLoop'),
    _place(r'test_cfg', 'LOOPS', 'runner dataloader evaluator', 'TestLoop'),
    _place('visualizer', 'VISUALIZERS', 'save_dir', 'Visualizer'),
    _place(r'(visualizer\.)?vis_backends\.\d+', 'VISBACKENDS', 'save_dir'),
    _place('log_processor', 'LOG_PROCESSORS', '', 'LogProcessor'),
    _place('distill', 'MODELS', 'student guard'),
    _place('model', 'MODELS'),
    _place('tta_model', 'MODELS', 'module'),
    _place('model_wrapper_cfg', 'MODEL_WRAPPERS', 'module', certain=False),
    _place(r'(.*\.)?init_cfg(\.\d+)?', 'WEIGHT_INITIALIZERS', 'override', certain=False),
    _place(r'(.*\.)?init_cfg(\.\d+)?\.override(\.\d+)?', 'WEIGHT_INITIALIZERS', 'name', certain=False),
    _place(r'model\.(.*\.)?(norm|bn)_cfg', 'MODELS', 'requires_grad', certain=False),
    _place(r'model\.(.*\.)?(dcn|conv_cfg)', 'MODELS', 'fallback_on_stride', certain=False),
    _place(r'(model|distill)\..*', 'MODELS TASK_UTILS', certain=False),
)
_COMPILED = tuple((re.compile(place.pattern), place) for place in PLACES)
# Places whose types no registry of the runner builds.
_NOT_BUILT = re.compile(r'(.*\.)?(nms|nms_cfg|backend_args|file_client_args|metainfo|env_cfg|paramwise_cfg)(\..*)?')
# Keys of the registry machinery, taken out before a class is called.
_MACHINERY = frozenset({'type', '_scope_', '_delete_'})


def check_components(cfg: Config) -> Iterator[Finding]:
    """Find unknown types, unknown arguments and missing required arguments.

    Args:
        cfg: The resolved config; its plain variables are judged where they are used.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    if 'model' not in cfg and not cfg.get('default_scope'):
        return  # a fragment, meant to be merged into a whole config
    for name in roots(cfg):
        yield from _below(cfg[name], (name,), scope, ())


def roots(cfg: Config) -> list[str]:
    """Top-level keys that are built, as opposed to variables that configs keep for reuse."""
    keys = ('model', 'distill', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg',
            'test_cfg',
            'optim_wrapper', 'param_scheduler', 'val_evaluator', 'test_evaluator', 'default_hooks', 'custom_hooks',
            'log_processor', 'visualizer', 'tta_model', 'tta_pipeline', 'data_preprocessor', 'model_wrapper_cfg')
    return [key for key in keys if cfg.get(key) is not None]


def _below(value: Any, key: Key, scope: str, owners: tuple[Callable, ...]) -> Iterator[Finding]:
    """Judge a value and everything inside it; ``owners`` are the components that it lies in, outermost first."""
    if isinstance(value, dict):
        if _NOT_BUILT.fullmatch(dotted(key)):
            return
        scope = value.get('_scope_') or scope
        place = next((place for pattern, place in _COMPILED if pattern.fullmatch(dotted(key))), None)
        if place is not None:
            target = yield from _judge(value, key, scope, place, owners)
            owners = owners if target is None else (*owners, target)
        for name in list(value.keys()):
            if not (name == 'transforms' and owners and owners[-1].__name__ == 'Albu'):  # albumentations' own
                yield from _below(value[name], (*key, name), scope, owners)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _below(item, (*key, i), scope, owners)


def _judge(value: dict, key: Key, scope: str, place: Place,
           owners: tuple[Callable, ...]) -> Generator[Finding, None, Callable | None]:
    """Judge one dict; return the class that it builds, if it builds one."""
    kind = value.get('type') or _default(value, key, place)
    if not kind or (key[-1] == 'optim_wrapper' and 'constructor' in value and 'type' not in value):
        return None
    found = resolve(kind, scope, place.symbols, strict=place.symbols[0] not in ('MODELS', 'WEIGHT_INITIALIZERS'))
    if found.target is None:
        if not _named_by(owners, place, kind):
            yield _unknown_type(kind, key, found.problem, found.hint)
        return None
    takes = signature(found.target)
    given = {name for name in value if isinstance(name, str)} - _MACHINERY - place.extra
    if not takes.open and (isclass(found.target) or place.certain):
        for name in sorted(given - set(takes.names)):
            if not _named_by(owners, place, name):
                yield _unknown_argument(kind, key, name, takes)
    elif takes.open:
        for name in sorted(given - set(takes.names)):
            close = nearest(name, takes.names, cutoff=0.85, n=1)
            if close and close[0] not in given and not _named_by((*owners, found.target), place, name):
                yield Finding('warning', dotted((*key, name)),
                              f'`{_name(kind)}` has no argument `{name}` of its own and passes it on; '
                              f'did you mean `{close[0]}`?', assignment((*key, close[0]), '...'))
    if place.certain:
        for name in sorted(takes.required - given - place.extra):
            yield Finding('error', dotted(key), f'`{_name(kind)}` needs the argument `{name}`, which is not given.',
                          assignment((*key, name), '...'))
    return found.target


def _named_by(owners: tuple[Callable, ...], place: Place, word: Any) -> bool:
    """Whether a model component around a dict handles a key or a type of it by itself."""
    return place.symbols[0] == 'MODELS' and any(word in words(owner) for owner in owners)


def _default(value: dict, key: Key, place: Place) -> str:
    """The type that the runner takes when a dict names none."""
    if key == ('train_cfg',) and value:
        return 'EpochBasedTrainLoop' if value.get('by_epoch', True) else 'IterBasedTrainLoop'
    return place.default if value or place.default == 'OptimWrapper' else ''


def _name(kind: Any) -> str:
    return kind if isinstance(kind, str) else getattr(kind, '__name__', str(kind))


def _unknown_type(kind: Any, key: Key, problem: str, hint: tuple[str, ...]) -> Finding:
    """Say that a type does not exist and what it could have been."""
    if not hint:
        return Finding('error', dotted((*key, 'type')), f'{problem}.',
                       '`python -m mmpapers.doctor` prints what is installed and how to install the rest'
                       if 'package' in problem else assignment((*key, 'type'), "'...'"))
    return Finding('error', dotted((*key, 'type')),
                   f'{problem}; did you mean {" or ".join(f"`{h}`" for h in hint)}?',
                   assignment((*key, 'type'), repr(hint[0])))


def _unknown_argument(kind: Any, key: Key, name: str, takes: Signature) -> Finding:
    """Say that a class does not take an argument and which one is near."""
    close = nearest(name, takes.names)
    fix = f'write `{close[0]}` for `{name}` in {dotted(key)}' if close else \
        f'remove `{name}` from {dotted(key)}; it takes: {", ".join(takes.names) or "nothing"}'
    return Finding('error', dotted((*key, name)),
                   f'`{_name(kind)}` takes no argument `{name}`{did_you_mean(name, takes.names) or "."}', fix)
