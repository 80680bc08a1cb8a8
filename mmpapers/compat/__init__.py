"""The only room that knows versions of mmengine, mmcv, mmdet3d, spconv, numpy and torch.

``import mmpapers`` patches nothing. Our tools call :func:`setup` once; a user's own script does the same.
"""


def setup() -> None:
    """Make the installed OpenMMLab stack work: ops boundary, checkpoint loading, import guards. Idempotent."""
    from mmpapers.ops import boundary
    boundary.install()
