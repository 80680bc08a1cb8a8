"""Top-level keys that nobody reads, keys of untyped dicts, and variables that a child config sets in vain."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.runner import LogProcessor, Runner
from mmengine.runner._flexible_runner import FlexibleRunner
from torch.utils.data import DataLoader

from .finding import Finding, Key, assignment, did_you_mean, dotted, lookup, nearest, walk
from .source import ConfigSource, children, names_read

_RUNNER = {name for cls in (Runner, FlexibleRunner) for name in inspect.signature(cls.__init__).parameters} - {'self'}
# Keys that Runner, the toolboxes' tools and hooks, and ours read from the config besides Runner's arguments.
KNOWN = _RUNNER | {
    'custom_imports', 'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'activation_checkpointing',
    'efficient_conv_bn_eval', 'compile', 'runner_type', 'tta_model', 'tta_pipeline', 'file_client_args', 'backend_args',
    'distill', 'mmpapers_hooks', 'detect_anomalous_params', 'backend_config', 'codebase_config', 'deploy_config',
    'onnx_config', 'vis_backends'}
# Keys of the 1.x and 2.x toolboxes, and where their content lives now.
LEGACY = {
    'data': "train_dataloader, val_dataloader and test_dataloader", 'optimizer': 'optim_wrapper = dict(optimizer=...)',
    'optimizer_config': 'optim_wrapper = dict(clip_grad=...)', 'lr_config': 'param_scheduler = [...]',
    'runner': "train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=...)", 'total_epochs': 'train_cfg.max_epochs',
    'evaluation': 'val_evaluator, and train_cfg.val_interval',
    'checkpoint_config': 'default_hooks = dict(checkpoint=...)',
    'log_config': 'default_hooks = dict(logger=...) and visualizer', 'workflow': 'train_cfg and val_cfg',
    'dist_params': 'env_cfg = dict(dist_cfg=...)', 'resume_from': 'load_from with resume = True',
    'fp16': "optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')",
    'momentum_config': 'param_scheduler = [...]', 'seed': 'randomness = dict(seed=...)'}
_DATALOADER = set(inspect.signature(DataLoader.__init__).parameters) - {'self'} | {
    'dataset', 'sampler', 'batch_sampler', 'num_batch_per_epoch', 'collate_fn', 'worker_init_fn'}
# Dicts without a type: what their reader looks at.
UNTYPED = (
    (r'(train|val|test)_dataloader(\.\d+)?', _DATALOADER),
    ('env_cfg', {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}),
    (r'env_cfg\.mp_cfg', {'mp_start_method', 'opencv_num_threads'}),
    ('auto_scale_lr', {'enable', 'base_batch_size'}),
    ('randomness', set(inspect.signature(Runner.set_randomness).parameters) - {'self'}),
    ('log_processor', set(inspect.signature(LogProcessor.__init__).parameters) - {'self'} | {'type'}),
    (r'optim_wrapper\.clip_grad', {'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'type', 'clip_value'}),
)


def check_keys(cfg: Config, source: ConfigSource | None) -> Iterator[Finding]:
    """Find top-level keys that neither the runner nor another line of the config reads.

    Args:
        cfg: The resolved config.
        source: Its files, None for a config that was not read from text files.
    """
    chain = source.chain() if source else []
    read = set().union(*(file.loads for file in chain)) if chain else set()
    written = {name for file in chain for name, _, _ in file.assignments()}
    for name in cfg:
        if name in KNOWN or name in read or name.startswith('_'):
            continue
        close = nearest(name, KNOWN - {'tta_pipeline'}, cutoff=0.8, n=1)  # near to every other `*_pipeline`
        if name in LEGACY:
            yield Finding('warning' if 'train_dataloader' in cfg else 'error', name,
                          f'`{name}` is a key of the 1.x/2.x toolboxes that no runner reads any more.',
                          f'move its content to {LEGACY[name]}')
        elif close:
            yield Finding('error', name, f'No runner reads `{name}`; did you mean `{close[0]}`?',
                          f'{close[0]} = ...  # instead of {name}')
        elif name not in written:
            yield Finding('warning', name, f'`{name}` was set by --cfg-options, but nothing reads it.',
                          f'remove {name}=... or give a key of the config')
        else:
            yield Finding('info', name, f'Nothing reads the variable `{name}`.', f'remove `{name}` or use it')


def check_untyped(cfg: Config) -> Iterator[Finding]:
    """Find unknown keys in dicts that have no ``type``: data loaders, env_cfg, randomness, ..."""
    for key, value in walk(cfg._cfg_dict):
        if not isinstance(value, dict):
            continue
        text = dotted(key)
        for pattern, known in UNTYPED:
            if re.fullmatch(pattern, text) and 'type' not in value:
                for name in sorted(set(value) - known - {'_delete_', '_scope_'}):
                    yield Finding('error', dotted((*key, name)),
                                  f'`{text}` has no key `{name}`{did_you_mean(name, known) or "."}',
                                  assignment((*key, *(nearest(name, known, n=1) or ['...'])), '...'))


def check_unreached(cfg: Config, source: ConfigSource | None) -> Iterator[Finding]:
    """Find variables that a child sets after a base has used them already (mmdetection#10891).

    The base's ``train_dataloader`` holds the base's ``train_pipeline``; a new ``train_pipeline`` in the child changes
    the variable and nothing else.
    """
    for file in source.chain() if source else []:
        if not file.bases or file.lazy:
            continue
        bases = [part for base in file.bases for part in base.chain()]
        later = source.chain()[source.chain().index(file):]
        set_here = {name for name, key, _ in file.assignments() if not key}
        before: ConfigDict | None = None
        for name in sorted(set_here - KNOWN):
            if any(name in part.loads for part in later) or not any(name in part.loads for part in bases):
                continue
            if name not in cfg:
                continue
            if before is None:
                before = _values(file)
            if name in before and before[name] != cfg[name]:
                yield from _in_vain(name, cfg, before, bases, file)


def _values(file: ConfigSource) -> ConfigDict:
    """What a file inherits from its bases."""
    merged = ConfigDict()
    for base in file.bases:
        merged.update(Config.fromfile(base.path, import_custom_modules=False)._cfg_dict)
    return merged


def _in_vain(name: str, cfg: Config, before: ConfigDict, bases: list[ConfigSource],
             file: ConfigSource) -> Iterator[Finding]:
    """Report the places that still hold the base's value of a variable."""
    stale = []
    for key in consumers(bases, name):
        try:
            old, new = lookup(before, key), lookup(cfg._cfg_dict, key)
        except KeyError:
            continue
        if new == old and key[0] in KNOWN:
            stale.append(key)
        elif new == cfg[name]:
            return
    if stale:
        line = next(node.lineno for other, key, node in file.assignments() if other == name and not key)
        where = [key for key in stale if not any(isinstance(part, int) for part in key)] or stale[:1]
        places = ', '.join(f'`{dotted(key)}`' for key in dict.fromkeys(where))
        yield Finding('warning', name,
                      f'`{name}` of {file.path.name}:{line} reaches nothing: {places} still '
                      f'hold{"s" if len(set(where)) == 1 else ""} the value of the base.',
                      '; '.join(_add(key, name, bases) for key in dict.fromkeys(where)))


def _add(key: Key, name: str, bases: list[ConfigSource]) -> str:
    """The line to add so that the new value arrives."""
    if not any(isinstance(part, int) for part in key):
        return f'add `{assignment(key, name)}`'
    holder = next((variable for file in bases for variable, _, node in file.assignments()
                   if variable not in KNOWN and node.value is not None and name in set(names_read(node.value))), None)
    stop = next(i for i, part in enumerate(key) if isinstance(part, int))
    return f'repeat {f"`{holder}` of the base" if holder else f"`{dotted(key[:stop])}`"} below this line ' \
           f'and add `{assignment(key[:stop], holder or "[...]")}`'


def consumers(files: list[ConfigSource], name: str, seen: frozenset[str] = frozenset()) -> Iterator[Key]:
    """Yield the key paths whose values are made from a variable, through other variables too."""
    for file in files:
        for variable, key, node in file.assignments():
            if variable == name or variable in seen or node.value is None:
                continue
            for below, pure in _occurrences(node.value, name):
                if variable in KNOWN:
                    yield (variable, *key, *below)
                    continue
                for outer in consumers(files, variable, seen | {name}):
                    yield (*outer, *key, *below) if pure else outer


def _occurrences(node: Any, name: str, key: Key = ()) -> Iterator[tuple[Key, bool]]:
    """Yield ``(path, whether the value is the variable itself)`` of a variable inside an expression."""
    below = list(children(node))
    if below:
        for part, child in below:
            yield from _occurrences(child, name, (*key, part))
    elif name in set(names_read(node)):
        yield key, getattr(node, 'id', None) == name
