"""Log-linear conditionals of discrete data, by features that a user names.

    p(x | z, w) = exp(wᵀ f(x, z)) / Σ_x′ exp(wᵀ f(x′, z))        ∂ log p(x | z, w) / ∂w = f(x, z) − E[f(X, z) | z, w]

Values of x and z are enumerated: the sum goes over a fresh x′, all |X| of them. Features are a matrix, dense or sparse,
or a function of x, or of x and z.

Berg-Kirkpatrick, Bouchard-Côté, DeNero and Klein, "Painless unsupervised learning with features", NAACL 2010.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sparse
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical, constraints

from jensen.errors import ConfigError, DataError

MOST_SCORES = 2**24
"""|X| |Z| that are enumerated: 128 MB in float64, several times over while weights are fitted."""
MOST_FEATURES = 2**25
"""Numbers in a matrix of features that are held, of a sparse one what is not 0: 256 MB in float64."""


def check_sizes(values: int, classes: int, held: int, what: str = "", dense: bool = True) -> None:
    """Raises `ConfigError` with the size and the reason where there is too much to enumerate.

    Args:
        values: |X|. classes: |Z|. held: numbers in the matrix of features.
        what: words on how |X| comes about. dense: whether the matrix is.
    """
    of_x = f"{_size(values)} values of x{f' ({what})' if what else ''}"
    if values * classes > MOST_SCORES:
        raise ConfigError(
            f"{of_x} × {classes:,} of z are {_size(values * classes)} scores, more than {MOST_SCORES:,}: p(x | z) is "
            f"normalised by a sum over every x. Drop columns, lower the number of values or of classes, or take a "
            f"model that does not enumerate, as vae"
        )
    if held > MOST_FEATURES:
        raise ConfigError(
            f"the features of {of_x} are {_size(held)} numbers, more than {MOST_FEATURES:,}: they are held in memory, "
            f"as each step of training needs them all. Take fewer features{', or a sparse matrix' if dense else ''}"
        )


def _size(n: int) -> str:
    return f"{n:,}" if n < 10**12 else f"some 10^{math.log10(n):.0f}"


# What a score is made of: linear maps from weights to scores, (Z, X), with their adjoints.


class Matrix(nn.Module):
    """A constant matrix M, (R, F), dense or sparse, in float64; its products, and Mᵀ's, from either side.

    Args:
        values: array, tensor, or scipy's or torch's sparse matrix.

    A sparse one is held by its rows, with its transpose beside it.
    """

    by_row: Tensor
    by_column: Tensor | None

    def __init__(self, values: Any):
        super().__init__()
        if isinstance(values, Tensor) and values.layout != torch.strided:
            coo = values.detach().to_sparse_coo().coalesce().cpu()
            at = coo.indices().numpy()
            values = sparse.csr_matrix((coo.values().double().numpy(), (at[0], at[1])), coo.shape)
        self.sparse = sparse.issparse(values)
        if self.sparse:
            rows = sparse.csr_matrix(values, dtype=np.float64)
            self.held = rows.nnz
            self.register_buffer("by_row", _compressed(rows), persistent=False)
            self.register_buffer("by_column", _compressed(rows.T.tocsr()), persistent=False)
        else:
            dense = torch.as_tensor(values).detach().to("cpu", torch.float64)
            self.held = dense.numel()
            self.register_buffer("by_row", dense.contiguous(), persistent=False)
            self.by_column = None
        if self.by_row.dim() != 2:
            raise ConfigError(f"features: expected a matrix, got shape {tuple(self.by_row.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.by_row.shape[0], self.by_row.shape[1]

    def times(self, right: Tensor) -> Tensor:
        """(M right)ᵀ, (C, R), for right (F, C)."""
        if self.sparse:
            return (self.by_row @ right.to(self.by_row.dtype).contiguous()).mT
        return right.to(self.by_row.dtype).mT @ self.by_row.mT

    def transposed_times(self, right: Tensor) -> Tensor:
        """Mᵀ right, (F, C), for right (R, C)."""
        right = right.to(self.by_row.dtype)
        if self.by_column is not None:
            return self.by_column @ right.contiguous()
        return (right.mT @ self.by_row).mT  # in this order, as right is a transpose itself: six times as fast

    def squared(self) -> Matrix:
        """The matrix of squares, for one use: it is a copy."""
        new = object.__new__(Matrix)
        nn.Module.__init__(new)
        new.sparse, new.held = self.sparse, self.held
        new.by_row = _squares(self.by_row)
        new.by_column = None if self.by_column is None else _squares(self.by_column)
        return new

    def scipy(self) -> Any:
        """The same as scipy's sparse matrix by rows."""
        if not self.sparse:
            return sparse.csr_matrix(self.by_row.cpu().numpy())
        m = self.by_row.cpu()
        return sparse.csr_matrix((m.values().numpy(), m.col_indices().numpy(), m.crow_indices().numpy()), self.shape)


def _compressed(m: Any) -> Tensor:
    """A matrix of scipy as torch's, by rows."""
    crow, col = (torch.from_numpy(a.astype(np.int64)) for a in (m.indptr, m.indices))
    return _by_rows(crow, col, torch.from_numpy(m.data), m.shape)


def _by_rows(crow: Tensor, col: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)  # torch calls it beta
        return torch.sparse_csr_tensor(crow, col, values, shape, check_invariants=True)


def _squares(m: Tensor) -> Tensor:
    if m.layout == torch.strided:
        return m.square()
    return _by_rows(m.crow_indices(), m.col_indices(), m.values().square(), tuple(m.shape))


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


# Distributions and conditionals


class Domain(nn.Module):
    """Every value of x: whole numbers 0..levels−1 in each element, numbered with the last element the fastest.

    Args:
        levels: how many values each element has, in order.
        event_shape: of x; () for a single number.
        names: of the elements, for messages.

    >>> Domain([2, 3], (2,)).index(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    tensor([5, 1])
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: Sequence[int], event_shape: tuple[int, ...] = (), names: Sequence[str] = ()):
        super().__init__()
        self.event_shape, self.names = tuple(event_shape), tuple(names)
        self.size = math.prod(levels)
        sizes = torch.tensor(levels, dtype=torch.long)
        strides = torch.tensor([math.prod(levels[d + 1 :]) for d in range(len(levels))], dtype=torch.long)
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("strides", strides, persistent=False)

    def index(self, x: Tensor) -> Tensor:
        """The number of each value, (*batch,), for x (*batch, *event).

        Raises:
            DataError: a value that is none of these, naming its element.
        """
        flat = x.reshape(*x.shape[: x.dim() - len(self.event_shape)], -1)  # (*batch, D)
        whole = flat.round().long() if flat.is_floating_point() else flat.long()
        wrong = (whole < 0) | (whole >= self.levels)
        if wrong.any():
            at = wrong.nonzero()[0]
            element = int(at[-1])
            name = f"column {self.names[element]!r}" if self.names else f"element {element} of x"
            top, value = int(self.levels[element]) - 1, float(flat[tuple(at)])
            raise DataError(f"{name}: expected 0..{top}, the values that are enumerated, got {value:g}")
        return (whole * self.strides).sum(-1)

    def values(self, index: Tensor | None = None) -> Tensor:
        """x by their numbers, (*batch, *event) whole numbers; all of them by default."""
        index = torch.arange(self.size, device=self.levels.device) if index is None else index
        return (index[..., None] // self.strides % self.levels).reshape(*index.shape, *self.event_shape)


class Enumerated(Distribution):
    """p(x | z) = Σ_k z_k p(x | k), by a table of log-probabilities.

    Args:
        table: log p(x | k), (Z, X).
        z: one number of a class each, (*batch,), or weights of the classes, (*batch, Z), as one-hot vectors are.
        domain: of x.
    """

    arg_constraints: ClassVar[dict] = {}
    has_rsample = False
    _validate_args = False

    def __init__(self, table: Tensor, z: Tensor, domain: Domain):
        self.table, self.z, self.domain = table, z, domain
        self.chosen = not z.is_floating_point()

    @property
    def batch_shape(self) -> torch.Size:
        return self.z.shape if self.chosen else self.z.shape[:-1]

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size(self.domain.event_shape)

    @property
    def support(self) -> Any:
        """The constraint on one element of x."""
        return constraints.integer_interval(0, int(self.domain.levels.max()) - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """In nats, `(*batch,)`."""
        index = self.domain.index(value)
        if self.chosen:
            return self.table[self.z, index]
        weight = self.z / self.z.sum(-1, keepdim=True)
        return (weight.log() + self.table.mT[index]).logsumexp(-1)

    @property
    def probs(self) -> Tensor:
        """Of every x, (*batch, X)."""
        if self.chosen:
            return self.table.exp()[self.z]
        return self.z / self.z.sum(-1, keepdim=True) @ self.table.exp()

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """First a class, then x by the inverse of its cumulative probabilities, which no batch makes larger."""
        shape = torch.Size(sample_shape) + self.batch_shape
        if self.chosen:
            k = self.z.expand(shape).reshape(-1)
        else:
            k = torch.multinomial(self.z.expand(*shape, -1).reshape(-1, self.z.shape[-1]), 1)[:, 0]
        cumulative = self.table.double().exp().cumsum(-1)
        index = torch.empty_like(k)
        for one in k.unique():
            mine = (k == one).nonzero()[:, 0]
            u = torch.rand(len(mine), dtype=torch.float64, device=k.device) * cumulative[one, -1]
            index[mine] = torch.searchsorted(cumulative[one], u, right=True).clamp_max(self.domain.size - 1)
        return self.domain.values(index).to(self.table.dtype).reshape(shape + self.event_shape)

    @property
    def mean(self) -> Tensor:
        """Of the numbers, `(*batch, *event)`."""
        values = self.domain.values().flatten(1) if self.event_shape else self.domain.values()[:, None]
        means = self.table.exp() @ values.to(self.table.dtype)  # (Z, D)
        mean = means[self.z] if self.chosen else self.z / self.z.sum(-1, keepdim=True) @ means
        return mean.reshape(self.batch_shape + self.event_shape)

    @property
    def mode(self) -> Tensor:
        """The likeliest x, `(*batch, *event)`."""
        return self.domain.values(self.probs.argmax(-1)).to(self.table.dtype)

    def detach(self) -> Self:
        """The same with its parameters stopped."""
        return type(self)(self.table.detach(), self.z.detach(), self.domain)

    def unflatten(self, sizes: Sequence[int]) -> Self:
        """The first batch dimension, of size K·B, seen as `sizes`, say (K, B)."""
        return type(self)(self.table, self.z.unflatten(0, tuple(sizes)), self.domain)

    def __repr__(self) -> str:
        return f"Enumerated({len(self.table)} classes, {self.domain.size} values, batch_shape={self.batch_shape})"


class LogLinear(nn.Module):
    """p(x | z, w) ∝ exp(wᵀ f(x, z)) over an enumerated domain.

    Args:
        features: f, as `Crossed` or `Joint`.
        domain: of x; by default the numbers 0..|X|−1, event shape ().

    Attributes:
        weight: w, zero at first: all x are equally likely.

    >>> p = LogLinear(Crossed(np.eye(3), classes=2))
    >>> p(torch.tensor([0, 1])).log_prob(torch.tensor([2, 0])).exp()
    tensor([0.3333, 0.3333], grad_fn=<ExpBackward0>)
    """

    def __init__(self, features: Features, domain: Domain | None = None):
        super().__init__()
        self.features = features
        self.domain = domain if domain is not None else Domain([features.sizes[1]])
        if self.domain.size != features.sizes[1]:
            raise ConfigError(f"features: expected those of {self.domain.size:,} values, got {features.sizes[1]:,}")
        self.weight = nn.Parameter(torch.zeros(features.weight_shape))

    @property
    def classes(self) -> int:
        return self.features.sizes[0]

    def table(self) -> Tensor:
        """log p(x | z) of all x and z, (Z, X), in nats: O(|X| |Z|)."""
        return self.features.scores(self.weight).log_softmax(-1)

    def forward(self, z: Tensor) -> Enumerated:
        """z: numbers of classes, (N,), or one-hot vectors or weights of them, (N, Z)."""
        return Enumerated(self.table(), z, self.domain)


class Classes(nn.Module):
    """p(z = k) = π_k, z a one-hot vector, (K,). All are equally likely at first."""

    def __init__(self, classes: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self) -> OneHotCategorical:
        return OneHotCategorical(logits=self.logits, validate_args=False)

    @torch.no_grad()
    def set(self, probs: Tensor) -> None:
        """Set π; a class without any share keeps a tiny one, so that its logarithm is finite."""
        self.logits.copy_(probs.double().clamp_min(1e-12).log().log_softmax(-1))


class ClassPosterior(nn.Module):
    """p(z | x, ...) = p(z) Π p(· | z) / Σ_z, exact, by enumeration."""

    exact_posterior = True
    discrete = True

    def __init__(self, prior: Classes, *likelihoods: LogLinear):
        super().__init__()
        self.prior, self.likelihoods = prior, nn.ModuleList(likelihoods)

    def forward(self, *values: Tensor) -> OneHotCategorical:
        logits = self.prior.logits.log_softmax(-1)
        for likelihood, value in zip(self.likelihoods, values, strict=True):
            logits = logits + likelihood.table().mT[likelihood.domain.index(value)]  # pyright: ignore
        return OneHotCategorical(logits=logits, validate_args=False)
