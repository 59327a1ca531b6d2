"""What a report shows of a model that makes pictures from views of them: views, and pictures made from these alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jensen.conditionals.heads import Support
from jensen.jobs.encode import reconstruct
from jensen.jobs.given import views_of
from jensen.jobs.report.page import picture, row
from jensen.jobs.report.subject import Subject
from jensen.jobs.run import Run
from jensen.nets.resnet import resize

SHOWN, DRAWS = 10, 2  # data, and draws for each


def shows_views(run: Run) -> bool:
    """Whether the model makes pictures from views of them."""
    return run.schema.is_image and bool(views_of(run.model))


@torch.no_grad()
def from_views(run: Run, subject: Subject) -> tuple[str, str]:
    """Data, their views, and what the model makes of a view alone."""
    data, part = subject.few(SHOWN)
    levels, figures = run.schema.levels or 256, []
    x = torch.from_numpy(subject.shown(part)).float()
    values: dict[str, Tensor] = {run.model.data: x}
    for name, support in views_of(run.model).items():
        (parent,) = run.model.q[name].parents
        values[name] = run.model.q[name].module(values[parent].to(run.device)).cpu()
        rows = [x.numpy(), _as_datum(values[name], support, run.schema.event_shape, levels)]
        rows.append(reconstruct(run, data, only=name))
        rows += [reconstruct(run, data, only=name, mean=False, seed=seed) for seed in range(DRAWS)]
        label = f"data; their view {name}; E[x] given {name}; {DRAWS} draws given {name}"
        figures.append(picture(np.concatenate(rows), levels, label, label, len(x)))
    return (
        "Data that the model was not trained on, what is left of them in a view, and pictures that the model makes "
        "of that view alone: what q infers of it is drawn from q, and the rest from p. "
        "<code>jensen sample --given-from</code> does so with pictures of your own.",
        row(figures, "wide"),
    )


def _as_datum(y: Tensor, support: Support, shape: tuple[int, ...], levels: int) -> np.ndarray:
    """Views (N, *support.shape) as pictures of the shape of the data, from black to white."""
    shown = resize(y, (shape[1], shape[2])) * ((levels - 1) / ((support.levels or 2) - 1))
    return shown.expand(-1, shape[0], -1, -1).numpy()
