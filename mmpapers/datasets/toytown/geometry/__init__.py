"""Geometry of Toytown: affine primitives, the camera, and ray casting shared by camera and LiDAR.

Frames are right-handed and in metres. Ego: x forward, y left, z up, origin on the ground below the camera. Camera
(OpenCV, KITTI): x right, y down, z forward.
"""

from .camera import Camera
from .primitives import BOX, CYLINDER, ELLIPSOID, RING, RING_HOLE, Parts, Primitives
from .raycast import Hits, cast_camera, cast_rays, in_shadow, surface

__all__ = ['BOX', 'CYLINDER', 'ELLIPSOID', 'RING', 'RING_HOLE', 'Camera', 'Hits', 'Parts', 'Primitives', 'cast_camera',
           'cast_rays', 'in_shadow', 'surface']
