"""How a causal network becomes a model.

    p(x | c) = Π_d p(x_d | x_<d, c)        exact

A network is one function with `autoregressive(name)` above it: from what the data can be, P and the size of a context
to a causal network. From it come a model of that name, `prior=autoregressive prior.network=NAME`, and the decoder
`likelihood=autoregressive likelihood.network=NAME`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jensen.conditionals.autoregressive import Autoregressive, AutoregressiveHead, factorised
from jensen.conditionals.completion import Completer, Seen
from jensen.conditionals.heads import Support
from jensen.core import Joint, Model, on
from jensen.data.schema import Schema
from jensen.errors import ConfigError
from jensen.models.family import family, given
from jensen.nets.causal import Causal, SequenceNet
from jensen.nets.stack import Rate
from jensen.objectives.elbo import elbo
from jensen.objectives.likelihood import maximum_likelihood
from jensen.registry import CausalSlot, Likelihood, component

Builder = Callable[..., Causal]


def autoregressive(name: str, *, paper: str, toy: str = "picture") -> Callable[[Builder], Builder]:
    """Register `builder(support, per_element, context, *, settings...) -> Causal` and the model of that name.

    `per_element` is P, how many numbers the density of an element needs, and `context` the size C of what the network
    is conditioned on, 0 for nothing. The model has the builder's settings and those of `density`.
    """

    def register(builder: Builder) -> Builder:
        family("causal", name, builder, density, paper=paper, toy=toy, defaults={})
        return builder

    return register


def density(
    schema: Schema,
    network: Callable[[Support, int, int], Causal],
    *,
    likelihood: Likelihood = "auto",
    conditional: bool = False,
) -> Model:
    """A model of the data in which each element is drawn given those before it.

    Settings:
        likelihood: the family of each element given those before it; "auto" follows the data.
        conditional: whether p(x | y) is learned, given the labels; columns that are given condition it in any case.
    """
    support, (parents, context) = Support.of(schema, symbols=True, gaps=True), given(schema, conditional)
    whole = replace(support, gaps=False)
    head = factorised(likelihood(whole), "likelihood")
    made = Autoregressive(network(whole, head.per_element, context.size if context else 0), head, context)
    if not support.gaps:
        return Model(Joint({on("x", *parents): made}), objective=maximum_likelihood())
    q = Completer(support, factorised(likelihood(whole), "likelihood"))
    p = {on("w", *parents): made, "x | w": Seen(whole=support.kind != "real")}
    return Model(Joint(p), Joint({"w | x, seen": q}), elbo(warmup=0.0))


@component("likelihood", "autoregressive", paper="Chen et al. 2017, arXiv:1611.02731")
def decoder(
    support: Support,
    *,
    network: CausalSlot = "made",
    likelihood: Likelihood = "auto",
    features: int = 32,
    word_dropout: Rate = 0.0,
) -> AutoregressiveHead:
    """A decoder in which each element depends on those before it: p(x | z) = Π p(x_d | x_<d, features(z)).

    It may explain the data without z: then the posterior collapses, and `jensen diagnose` says so.

    Settings:
        network: the causal network.
        likelihood: the family of each element.
        features: size of what the decoder network hands on.
        word_dropout: share of the elements before it that an element does not see in training, so that it asks z
            (Bowman et al. 2016, arXiv:1511.06349); of networks of sequences.
    """
    if support.gaps or support.columns:
        raise ConfigError(
            "likelihood: 'autoregressive' is a density of whole rows of one kind, of which no cell can be left out; "
            "choose 'gaussian' or 'student-t' for a table of mixed columns or with gaps, or 'auto'"
        )
    head = factorised(likelihood(support), "likelihood")
    made = network(support, head.per_element, features)
    if word_dropout:
        if not isinstance(made, SequenceNet):
            raise ConfigError(f"likelihood.word_dropout: expected a network of sequences, as rnn, got {network.name}")
        made.hidden_share = word_dropout
    return AutoregressiveHead(Autoregressive(made, head), features)


@component("prior", "autoregressive", paper="Chen et al. 2017, arXiv:1611.02731")
def prior(latents: tuple[int, ...], *, network: CausalSlot = "made", likelihood: Likelihood = "auto") -> Autoregressive:
    """p(z) = Π p(z_d | z_<d), learned.

    Settings:
        network: the causal network.
        likelihood: the family of each element of z.
    """
    support = Support("real", tuple(latents))
    head = factorised(likelihood(support), "likelihood")
    return Autoregressive(network(support, head.per_element, 0), head)
