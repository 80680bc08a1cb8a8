"""The only room that knows versions of mmengine, mmcv, mmdet3d, spconv, numpy and torch.

``import mmpapers`` patches nothing. Our tools call :func:`setup` once; a user's own script does the same. Each shim is
one module whose docstring says why it exists, where upstream discusses it and when it may go.
"""

import importlib

# In this order: import guards first, since the others may import what they guard.
SHIMS = ('mmpapers.compat.imports', 'mmpapers.ops.boundary', 'mmpapers.compat.packages', 'mmpapers.compat.checkpoint',
         'mmpapers.compat.saving', 'mmpapers.compat.loader', 'mmpapers.compat.deform_attn', 'mmpapers.compat.roi_align',
         'mmpapers.compat.model_bugs', 'mmpapers.compat.model_bugs3d', 'mmpapers.compat.kitti_eval',
         'mmpapers.compat.points', 'mmpapers.compat.spconv')


def setup() -> None:
    """Make the installed OpenMMLab stack work: ops boundary, checkpoints, resume, import guards. Idempotent.

    Without mmcv there is nothing to mend for it, and its shims are left out.
    """
    for name in SHIMS:
        try:
            importlib.import_module(name).install()
        except ModuleNotFoundError as error:
            if error.name != 'mmcv':
                raise
