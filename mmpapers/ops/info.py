"""What ``mmcv.ops.get_compiler_version`` and ``get_compiling_cuda_version`` answer without compiled kernels."""

import numba


def get_compiler_version() -> str:
    """Return the compiler of the kernels."""
    return f'numba {numba.__version__}'


def get_compiling_cuda_version() -> str:
    """Return mmcv's words for kernels without CUDA; ours take CUDA tensors through torch."""
    return 'not available'
