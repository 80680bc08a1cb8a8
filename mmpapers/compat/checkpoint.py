"""Shim: checkpoints load on torch >= 2.6 with ``weights_only`` on, and a bad file is named in one sentence.

Why: since torch 2.6 ``torch.load`` refuses every class that it does not know. mmengine 0.10.7 stores its log buffers in
each checkpoint and so cannot read the file that it has just written; forks fall back to full unpickling, which runs
whatever code the file brings; files from the net are unpickled fully by ``torch.hub`` to this day.
Upstream: open-mmlab/mmengine#1655, PR#1650, PR#1670 (merged, not released).
May go: the list of safe classes when a released mmengine registers them; the checks of files are ours to keep.

``load_from``, ``resume`` and ``init_cfg=dict(type='Pretrained')`` all end in the loaders replaced here.
"""

import contextlib
import functools
import json
import os
import pickle
import pickletools
import re
import urllib.error
import urllib.parse
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

_trusted: set[str] = set()
_trust_all = False


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be loaded or saved; the message is one sentence for the user."""


class MissingCheckpointError(CheckpointError, FileNotFoundError):
    """A checkpoint file that does not exist."""


def trust(path: str | os.PathLike | bool = True) -> None:
    """Allow full unpickling, which may run code from the file; off by default.

    Args:
        path: A file or URL to trust, True for every file of this process, or False to trust nothing any more.
    """
    global _trust_all
    if isinstance(path, bool):
        _trust_all = path
        if not path:
            _trusted.clear()
    else:
        _trusted.add(_identity(path))


def is_trusted(path: str | os.PathLike) -> bool:
    """Whether :func:`trust` was called for this file or for all files."""
    return _trust_all or _identity(path) in _trusted


def _identity(path: str | os.PathLike) -> str:
    text = os.fspath(path)
    return text if '://' in text else os.path.realpath(os.path.expanduser(text))


def damage(path: str | os.PathLike, deep: bool = False) -> str | None:
    """Say what is wrong with a checkpoint file without loading it.

    Args:
        path: Local file.
        deep: Also read everything and compare the stored check sums (about a second per GB).

    Returns:
        What is wrong, as the end of a sentence that begins with the file's name; None if nothing is.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(p.name for p in path.glob('*.pth'))
        hint = f', e.g. {path / inside[-1]}' if inside else ''
        return f'is a folder, not a checkpoint; name the file{hint}'
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob('*.pth')) if path.parent.is_dir() else []
        hint = f'; {path.parent} holds {", ".join(near[-5:])}' if near else ''
        return f'does not exist{hint}'
    size = path.stat().st_size
    if size == 0:
        return 'is empty (0 bytes): writing or downloading it was interrupted; delete it and fetch it again'
    with path.open('rb') as file:
        head = file.read(512)
    if head[:4] != b'PK\x03\x04':
        return _not_a_checkpoint(head)
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip() if deep else None
    except (zipfile.BadZipFile, OSError):
        broken = 'the end of the file'
    if broken:
        return (f'is truncated or damaged at {broken} ({size / 1e6:.1f} MB are there): writing or downloading it was '
                'interrupted; delete it and fetch it again, or resume from an earlier checkpoint')
    return None


def _not_a_checkpoint(head: bytes) -> str | None:
    """Recognise text that was saved under a checkpoint's name."""
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if text.startswith(b'version https://git-lfs'):
        return 'is a Git LFS pointer, not the weights; fetch them with `git lfs pull`'
    if text.startswith((b'<!doctype', b'<html', b'<?xml')):
        return 'is a web page, not a checkpoint: the download link answered with a page; download the file itself'
    if text.startswith((b'{', b'[')):
        return 'is a JSON file, not a checkpoint; give the .pth file'
    return None


def read(path: str | os.PathLike, map_location: Any = None, source: str | None = None) -> Any:
    """Load a checkpoint; Python objects other than weights and mmengine's own records are refused.

    Args:
        path: Local file written by ``torch.save``, or a ``.safetensors`` file.
        map_location: As for :func:`torch.load`.
        source: Where the file came from (a URL), for messages and trust.

    Returns:
        What was saved; for safetensors a dict of tensors.

    Raises:
        MissingCheckpointError: If there is no such file.
        CheckpointError: If it is damaged, no checkpoint, or holds foreign objects and is not trusted.
    """
    path = os.path.expanduser(os.fspath(path))
    named = path if source is None else f'{path} (from {source})'
    if os.path.splitext(path)[1] == '.safetensors' and os.path.isfile(path):
        return _read_safetensors(path, map_location)
    wrong = damage(path)
    if wrong:
        raise (CheckpointError if os.path.exists(path) else MissingCheckpointError)(f'The checkpoint {named} {wrong}.')
    trusted = is_trusted(path) or (source is not None and is_trusted(source))
    try:
        return torch.load(path, map_location=map_location, weights_only=not trusted)
    except Exception as error:
        foreign = [] if trusted else _foreign(path, error)
        if foreign:
            raise CheckpointError(
                f'The checkpoint {named} holds Python objects that are not weights ({", ".join(foreign)}); loading '
                'them can run code from the file, so it was refused. If you trust where it comes from, pass '
                f'--trust-checkpoint or call mmpapers.compat.checkpoint.trust({source or path!r}).') from error
        text = str(error).rpartition('WeightsUnpickler error: ')[2].strip()
        reason = text.partition('\n')[0][:200] or type(error).__name__
        raise CheckpointError(f'The checkpoint {named} cannot be read ({reason}): it is damaged or was not written by '
                              'torch.save; fetch it again or name another file.') from error


def renamed(state: Mapping[str, Any], rename: Callable[[str], str | None]) -> OrderedDict[str, Any]:
    """Rename or leave out entries of a state dict, and keep what it says about versions.

    Modules that once changed their layout (sparse convolutions, heads of DETRs) read their version from there; without
    one they take the file for an old one and convert it.

    Args:
        state: A state dict, of ``torch.load`` or of a module.
        rename: New key of an entry, or None to leave it out.
    """
    new = OrderedDict((name, value) for key, value in state.items() if (name := rename(key)) is not None)
    versions = getattr(state, '_metadata', None)
    if versions is not None:  # of modules: 'neck' for the entries 'neck.*'
        new._metadata = OrderedDict(
            ((rename(f'{module}.') or f'{module}.')[:-1] if module else '', each) for module, each in versions.items())
    return new


def _foreign(path: str, error: Exception) -> list[str]:
    """Names of the classes and functions that stopped the restricted unpickler."""
    if not isinstance(error, pickle.UnpicklingError):
        return []
    names = []
    with contextlib.suppress(Exception):  # lists all of them; for files in torch's zip format only
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return sorted(names or set(re.findall(r'(?:GLOBAL|find class) ([\w.]+)', str(error))) or _names_in_pickle(path))


def _names_in_pickle(path: str) -> set[str]:
    """Classes and functions that a bare pickle file asks for, read without running it."""
    names, strings = set(), []
    with contextlib.suppress(Exception), open(path, 'rb') as file:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == 'GLOBAL':
                names.add(argument.replace(' ', '.'))
            elif opcode.name == 'STACK_GLOBAL':
                names.add('.'.join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    return names


_DTYPES = {'F64': torch.float64, 'F32': torch.float32, 'F16': torch.float16, 'BF16': torch.bfloat16,
           'I64': torch.int64, 'I32': torch.int32, 'I16': torch.int16, 'I8': torch.int8, 'U8': torch.uint8,
           'BOOL': torch.bool, 'F8_E4M3': torch.float8_e4m3fn, 'F8_E5M2': torch.float8_e5m2}


def _read_safetensors(path: str, map_location: Any) -> dict[str, torch.Tensor]:
    """Read the safetensors format: header length (8 bytes), JSON header, tensors one after the other."""
    try:
        with open(path, 'rb') as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), 'little')))
            data = bytearray(file.read())
        header.pop('__metadata__', None)
        if max((entry['data_offsets'][1] for entry in header.values()), default=0) > len(data):
            raise ValueError('the tensors end before their stated length')
        tensors = {}
        for name, entry in header.items():
            begin, end = entry['data_offsets']
            dtype = _DTYPES[entry['dtype']]
            flat = (torch.frombuffer(data[begin:end], dtype=dtype) if end > begin
                    else torch.empty(0, dtype=dtype))
            tensors[name] = flat.reshape(entry['shape'])
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f'The checkpoint {path} is not a complete safetensors file ({error}); fetch it again.'
                              ) from error
    if isinstance(map_location, (str, torch.device)):
        return {name: tensor.to(map_location) for name, tensor in tensors.items()}
    return tensors


def _statistic(owner: Any, name: str) -> Callable:
    """The one use of ``getattr`` in mmengine's checkpoints: a statistic of ``HistoryBuffer``, named in its state.

    The released fix of the fork allows ``getattr`` itself, with which a file can reach any function.
    """
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr, used for {name!r}')
    return getattr(HistoryBuffer, name)


def safe_globals() -> list[type | tuple[Callable, str]]:
    """Classes that mmengine's own checkpoints hold; plain data all of them, none runs code when it is built."""
    import argparse
    import pathlib

    import numpy as np
    from mmengine.config import ConfigDict
    from mmengine.logging import HistoryBuffer

    internals = np.core.multiarray if np.lib.NumpyVersion(np.__version__) < '2.0.0' else np._core.multiarray
    allowed = [HistoryBuffer, ConfigDict, np.ndarray, np.dtype, argparse.Namespace, pathlib.PosixPath,
               pathlib.PurePosixPath, pathlib.WindowsPath, pathlib.PureWindowsPath]
    allowed += [type(np.dtype(code)) for code in np.typecodes['All']]
    allowed.append((_statistic, 'builtins.getattr'))
    # numpy 2 renamed the module; files written with either spelling load under both.
    allowed += [(getattr(internals, name), f'numpy.{core}.multiarray.{name}')
                for name in ('_reconstruct', 'scalar') for core in ('core', '_core')]
    return allowed


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Loader of local files for mmengine's ``CheckpointLoader`` (the name appears in its log)."""
    return read(filename, map_location)


def load_from_http(filename: str, map_location: Any = None, model_dir: str | None = None,
                   progress: bool = True) -> Any:
    """Loader of URLs: download once into torch's cache (rank 0 only), then :func:`read`.

    Raises:
        CheckpointError: If the file cannot be had; the message names the place to put it by hand.
    """
    from mmengine.dist import barrier, get_rank
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints'))
    path = folder / os.path.basename(urllib.parse.urlparse(filename).path)
    if get_rank() == 0 and not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(filename, str(path), progress=progress)
        except (urllib.error.URLError, OSError) as error:
            raise CheckpointError(f'Cannot download {filename} ({getattr(error, "reason", error)}). Without network, '
                                  f'put the file at {path}, or give a local path.') from error
    barrier()
    return read(path, map_location, source=filename)


def torchvision_urls(stock: Callable[[], dict[str, str]]) -> dict[str, str]:
    """URL table for ``torchvision://`` names; mmengine's own when torchvision is absent or broken."""
    import mmengine
    try:
        return stock()
    except (ImportError, RuntimeError, AttributeError):
        table = os.path.join(mmengine.__path__[0], 'hub', 'torchvision_0.12.json')
        return mmengine.load(table)


def install() -> None:
    """Register the safe classes and put our loaders in the place of mmengine's; a second call changes nothing."""
    from mmengine.runner import checkpoint
    if checkpoint.load_from_http is load_from_http:
        return
    torch.serialization.add_safe_globals(safe_globals())
    checkpoint.CheckpointLoader.register_scheme('', load_from_local, force=True)
    checkpoint.CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    checkpoint.load_from_local = load_from_local
    checkpoint.load_from_http = load_from_http
    checkpoint.get_torchvision_models = functools.partial(torchvision_urls, checkpoint.get_torchvision_models)
    if hasattr(checkpoint, '_safe_torch_load'):  # the fork's fallback to full unpickling
        checkpoint._safe_torch_load = lambda file, map_location=None, weights_only=None: torch.load(
            file, map_location=map_location, weights_only=True)
