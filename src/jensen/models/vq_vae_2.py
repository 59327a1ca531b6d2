"""Two levels of discrete codes: few that say what the picture is of, and more that say how it looks.

    p(x, k_t, k_b) = p(k_t) p(k_b | e_t) p(x | e_t, e_b)
    f = f(x),  h_t = g(f),  h_b = b(f, e_t)        k = argmin_c ‖h − e_c‖ at both levels

The grid of the top is the bottom's halved once more. The bottom is encoded knowing the top, and its prior sees in each
cell what the top says there.

Razavi, van den Oord and Vinyals, "Generating diverse high-fidelity images with VQ-VAE-2", 2019, arXiv:1906.00446.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jensen.conditionals.amortized import Amortized, AmortizedCode, rescaled
from jensen.conditionals.code_priors import Beneath, code_prior
from jensen.conditionals.heads import Support
from jensen.conditionals.hierarchy import Node
from jensen.conditionals.quantizers import Assign, Lookup, Through
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.models.family import given
from jensen.models.vq_vae import Halvings, Share, arranged, vqvae
from jensen.nets.stack import Size
from jensen.objectives.quantized import quantized
from jensen.registry import CausalSlot, Likelihood, Network, QuantizerSlot, model


class Raised(nn.Module):
    """Vectors of the bottom's cells and those of the top above them, as planes: (N, B, *grid), (N, D, *above)."""

    def __init__(self, grid: tuple[int, ...]):
        super().__init__()
        self.raise_to = nn.Upsample(size=grid, mode="nearest")

    def forward(self, bottom: Tensor, top: Tensor) -> Tensor:
        return torch.cat([bottom, self.raise_to(top)], 1)


class Pointwise(nn.Sequential):
    """The top's vectors brought to the bottom's grid, and a perceptron of each cell and its neighbours."""

    def __init__(self, width: int, outputs: int, grid: tuple[int, ...]):
        near = nn.Conv2d(width, outputs, 3, padding=1)
        super().__init__(nn.Upsample(size=grid, mode="nearest"), near, nn.ELU(), nn.Conv2d(outputs, outputs, 1))


@model("vqvae2", paper="Razavi, van den Oord and Vinyals 2019, arXiv:1906.00446")
def vqvae2(
    schema: Schema,
    *,
    halvings: Halvings = 1,
    features: Size = 64,
    quantizer: QuantizerSlot = "ema",
    encoder: Network = "resconv",
    decoder: Network = "resconv",
    prior: CausalSlot = "pixelcnn",
    likelihood: Likelihood = "auto",
    share: Share = 0.5,
    conditional: bool = False,
) -> Model:
    """Two grids of codes, the coarse one above the fine one, and then an autoregressive prior over each.

    Settings:
        halvings: how often a picture is halved to get to its finer grid of codes; once more leads to the coarser.
        features: channels between the datum and the codes of both levels.
        quantizer: how vectors become codes, at each level with a codebook of its own.
        encoder: network from the picture to features in each cell of the finer grid, and from these to the coarser.
        decoder: network of p(x | e_t, e_b).
        prior: the causal network of p(k_t) and of p(k_b | e_t).
        likelihood: the family of p(x | e_t, e_b); "auto" follows the data.
        share: of the budget that codes and decoder are trained in; both priors have the rest.
        conditional: whether the priors are given the labels; columns that are given condition them in any case.

    Raises `ConfigError` where the data are no pictures.
    """
    support, (parents, context) = Support.of(schema), given(schema, conditional)
    if len(support.shape) != 3:
        raise ConfigError("vqvae2: two grids of codes are for pictures; for other data take vqvae")
    head, top, bottom = likelihood(support), quantizer(), quantizer()
    fine, fine_shape = arranged(support.shape, halvings, 0)
    coarse, coarse_shape = arranged(support.shape, halvings + 1, 0)
    seen, above = (features, *fine), (top.width, *coarse)
    _, under = given(schema, conditional)
    beneath = Beneath(Pointwise(top.width, features, fine), features, fine, under)
    p = {
        on("k_top", *parents): code_prior(prior, top.codes, coarse_shape, context),
        "e_top | k_top": Lookup(top, coarse, coarse_shape),
        on("k_bottom", "e_top", *parents): code_prior(prior, bottom.codes, fine_shape, beneath),
        "e_bottom | k_bottom": Lookup(bottom, fine, fine_shape),
        "x | e_bottom, e_top": Amortized(
            decoder((bottom.width + top.width, *fine), head.parameter_shape), head, Raised(fine)
        ),
    }
    q = {
        "f | x": AmortizedCode(rescaled(encoder(support.shape, seen), support)),
        "h_top | f": AmortizedCode(encoder(seen, above)),
        "k_top | h_top": Assign(top, coarse, coarse_shape),
        "e_top | h_top, k_top": Through(top, coarse, coarse_shape),
        "h_bottom | f, e_top": Node(nn.Conv2d(features + top.width, bottom.width, 3, padding=1), Raised(fine)),
        "k_bottom | h_bottom": Assign(bottom, fine, fine_shape),
        "e_bottom | h_bottom, k_bottom": Through(bottom, fine, fine_shape),
    }
    return Model(Joint(p), Joint(q), quantized(share))


SHARED = frozenset({"quantizer", "encoder", "decoder", "likelihood"})  # tried in one of both models
vqvae.shares = vqvae2.shares = SHARED  # pyright: ignore[reportFunctionMemberAccess]
