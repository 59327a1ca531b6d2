"""Networks. They map tensors to tensors and know no probability.

Each is registered under the role `network` and built from two event shapes, `(D,)` or `(C, H, W)`: what comes
in, of order 1, and what goes out, without bounds. All return a `Stack`. None uses batch normalisation: what a
network says of a datum does not depend on the batch around it.
"""

from jensen.nets.convolutional import conv, resconv
from jensen.nets.dense import gated, linear, mlp, residual
from jensen.nets.stack import Stack

__all__ = ["Stack", "conv", "gated", "linear", "mlp", "resconv", "residual"]
