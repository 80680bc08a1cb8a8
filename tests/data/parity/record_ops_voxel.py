"""Record what a compiled mmcv 2.1.0 makes of point clouds: ``python record_ops_voxel.py``, no mmpapers needed.

Writes ``ops_voxel.npz`` beside this file: for each case ``case/points``, ``case/dynamic`` (the voxel of each point) and
the result of hard voxelization (``case/voxels``, ``case/coors``, ``case/num``), and settings and provenance as JSON.
"""

import json
import platform
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmcv import _ext
from mmcv.ops.voxelize import voxelization

SEED = 2026
RANGE = (-2.0, -3.0, -1.0, 4.0, 3.0, 1.0)
# name -> (points, columns, type, voxel size, most points of a voxel, most voxels)
CASES = {
    'plain': (400, 4, np.float32, (0.5, 0.4, 0.5), 5, 400),
    'full_voxels': (300, 3, np.float32, (3.0, 3.0, 2.0), 4, 100),
    'too_many_voxels': (300, 5, np.float32, (0.5, 0.5, 0.25), 3, 20),
    'uneven_range': (200, 4, np.float32, (0.7, 0.9, 0.3), 3, 200),
    'pillars': (200, 4, np.float32, (0.16, 0.16, 2.0), 32, 16000),
    'double': (200, 4, np.float64, (0.5, 0.4, 0.5), 5, 100),
    'outside': (40, 4, np.float32, (0.5, 0.4, 0.5), 5, 400),
    'empty': (0, 4, np.float32, (0.5, 0.4, 0.5), 5, 400),
}

if __name__ == '__main__':
    rng = np.random.RandomState(SEED)
    arrays = {}
    for name, (count, columns, kind, size, max_points, max_voxels) in CASES.items():
        points = np.hstack([rng.uniform(-4, 5, (count, 3)), rng.rand(count, columns - 3)]).astype(kind)
        if name == 'outside':
            points[:, 0] += 20
        elif count:  # on bounds of the range and between voxels, twice the same, not finite
            points[:8, :3] = [RANGE[:3], RANGE[3:], (-1.5, -2.6, 0), (-1.5, -2.6, 0), (np.nan, 0, 0), (0, np.inf, 0),
                              (0, 0, -np.inf), (3.9999998, 2.9999998, 0.99999994)]
        tensor = torch.from_numpy(points)
        voxels, coors, num = voxelization(tensor, size, RANGE, max_points, max_voxels, True)
        arrays |= {f'{name}/points': points, f'{name}/voxels': voxels, f'{name}/coors': coors, f'{name}/num': num,
                   f'{name}/dynamic': voxelization(tensor, size, RANGE, -1, -1)}
    settings = {name: case[3:] for name, case in CASES.items()}
    provenance = (f'github.com/open-mmlab/mmcv v{mmcv.__version__} compiled for the CPU by '
                  f'{_ext.get_compiler_version()}, torch {torch.__version__}, python {platform.python_version()}; '
                  f'command: python tests/data/parity/record_ops_voxel.py; seed {SEED}')
    target = Path(__file__).with_name('ops_voxel.npz')
    np.savez_compressed(target, settings=json.dumps(settings), range=RANGE, provenance=provenance,
                        **{key: np.asarray(value) for key, value in arrays.items()})
    print(f'{target}: {len(CASES)} cases, {target.stat().st_size} bytes')
