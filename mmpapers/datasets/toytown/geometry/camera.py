"""A pinhole camera above the ego origin."""

from dataclasses import dataclass

import numpy as np

from ..draw import sincos


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion.

    Pixel (row v, column u) has its centre at ``(u, v)`` in image coordinates, as in COCO tools and OpenCV's matrix.

    Args:
        width: Image width in pixels.
        height: Image height in pixels.
        focal: Focal length in pixels.
        centre: Principal point (cx, cy) in pixels.
        position: Optical centre (x, y, z) in the ego frame, metres.
        yaw: Turn to the left, radians.
        pitch: Turn downwards, radians.
        roll: Turn clockwise as seen in the image's content tilting left, radians.
    """

    width: int
    height: int
    focal: float
    centre: tuple[float, float]
    position: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    @property
    def intrinsics(self) -> np.ndarray:
        """The matrix K, (3, 3)."""
        return np.array([[self.focal, 0, self.centre[0]], [0, self.focal, self.centre[1]], [0, 0, 1.0]])

    @property
    def axes(self) -> np.ndarray:
        """Rows are the camera's right, down and forward axes in the ego frame, (3, 3)."""
        (sy, cy), (sp, cp), (sr, cr) = sincos(self.yaw), sincos(self.pitch), sincos(self.roll)
        forward = (cp * cy, cp * sy, -sp)
        right = (sy, -cy, 0.0)
        down = (-sp * cy, -sp * sy, -cp)
        return np.array([[cr * r + sr * d for r, d in zip(right, down)],
                         [cr * d - sr * r for r, d in zip(right, down)], forward])

    @property
    def ego_to_camera(self) -> np.ndarray:
        """Homogeneous transform from ego to camera coordinates, (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes
        matrix[:3, 3] = -(self.axes * np.array(self.position)).sum(1)
        return matrix

    def directions(self, samples: int = 1) -> np.ndarray:
        """Rays through a grid of ``samples`` x ``samples`` points in each pixel.

        They are scaled so that the ray parameter equals the depth along the optical axis.

        Returns:
            Directions in the ego frame, (samples * height, samples * width, 3).
        """
        u = ((np.arange(self.width * samples) + 0.5) / samples - 0.5 - self.centre[0]) / self.focal
        v = ((np.arange(self.height * samples) + 0.5) / samples - 0.5 - self.centre[1]) / self.focal
        right, down, forward = self.axes
        return u[None, :, None] * right + v[:, None, None] * down + forward

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project ego points (..., 3).

        Returns:
            Pixel coordinates (..., 2), meaningless where the depth is not positive, and depths (...).
        """
        offset = points - np.array(self.position)
        x, y, depth = (offset[..., 0] * a[0] + offset[..., 1] * a[1] + offset[..., 2] * a[2] for a in self.axes)
        safe = np.where(depth > 1e-6, depth, 1e-6)
        return np.stack([x / safe * self.focal + self.centre[0], y / safe * self.focal + self.centre[1]], -1), depth
