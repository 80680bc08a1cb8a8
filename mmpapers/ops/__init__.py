"""OpenMMLab's compiled functions in torch and numba, behind one boundary (:mod:`mmpapers.ops.boundary`)."""
