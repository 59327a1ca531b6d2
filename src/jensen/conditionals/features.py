"""Features of discrete values: linear maps from weights to scores wᵀ f(x, z), (Z, X), with their adjoints.

They are a matrix, dense or sparse, or a function of x, or of x and z.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor, nn

from jensen.conditionals.matrices import Matrix, check_sizes
from jensen.errors import ConfigError, DataError


class Features(nn.Module):
    """f(x, z) of every x and z: the linear map from weights to scores wᵀ f(x, z), (Z, X), and its adjoint.

    A subclass gives `_scores` and `totals`, which are adjoint to each other; `scores` then has the gradient.

    Attributes:
        sizes: (|Z|, |X|).
        weight_shape: of w.
    """

    sizes: tuple[int, int]
    weight_shape: tuple[int, ...]

    def scores(self, weight: Tensor) -> Tensor:
        """wᵀ f(x, z), (Z, X)."""
        return _Scores.apply(weight, self)  # pyright: ignore[reportReturnType]

    def _scores(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def totals(self, counts: Tensor) -> Tensor:
        """Σ_zx c(z, x) f(x, z), shaped as w, for counts (Z, X)."""
        raise NotImplementedError

    def squares(self, counts: Tensor) -> Tensor:
        """Σ_zx c(z, x) f(x, z)², shaped as w."""
        raise NotImplementedError

    def extremes(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest totals, shaped as w, that any x could give with so many of each z, (Z,)."""
        raise NotImplementedError

    def name(self, position: int) -> str:
        """What the weight at a position, counted through w, belongs to."""
        raise NotImplementedError

    @property
    def held(self) -> int:
        """How many numbers `rows` holds."""
        raise NotImplementedError

    def rows(self) -> Any:
        """f(x, z), scipy's sparse matrix, (|Z| |X|, F)."""
        raise NotImplementedError


class _Scores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, features: Features) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.features, ctx.dtype = features, weight.dtype
        return features._scores(weight).to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.features.totals(gradient).to(ctx.dtype), None


class Joint(Features):
    """f(x, z), any: w is (F,).

    Args:
        matrix: (|Z|, |X|, F), or (|Z| |X|, F) with z the slower, dense or sparse.
        classes: |Z|; may be left out where the shape says it.
        names: of the F features.
        values: of the |X| values of x, for messages.

    >>> Joint(np.ones((2, 3, 4))).scores(torch.ones(4)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self, matrix: Any, classes: int | None = None, names: Sequence[str] = (), values: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        if len(matrix.shape) == 3:
            classes = matrix.shape[0]
            matrix = matrix.reshape(-1, matrix.shape[-1])
        if not classes or matrix.shape[0] % classes:
            raise ConfigError(f"features: expected |Z| |X| rows with |Z| = {classes}, got {matrix.shape[0]}")
        x = matrix.shape[0] // classes
        self.names, self.values = tuple(names), tuple(values)
        _check_names(self.names, matrix.shape[1])
        check_sizes(x, classes, _held(matrix), dense=not sparse.issparse(matrix))
        self.matrix = Matrix(matrix)
        self.sizes, self.weight_shape = (classes, x), (matrix.shape[1],)
        _check_finite(self.matrix, lambda r: f"x = {_value(self.values, r % x)}, z = {r // x}", self.name)

    @classmethod
    def of(cls, function: Callable[[Any, Any], Any], values: Sequence[Any], classes: Sequence[Any] | int) -> Self:
        """From a function f(x, z): numbers by name, the names of what is 1, or a vector.

        Args:
            values: every x. classes: every z, or how many: 0, 1, ....
        """
        zs = range(classes) if isinstance(classes, int) else classes
        check_sizes(len(values), len(zs), 0)
        matrix, names = tabulate(lambda pair: function(*pair), [(x, z) for z in zs for x in values])
        return cls(matrix, len(zs), names, values)

    def _scores(self, weight: Tensor) -> Tensor:
        return self.matrix.times(weight[:, None]).reshape(self.sizes)

    def totals(self, counts: Tensor) -> Tensor:
        return self.matrix.transposed_times(counts.reshape(-1, 1))[:, 0]

    def squares(self, counts: Tensor) -> Tensor:
        return self.matrix.squared().transposed_times(counts.reshape(-1, 1))[:, 0]

    def extremes(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        rows, x = self.matrix.scipy(), self.sizes[1]
        low, high = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
        for z, n in enumerate(counts.tolist()):
            low += n * _dense_row(rows[z * x : (z + 1) * x].min(0))
            high += n * _dense_row(rows[z * x : (z + 1) * x].max(0))
        return torch.from_numpy(low), torch.from_numpy(high)

    def name(self, position: int) -> str:
        return self.names[position] if self.names else f"feature {position}"

    @property
    def held(self) -> int:
        return self.matrix.held

    def rows(self) -> Any:
        return self.matrix.scipy()


class Crossed(Features):
    """f(x, z) = g(x) ⊗ h(z): each feature of x with each of z, w is (G, H).

    With h(z) an indicator of z each class has weights of its own. A richer h lets classes share what they have in
    common: z may have an inner structure. With g(x) an indicator of x and h(z) a row of numbers this is multinomial
    logistic regression of x.

    Args:
        matrix: g, (|X|, G), dense or sparse.
        classes: |Z|, each with weights of its own; or h, (|Z|, H).
        names: of the G features. values: of the |X| values, for messages. class_names: of the H features of z.

    >>> Crossed(np.eye(3), 2).scores(torch.ones(3, 2)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        matrix: Any,
        classes: int | Any,
        names: Sequence[str] = (),
        values: Sequence[Any] = (),
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.names, self.values = tuple(names), tuple(values)
        z = classes if isinstance(classes, int) else classes.shape[0]
        check_sizes(matrix.shape[0], z, _held(matrix), dense=not sparse.issparse(matrix))
        _check_names(self.names, matrix.shape[1])
        self.matrix = Matrix(matrix)
        self.of_class = None if isinstance(classes, int) else Matrix(classes)
        of_z = z if self.of_class is None else self.of_class.shape[1]
        _check_names(class_names, of_z)
        self.class_names = tuple(class_names)
        self.sizes, self.weight_shape = (z, matrix.shape[0]), (matrix.shape[1], of_z)
        _check_finite(self.matrix, lambda r: f"x = {_value(self.values, r)}", self._of_x)
        if self.of_class is not None:
            _check_finite(self.of_class, lambda r: f"z = {r}", self._of_z)

    @classmethod
    def of(
        cls,
        function: Callable[[Any], Any],
        values: Sequence[Any],
        classes: int | Any,
        class_names: Sequence[str] = (),
    ) -> Self:
        """From a function g(x): numbers by name, the names of what is 1, or a vector.

        >>> Crossed.of(lambda word: [word[-1], "any"], ["ab", "bb", "ac"], 2).names
        ('b', 'any', 'c')
        """
        matrix, names = tabulate(function, values)
        return cls(matrix, classes, names, values, class_names)

    def _scores(self, weight: Tensor) -> Tensor:
        found = self.matrix.times(weight)  # (H, X)
        return found if self.of_class is None else self.of_class.times(found).mT

    def totals(self, counts: Tensor) -> Tensor:
        if self.of_class is not None:
            counts = self.of_class.transposed_times(counts)
        return self.matrix.transposed_times(counts.mT)

    def squares(self, counts: Tensor) -> Tensor:
        if self.of_class is not None:
            counts = self.of_class.squared().transposed_times(counts)
        return self.matrix.squared().transposed_times(counts.mT)

    def extremes(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.matrix.scipy()
        low, high = (torch.from_numpy(_dense_row(end))[:, None] for end in (rows.min(0), rows.max(0)))
        n = counts.double().cpu()
        if self.of_class is None:
            return low * n, high * n
        h = torch.from_numpy(self.of_class.scipy().toarray())
        up, down = n @ h.clamp_min(0), n @ (-h).clamp_min(0)  # (H,)
        return low * up - high * down, high * up - low * down

    def _of_x(self, position: int) -> str:
        return self.names[position] if self.names else f"feature {position}"

    def _of_z(self, position: int) -> str:
        return self.class_names[position] if self.class_names else f"z = {position}"

    def name(self, position: int) -> str:
        of_x, of_z = divmod(position, self.weight_shape[1])
        return f"{self._of_x(of_x)} & {self._of_z(of_z)}"

    @property
    def held(self) -> int:
        return self.matrix.held * (self.sizes[0] if self.of_class is None else self.of_class.held)

    def rows(self) -> Any:
        h = sparse.identity(self.sizes[0]) if self.of_class is None else self.of_class.scipy()
        z, x = self.sizes
        g, h = self.matrix.scipy(), h.tocsr()
        by_x_first = sparse.kron(g, h).tocsr()  # rows x, z; columns G, H
        return by_x_first[np.arange(z * x).reshape(x, z).T.ravel()]


def tabulate(function: Callable[[Any], Any], values: Sequence[Any]) -> tuple[Any, list[str]]:
    """Features of each value as a sparse matrix, (n, F), with their names, in order of appearance.

    Args:
        function: gives numbers by name, the names of what is 1, or a vector.
    """
    positions: dict[str, int] = {}
    row: list[int] = []
    column: list[int] = []
    numbers: list[float] = []
    for i, value in enumerate(values):
        found = function(value)
        if isinstance(found, Mapping):
            pairs: Iterable[tuple[str, float]] = found.items()
        else:
            found = list(found)
            named = all(isinstance(f, str) for f in found)
            pairs = ((f, 1.0) for f in dict.fromkeys(found)) if named else zip(map(str, range(len(found))), found)  # noqa: B905
        for name, number in pairs:
            row.append(i)
            column.append(positions.setdefault(name, len(positions)))
            numbers.append(float(number))
    return sparse.csr_matrix((numbers, (row, column)), (len(values), len(positions))), list(positions)


def _held(matrix: Any) -> int:
    if sparse.issparse(matrix):
        return matrix.nnz
    return matrix._nnz() if isinstance(matrix, Tensor) and matrix.layout != torch.strided else math.prod(matrix.shape)


def _check_names(names: Sequence[str], count: int) -> None:
    if names and len(names) != count:
        raise ConfigError(f"features: expected {count} names, got {len(names)}")


def _check_finite(matrix: Matrix, where: Callable[[int], str], name: Callable[[int], str]) -> None:
    """Raises `DataError` naming the first number that is not finite, its feature and its value."""
    numbers = matrix.by_row.values() if matrix.sparse else matrix.by_row
    if torch.isfinite(numbers).all():
        return
    found = matrix.scipy().tocoo()
    i = int((~np.isfinite(found.data)).argmax())
    what = name(int(found.col[i]))
    raise DataError(f"feature {what!r}: expected a finite number, got {found.data[i]} at {where(int(found.row[i]))}")


def _value(values: Sequence[Any], position: int) -> str:
    return repr(values[position]) if values else str(position)


def _dense_row(found: Any) -> np.ndarray:
    return np.asarray(found.todense()).ravel()
