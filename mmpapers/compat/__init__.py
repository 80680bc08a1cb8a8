"""The only room that knows versions of mmengine, mmcv, mmdet3d, spconv, numpy and torch.

``import mmpapers`` patches nothing. Our tools call :func:`setup` once; a user's own script does the same. Each shim is
one module whose docstring says why it exists, where upstream discusses it and when it may go.
"""

import importlib

# In this order: import guards first, since the others may import what they guard.
SHIMS = ('mmpapers.compat.imports', 'mmpapers.ops.boundary', 'mmpapers.compat.packages', 'mmpapers.compat.checkpoint',
         'mmpapers.compat.saving', 'mmpapers.compat.loader', 'mmpapers.compat.deform_attn')


def setup() -> None:
    """Make the installed OpenMMLab stack work: ops boundary, checkpoints, resume, import guards. Idempotent."""
    for name in SHIMS:
        importlib.import_module(name).install()
