"""``manifest.json``: everything that is needed to say later what a run was."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

import mmpapers
from mmpapers.registry import HOOKS

PACKAGES = ('torch', 'torchvision', 'numpy', 'mmengine', 'onedl-mmengine', 'mmcv', 'mmcv-lite', 'onedl-mmcv', 'mmdet',
            'onedl-mmdetection', 'mmsegmentation', 'onedl-mmsegmentation', 'mmdet3d', 'numba', 'pycocotools', 'spconv')
_PLACES = ('work_dir', 'launcher', 'load_from', 'resume', 'env_cfg', 'model_wrapper_cfg')


@HOOKS.register_module()
class ManifestHook(Hook):
    """Write ``<work_dir>/<timestamp>/manifest.json`` when training starts, and its end when it ends.

    It holds: command line, git commit and state of the current folder and of mmpapers, package versions, the resolved
    config and its hash (without paths of the run), seed, a digest and count of every data set, batch size and learning
    rate after scaling, hardware, start, end, status, and the checkpoint the run was resumed from or started with.
    Images are counted, never read: an annotation file is hashed whole, a folder of label files by names and sizes.

    Args:
        max_files: Folders with more label files than this are only counted.
    """

    priority = 'LOW'

    def __init__(self, max_files: int = 50_000) -> None:
        self.max_files = max_files
        self.path: Path | None = None
        self.content: dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Collect and write; the optimizer is scaled and the checkpoint loaded by now."""
        if not is_main_process():
            return
        cfg = plain(runner.cfg)
        core = {key: value for key, value in cfg.items() if key not in _PLACES}
        digest = hashlib.sha256(json.dumps(core, sort_keys=True).encode()).hexdigest()
        self.path = Path(runner.log_dir) / 'manifest.json'
        self.content = dict(
            status='running', start=_now(), end=None, command=shlex.join(sys.argv), folder=os.getcwd(),
            git=git_state(Path.cwd()), mmpapers=dict(version=mmpapers.__version__,
                                                     git=git_state(Path(mmpapers.__file__).parent)),
            config_file=runner.cfg.filename, config_sha256=digest, seed=runner.seed, deterministic=runner.deterministic,
            resumed_from=str(runner._load_from) if runner._resume and runner._load_from else None,
            started_from=str(runner._load_from) if not runner._resume and runner._load_from else None,
            first_step=runner.iter, max_steps=runner.max_iters, **_batch(runner), data=self._data(runner),
            teacher=self._teacher(runner), versions=versions(), hardware=hardware(), config=cfg)
        self._write()

    def after_train(self, runner: Runner) -> None:
        """Note a regular end."""
        stopped = runner.iter < runner.max_iters
        self.close(runner, 'stopped early' if stopped else 'finished')

    def close(self, runner: Runner, status: str) -> None:
        """Note the end of a run, also of one that failed.

        Args:
            runner: The runner.
            status: 'finished', 'stopped early', 'interrupted' or 'failed: ...'.
        """
        if self.path is not None:
            self.content.update(status=status, end=_now(), last_step=runner.iter)
            self._write()

    def _write(self) -> None:
        """Replace the file in one move."""
        partial = self.path.with_suffix('.tmp')
        partial.write_text(json.dumps(self.content, indent=2), 'utf-8')
        partial.replace(self.path)

    def _data(self, runner: Runner) -> dict[str, list[dict]]:
        """Describe the data sets of training and validation."""
        loaders = {'train': runner.train_dataloader}
        if runner.val_loop is not None:
            loaders['val'] = runner.val_dataloader
        return {split: [self._describe(leaf) for leaf in leaves(loader.dataset)] for split, loader in loaders.items()}

    def _teacher(self, runner: Runner) -> dict[str, Any] | None:
        """Where the teacher of a distillation comes from, and what it measured; None without one."""
        teacher = getattr(getattr(runner.model, 'module', runner.model), 'teacher', None)
        file = getattr(teacher, 'checkpoint', None)
        if teacher is None:
            return None
        whole = isinstance(file, str) and Path(file).is_file()
        return dict(type=type(teacher.model).__name__, checkpoint=str(file),
                    sha256=sha256(Path(file)) if whole else None,
                    metrics=runner.message_hub.runtime_info.get('teacher_metrics'))

    def _describe(self, dataset: Any) -> dict[str, Any]:
        """Count and hash one data set."""
        found = dict(type=type(dataset).__name__, samples=len(dataset), data_root=getattr(dataset, 'data_root', None))
        file = getattr(dataset, 'ann_file', None)
        if isinstance(file, str) and Path(file).is_file():
            return dict(found, ann_file=file, sha256=sha256(Path(file)))
        if hasattr(dataset, 'get_data_info') and len(dataset) <= self.max_files:
            infos = (dataset.get_data_info(index) for index in range(len(dataset)))
            labels = [Path(info['seg_map_path']) for info in infos if info.get('seg_map_path')]
            if labels:
                lines = sorted(f'{path.name} {path.stat().st_size}' for path in labels if path.is_file())
                found.update(label_files=len(lines), names_and_sizes_sha256=_digest('\n'.join(lines)))
        return found


def leaves(dataset: Any) -> Iterator[Any]:
    """The data sets below wrappers such as RepeatDataset or ConcatDataset."""
    if hasattr(dataset, 'datasets'):
        for child in dataset.datasets:
            yield from leaves(child)
    elif hasattr(dataset, 'dataset'):
        yield from leaves(dataset.dataset)
    else:
        yield dataset


def _batch(runner: Runner) -> dict[str, Any]:
    """Batch sizes and learning rates as they are used."""
    wrappers = runner.optim_wrapper
    wrappers = list(wrappers.values()) if isinstance(wrappers, OptimWrapperDict) else [wrappers]
    per_process, steps = runner.train_dataloader.batch_size, wrappers[0]._accumulative_counts
    per_process = per_process or getattr(runner.train_dataloader.batch_sampler, 'batch_size', 1)
    scale = runner.auto_scale_lr or {}
    rates = [group.get('initial_lr', group['lr']) for wrapper in wrappers for group in wrapper.param_groups]
    return dict(batch=dict(per_process=per_process, processes=runner.world_size, accumulated=steps,
                           effective=per_process * runner.world_size * steps,
                           base_batch_size=scale.get('base_batch_size'), lr_scaled=bool(scale.get('enable'))),
                lr=sorted(set(rates), reverse=True))


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and state of the repository a folder belongs to; None outside one (or without git)."""
    def ask(*arguments: str) -> str:
        return subprocess.run(['git', '-C', str(folder), *arguments], check=True, capture_output=True, text=True,
                              timeout=10).stdout.strip()
    try:
        return dict(root=ask('rev-parse', '--show-toplevel'), commit=ask('rev-parse', 'HEAD'),
                    dirty=bool(ask('status', '--porcelain', '--untracked-files=no')))
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of Python and of the distributions a result depends on, as far as they are installed."""
    found = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, threads, memory and GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    memory = None
    if hasattr(os, 'sysconf') and 'SC_PHYS_PAGES' in os.sysconf_names:
        memory = round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30, 1)
    return dict(platform=platform.platform(), processor=platform.processor() or platform.machine(),
                cpus=os.cpu_count(), torch_threads=torch.get_num_threads(), memory_gib=memory, gpus=gpus,
                cuda=torch.version.cuda)


def plain(value: Any) -> Any:
    """A config as plain JSON values; classes and functions (of lazy configs) become their dotted names."""
    if hasattr(value, '_cfg_dict'):
        value = value._cfg_dict
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return f'{value.__module__}.{value.__qualname__}' if hasattr(value, '__qualname__') else str(value)


def sha256(path: Path) -> str:
    """Hash a file without holding it in memory."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    """Local time with its offset."""
    return time.strftime('%Y-%m-%dT%H:%M:%S%z')
