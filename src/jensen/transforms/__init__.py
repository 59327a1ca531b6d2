"""Invertible maps with their log-determinants, both ways."""

from jensen.transforms.elementwise import Affine, Exp, Scaling, Sigmoid, Softplus, interval, levels
from jensen.transforms.householder import Reflections
from jensen.transforms.monotone import AdditiveMap, AffineMap, Monotone
from jensen.transforms.normalization import ActNorm
from jensen.transforms.planar import Planar
from jensen.transforms.radial import Radial
from jensen.transforms.sylvester import Sylvester
from jensen.transforms.transform import Composed, Inverse, Reshape, Transform

__all__ = [
    "ActNorm",
    "AdditiveMap",
    "Affine",
    "AffineMap",
    "Composed",
    "Exp",
    "Inverse",
    "Monotone",
    "Planar",
    "Radial",
    "Reflections",
    "Reshape",
    "Scaling",
    "Sigmoid",
    "Softplus",
    "Sylvester",
    "Transform",
    "interval",
    "levels",
]
