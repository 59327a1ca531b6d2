"""Invertible maps with their log-determinants, both ways."""

from jensen.transforms.autoregressive import MaskedAutoregressive
from jensen.transforms.columns import Columns
from jensen.transforms.continuous import Continuous
from jensen.transforms.coupling import Coupling
from jensen.transforms.elementwise import Affine, Exp, Scaling, Sigmoid, Softplus, interval, levels
from jensen.transforms.householder import Reflections
from jensen.transforms.linear import LULinear
from jensen.transforms.marginals import Marginals
from jensen.transforms.monotone import AdditiveMap, AffineMap, Monotone
from jensen.transforms.multiscale import MultiScale, Squeeze
from jensen.transforms.normalization import ActNorm
from jensen.transforms.ode import Solver
from jensen.transforms.permutation import Permutation
from jensen.transforms.planar import Planar
from jensen.transforms.radial import Radial
from jensen.transforms.spline import Elementwise, RationalQuadratic, Rotation
from jensen.transforms.support import Bounded, Circle, Harmonics, Staged, Told, Turn
from jensen.transforms.sylvester import Sylvester
from jensen.transforms.transform import Composed, Inverse, Reshape, Transform
from jensen.transforms.triangular import Triangular

__all__ = [
    "ActNorm",
    "AdditiveMap",
    "Affine",
    "AffineMap",
    "Bounded",
    "Circle",
    "Columns",
    "Composed",
    "Continuous",
    "Coupling",
    "Elementwise",
    "Exp",
    "Harmonics",
    "Inverse",
    "LULinear",
    "Marginals",
    "MaskedAutoregressive",
    "Monotone",
    "MultiScale",
    "Permutation",
    "Planar",
    "Radial",
    "RationalQuadratic",
    "Reflections",
    "Reshape",
    "Rotation",
    "Scaling",
    "Sigmoid",
    "Softplus",
    "Solver",
    "Squeeze",
    "Staged",
    "Sylvester",
    "Told",
    "Transform",
    "Triangular",
    "Turn",
    "interval",
    "levels",
]
