"""What train and test share: reading a config, our default hooks, processes, and errors in one sentence.

``mmpapers_hooks`` in a config (or in ``--cfg-options``) decides which of the hooks in :data:`DEFAULT_HOOKS` are added:
``mmpapers_hooks = False`` adds none, ``mmpapers_hooks = dict(ValLossHook=False)`` leaves one out, and
``mmpapers_hooks = dict(ValLossHook=dict(max_images=100))`` gives one its arguments. A hook that ``custom_hooks``
already holds is never added twice.

``MMPAPERS_TRACEBACK=1`` shows the traceback of an error that is said in one sentence.
"""

import argparse
import difflib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction

DEFAULT_HOOKS = ('NaNGuardHook', 'ManifestHook', 'ValLossHook', 'RecordHook', 'CurvesHook', 'ProgressHook')


class UserError(Exception):
    """An expected error, printed as one sentence without a traceback.

    Args:
        message: What is wrong, the config key or flag, and the fix.
        code: Exit code of the process: 2 for a wrong command line or config, 1 for what goes wrong later.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class ConfigOptions(DictAction):
    """mmengine's ``KEY=VALUE`` action, which answers a value that it cannot read with a sentence."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list[str],
                 option_string: str | None = None) -> None:
        """Read the pairs."""
        if bad := [value for value in values if '=' not in value]:
            parser.error(f'{option_string}: {bad[0]!r} is not KEY=VALUE (no white space around = or in the value)')
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError, ValueError):
            parser.error(f'{option_string}: cannot read the value in {" ".join(values)}; write numbers, True, None, '
                         'text, key="[a,b]" or key="(a,b)" without white space, and a dict key by key: a.type=X a.lr=1')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that mmdet's train and test tools share."""
    parser.add_argument('--work-dir', help='where logs, checkpoints and results go (default: work_dirs/<config name>)')
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions, metavar='KEY=VALUE',
                        help='change settings of the config, e.g. train_dataloader.batch_size=4 or key="[(a,b),(c,d)]" '
                             '(no white space inside)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='who started the processes of a distributed run (see tools/dist_*.sh, tools/slurm_*.sh)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--trust-checkpoint', action='store_true',
                        help='load a checkpoint that holds arbitrary Python objects; loading such a file runs its code')
    parser.add_argument('--verbose', action='store_true', help="print mmengine's full log, not only the progress line")


def run(job: Callable[[], int]) -> int:
    """Run a tool and turn expected errors into one sentence on stderr.

    Args:
        job: Does the work and returns the exit code.

    Returns:
        Exit code: the job's, 2 for a wrong command line or config, 3 for a loss or gradient that is not finite,
        1 for other expected errors, 130 after Ctrl-C. An unexpected error keeps its traceback.
    """
    try:
        return job()
    except KeyboardInterrupt:
        return _say('interrupted', 130)
    except Exception as error:  # noqa: BLE001
        expected = explain(error)
        if expected is None:
            raise
        return _say(*expected)


def explain(error: BaseException) -> tuple[str, int] | None:
    """The sentence and exit code for an expected error, or None for one that needs its traceback."""
    from mmpapers.hooks.nan_guard import NonFiniteError
    if isinstance(error, UserError):
        return str(error), error.code
    if type(error).__module__.partition('.')[0] == 'mmpapers':  # our own error classes speak in sentences
        return str(error), 3 if isinstance(error, NonFiniteError) else getattr(error, 'exit_code', 1)
    text = str(error)
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or 'No space left on device' in text:
        where = getattr(error, 'filename', None)
        return (f'the disk is full{f" ({where})" if where else ""}: free some space, then continue with --resume; '
                'checkpoints written before are intact', 1)
    if isinstance(error, FileNotFoundError) and error.filename:
        return f'{error.filename} does not exist{nearest(error.filename)}', 1
    if isinstance(error, ImportError) and text.startswith('mmpapers.'):
        return text, 1
    return None


def _say(message: str, code: int) -> int:
    """Print one sentence (and the traceback on request) and return the exit code."""
    if os.environ.get('MMPAPERS_TRACEBACK') and sys.exc_info()[0]:
        traceback.print_exc()
    rank = os.environ.get('RANK')
    print(f'{f"[rank {rank}] " if rank else ""}error: {message}', file=sys.stderr, flush=True)
    return code


def read_config(path: str, options: dict[str, Any] | None = None) -> Config:
    """Read a text or lazy config from a file, or one of an installed toolbox (``mmdet::retinanet/x.py``).

    Args:
        path: File or ``package::path``.
        options: Parsed ``--cfg-options``, dotted keys to values.

    Raises:
        UserError: If the file does not exist (with the nearest ones), cannot be read (with file and line) or has no
            such key as an option names.
    """
    if '::' not in path and not Path(path).is_file():
        raise UserError(f'config {path!r} does not exist{nearest(path)}')
    try:
        if '::' in path:
            from mmengine.hub import get_config
            cfg = get_config(path)
        else:
            cfg = Config.fromfile(path)
    except Exception as error:
        files, line = _config_position(error)
        if isinstance(error, FileNotFoundError) and len(files) > 1:
            raise UserError(f'config {files[-2]} inherits from {files[-1]}, which does not exist{nearest(files[-1])}'
                            ) from error
        place = (files or [path])[-1] + (f', line {line}' if line else '')
        text = error.msg if isinstance(error, SyntaxError) else ' '.join(str(error).strip('"\'').split())
        raise UserError(f'config cannot be read: {place}: {type(error).__name__}: {text}') from error
    if options:
        check_options(cfg, options)
        cfg.merge_from_dict(options)
    return cfg


def _config_position(error: BaseException) -> tuple[list[str], int | None]:
    """Files, each inherited by the one before, and the line in the last, from the traceback of mmengine's parser."""
    files, line = [], None
    for frame, number in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name in ('_file2dict', '_parse_lazy_import'):
            files.append(str(frame.f_locals['filename']))
            line = None
        elif files and Path(frame.f_code.co_filename).resolve() == Path(files[-1]).resolve():
            line = number
    return files, error.lineno if isinstance(error, SyntaxError) else line


def check_options(cfg: Config, options: dict[str, Any]) -> None:
    """Refuse a misspelt key of ``--cfg-options``; a new key is fine unless it looks like an existing one.

    Raises:
        UserError: With the nearest key.
    """
    from mmpapers.cli.checks.keys import KNOWN
    for key in options:
        node, seen = cfg._cfg_dict, ''
        for depth, part in enumerate(key.split('.')):
            if isinstance(node, list | tuple):
                if not part.isdigit() or int(part) >= len(node):
                    raise UserError(f'--cfg-options {key}: {seen} is a list of {len(node)} entries; '
                                    f'name one by its index, e.g. {seen}.0')
                node = node[int(part)]
            elif not isinstance(node, dict):
                raise UserError(f'--cfg-options {key}: {seen} is {node!r}, it has no key {part!r}')
            elif part in node:
                node = node[part]
            else:
                names = set(node) | (KNOWN if depth == 0 else set())
                close = difflib.get_close_matches(part, names, n=2, cutoff=0.6 if depth == 0 else 0.85)
                if (depth == 0 and part not in KNOWN) or (depth > 0 and close):
                    hint = f'; did you mean {" or ".join(f"{seen}.{c}".lstrip(".") for c in close)}?' if close else ''
                    raise UserError(f'--cfg-options {key}: {seen or "the config"} has no key {part!r}{hint}')
                break
            seen = f'{seen}.{part}'.lstrip('.')


def nearest(path: str | Path, limit: int = 5000) -> str:
    """Say which existing files are nearest to a path that does not exist, as the end of a sentence."""
    path = Path(path)
    folder = next((p for p in path.absolute().parents if p.is_dir()), Path.cwd())
    found: dict[str, Path] = {}
    roots = [folder]
    if path.suffix == '.py':
        import mmpapers.projects
        roots += [Path(root) for root in mmpapers.projects.__path__]
    for root in roots:
        for count, file in enumerate(root.rglob(f'*{path.suffix}')):
            if count > limit:
                break
            found.setdefault(file.name, file)
    close = difflib.get_close_matches(path.name, found, n=3, cutoff=0.7)
    shown = [os.path.relpath(found[name]) for name in close]
    return f'; did you mean {" or ".join(shown)}?' if shown else ''


def set_work_dir(cfg: Config, path: str, work_dir: str | None) -> None:
    """Choose the work dir: command line, then config, then ``work_dirs/<config name>``."""
    if work_dir:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs') / Path(path.rpartition('::')[2]).stem)


def type_name(cfg: Any) -> str:
    """The bare class name of a ``dict(type=...)``, of text and lazy configs alike; '' if there is none."""
    kind = cfg.get('type', '') if isinstance(cfg, dict) else type(cfg)
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def inject_hooks(cfg: Config) -> None:
    """Add our default hooks to ``custom_hooks`` and make checkpoints safe; what is there already stays as it is.

    Args:
        cfg: Changed in place. ``mmpapers_hooks`` in it decides (see the module's text).
    """
    wanted = cfg.get('mmpapers_hooks', True)
    if wanted is False:
        return
    wanted = {} if wanted in (True, None) else dict(wanted)
    if unknown := set(wanted) - set(DEFAULT_HOOKS) - {'SafeCheckpointHook'}:
        raise UserError(f'mmpapers_hooks names {sorted(unknown)[0]!r}; it can name '
                        f'{", ".join((*DEFAULT_HOOKS, "SafeCheckpointHook"))}')
    hooks = list(cfg.get('custom_hooks') or [])
    present = {type_name(hook) for hook in hooks}
    for name in DEFAULT_HOOKS:
        arguments = wanted.get(name, True)
        if arguments is not False and name not in present:
            hooks.append(dict(type=f'mmpapers.{name}', **(arguments if isinstance(arguments, dict) else {})))
    cfg.custom_hooks = hooks
    cfg.default_hooks = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1}, **(cfg.get('default_hooks') or {})}
    saver = cfg.default_hooks.checkpoint
    if saver is not None and type_name(saver) == 'CheckpointHook' and wanted.get('SafeCheckpointHook', True):
        saver['type'] = 'mmpapers.SafeCheckpointHook'
    stop = next((hook for hook in hooks if type_name(hook) in ('EarlyStopHook', 'EarlyStoppingHook')), None)
    if saver is not None and stop is not None and not saver.get('save_best'):
        saver['save_best'] = stop['monitor'].removeprefix('val/')
        if stop.get('rule'):
            saver['rule'] = stop['rule']


def set_ranks(launcher: str, local_rank: int = 0) -> None:
    """Put rank and number of processes into the environment under torchrun's names, whoever started the processes.

    Args:
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        local_rank: Rank on this machine when the environment does not say it.

    Raises:
        UserError: If the launcher's environment variables are absent.
    """
    ours = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')
    theirs = {'none': (), 'pytorch': ours, 'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
              'mpi': tuple(f'OMPI_COMM_WORLD_{name}' for name in ('RANK', 'SIZE', 'LOCAL_RANK'))}[launcher]
    if absent := [name for name in theirs[:2] if name not in os.environ]:
        tool = {'pytorch': 'tools/dist_train.sh', 'slurm': 'tools/slurm_train.sh', 'mpi': 'mpirun'}[launcher]
        raise UserError(f'--launcher {launcher} needs {absent[0]} in the environment; start the run with {tool}')
    for name, other in zip(ours, theirs):
        os.environ[name] = os.environ.get(other, str(local_rank))
    os.environ.setdefault('LOCAL_RANK', str(local_rank))


def prepare_processes(cfg: Config, launcher: str) -> None:
    """Get a config ready for its launcher, after :func:`set_ranks`; processes without CUDA talk through gloo.

    mmengine's own initialisation calls ``torch.cuda.set_device`` for every launcher and gives DDP a device id, which
    fails on a machine without CUDA; there the process group is made here and DDP is told to use none.

    Args:
        cfg: Changed in place: launcher, and on CPU the backend and the model wrapper.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
    """
    import torch
    cfg.launcher = launcher
    if launcher == 'none' or torch.cuda.is_available():
        return
    os.environ.setdefault('MASTER_ADDR', _first_slurm_node() if launcher == 'slurm' else '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
    environment = cfg.get('env_cfg') or {}
    cfg.env_cfg = {**environment, 'dist_cfg': {**environment.get('dist_cfg', {}), 'backend': 'gloo'}}
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel', broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = {**wrapper, 'device_ids': None}


def _first_slurm_node() -> str:
    """Name of the first machine of a slurm job: ``node[03-05,9],other`` -> ``node03``."""
    head, bracket, rest = os.environ.get('SLURM_NODELIST', '127.0.0.1').partition('[')
    if not bracket or ',' in head:
        return head.partition(',')[0]
    return head + rest.replace('-', ',').replace(']', ',').partition(',')[0]


def world_size() -> int:
    """Number of processes of this run."""
    import torch
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else int(os.environ.get('WORLD_SIZE', 1))


def is_main() -> bool:
    """Whether this process is the one that talks."""
    return os.environ.get('RANK', '0') == '0'


def say(text: str) -> None:
    """Print, in the main process only."""
    if is_main():
        print(text, flush=True)


@contextmanager
def trust(everything: bool) -> Iterator[None]:
    """Within it, checkpoints may hold any Python object if the user said so on the command line."""
    from mmpapers.compat import checkpoint
    if not everything:
        yield
        return
    checkpoint.trust(True)
    try:
        yield
    finally:
        checkpoint.trust(False)
