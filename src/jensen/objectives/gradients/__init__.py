"""Monte Carlo estimators of ∇ E_q[f(z)], interchangeable.

| estimator | for which q | for which f | bias |
|---|---|---|---|
| `Pathwise` | with `rsample`; mixtures of such | differentiable | none |
| `ScoreFunction` | any | any | none |
| `MeasureValued` | independent normal, Poisson, gamma, Bernoulli | any | none |
| `StraightThrough` | bits, one-hot classes | differentiable | yes |
| `GumbelSoftmax` | bits, one-hot classes | differentiable | yes |

`compare` measures them. Mohamed, Rosca, Figurnov and Mnih, "Monte Carlo gradient estimation in machine learning", 2020,
arXiv:1906.10652.
"""

from jensen.objectives.gradients.comparison import Comparison, Measured, compare
from jensen.objectives.gradients.estimator import Estimator, Surrogate
from jensen.objectives.gradients.measure_valued import MeasureValued
from jensen.objectives.gradients.pathwise import Pathwise
from jensen.objectives.gradients.relaxed import GumbelSoftmax, StraightThrough
from jensen.objectives.gradients.score_function import (
    BASELINES,
    Baseline,
    Learned,
    LeaveOneOut,
    Running,
    ScoreFunction,
    score_of_evidence,
    unreparameterised,
)

__all__ = [
    "BASELINES",
    "Baseline",
    "Comparison",
    "Estimator",
    "GumbelSoftmax",
    "Learned",
    "LeaveOneOut",
    "MeasureValued",
    "Measured",
    "Pathwise",
    "Running",
    "ScoreFunction",
    "StraightThrough",
    "Surrogate",
    "compare",
    "score_of_evidence",
    "unreparameterised",
]
