"""The pathwise gradient, by reparameterisation."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions import Mixture
from jensen.errors import ConfigError
from jensen.objectives.gradients.estimator import Estimator, Function, Surrogate


class Pathwise(Estimator):
    """∇ E_q[f(z)] = E_ε[∇ f(g(ε; θ))], z = g(ε; θ): for every density with `rsample`, and a differentiable f.

    Where g is not explicit (Gamma, Beta, Dirichlet, Student's t), `rsample` differentiates it implicitly. A mixture of
    such densities is drawn component by component, S times each, so that its weights have an exact gradient:

        E_q[f] = Σ_k π_k E_{q_k}[f]

    Kingma and Welling 2014, arXiv:1312.6114; Figurnov, Mohamed and Mnih 2018, arXiv:1805.08498; of mixtures: Roeder,
    Wu and Duvenaud 2017, arXiv:1703.09194.
    """

    def forward(self, q: Distribution, f: Function, samples: int = 1, context: Tensor | None = None) -> Surrogate:
        if isinstance(q, Mixture) and q.components.has_rsample:
            value = f(q.components.rsample((samples,)))  # (S, *batch, K)
            value = (q.log_weights.exp() * value).sum(-1).mean(0)
        elif q.has_rsample:
            value = f(q.rsample((samples,))).mean(0)
        else:
            raise ConfigError(
                f"gradient: pathwise needs draws that are a differentiable function of the parameters, and "
                f"{type(q).__name__} has no rsample; use the score function"
            )
        return Surrogate(value, value.new_zeros(()))
