"""One trainer for every model: it runs the stages and phases of the model's objective.

What it guarantees: a resumed run equals the uninterrupted one bit for bit on a CPU; a killed run leaves its last good
checkpoint; a term that is not finite stops the run with the batch, the term and the parameter named.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from jensen.conditionals.amortized import set_precision
from jensen.core import Model, seeded
from jensen.data.dataset import Index, TensorSplit
from jensen.errors import ConfigError, IntegrityError, JensenError, ResourceError, TrainingError
from jensen.objectives import GradientPhase, Objective, Stage, Terms, UpdatePhase
from jensen.training.adam import LeanAdam
from jensen.training.averaging import Average
from jensen.training.folder import Folder, load_tensors, save_tensors
from jensen.training.hardware import pick_device, pick_precision, threads
from jensen.training.optimizers import no_optimizer, optimizer_of, restore, state_of
from jensen.training.settings import Settings, unshareable
from jensen.training.workers import Workers, together
from jensen.transforms.compilation import compiling

FIRST_ROWS = 20_000  # data that models start from, where they start from data
VALIDATION_ROWS = 1000  # data a batch in validation
VALIDATION_SHARE = 0.05  # validated data, as a share of the data trained on, in a long run
LEAST_VALIDATIONS = 20  # in a run whose length is known
OPEN_ENDED_EPOCHS, OPEN_ENDED_STEPS = 100, 3000  # progress without a budget is measured against these
LEAST_PATIENCE_STEPS = 500
STORM = 100  # steps left out in a row, or all of a pass, that end training: it has lost its way
LEAST_STORM = 10
NORMS = 50  # steps that a usual gradient norm is a mean of, about
LEAST_NORMS = 20  # steps before it is known
DROPS = 1  # times that the learning rate is cut before training without a budget ends


@dataclass
class Position:
    """Where training stands. Everything here and the tensors beside it make a resume exact."""

    stage: int = 0
    epoch: int = 0  # complete passes in this stage
    batch: int = 0  # batches done in this pass
    step: int = 0  # batches done in all
    stage_step: int = 0
    total_steps: int | None = None  # of this stage, once known
    best: float | None = None
    best_step: int = 0
    best_early: bool = False  # measured while the loss was not yet the one wanted
    drops: int = 0
    skipped: int = 0  # steps left out since the last one taken
    norms: int = 0  # gradient norms that were finite
    usual_norm: float = 0.0  # their geometric mean, of late
    patience_step: int = 0
    seconds: float = 0.0
    done: bool = False
    calibration_seconds: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """What a listener is told: after every few steps, and after every epoch with the line that was logged."""

    kind: str  # "step", "epoch" or "end"
    progress: float
    epoch: int
    step: int
    rate: float  # data a second
    remaining: float | None  # seconds
    logged: dict[str, Any]
    monitor: str = ""  # the name of what decides which weights are kept
    stage: str = ""  # its name, where there are several


class Trainer:
    """Trains a model.

    Args:
        model: with its objective.
        train, valid: prepared splits on the device; without `valid`, training itself is monitored.
        settings: see `training.settings`.
        folder: where checkpoints and the log go; None keeps everything in memory.
        listener: told of progress.
    """

    def __init__(
        self,
        model: Model,
        train: TensorSplit,
        valid: TensorSplit | None,
        settings: Settings,
        folder: Folder | None = None,
        listener: Callable[[Event], None] | None = None,
    ):
        self.settings, self.folder, self.listener = settings, folder, listener
        self.device = pick_device(settings.device)
        self.model, self.train, self.valid = model.to(self.device), _weighty(train), valid
        weight = self.train.weight
        self._mean_weight = 1.0 if weight is None else float(weight.double().mean())
        self._total = torch.tensor(self._mean_weight * len(self.train), device=self.device)
        self.objective: Objective = model.objective
        self.helpers = self.objective.helpers
        if self.helpers is not None:
            self.helpers.to(self.device)
        self.at = Position()
        self.steps_per_epoch = math.ceil(len(self.train) / settings.batch_size)
        self.optimizers: list[torch.optim.Optimizer] = []
        self.average: Average | None = None
        self.best: dict[str, Tensor] | None = None
        self.sums: dict[str, Tensor] = {}  # of what the phases log, in batches: a partial one counts as its share
        self.counts: dict[str, float] = {}
        self._saved_at = time.monotonic()
        self._updated: dict[int, Any] = {}
        self._elapsed = 0.0  # seconds of this stage, while the number of steps is not fixed
        self._compiling = 0.0  # seconds of a first step that compiles
        self._validation_rows = VALIDATION_ROWS
        self._whole = False  # between two steps: what would be saved now is no half step
        self._asked_to_stop = False
        self.workers = Workers()

    @property
    def stage(self) -> Stage:
        return self.objective.stages[self.at.stage]

    # The run

    def run(self, resume: bool = False) -> list[dict[str, Any]]:
        """Train to the end; the model then holds the kept weights. Returns the log.

        Raises:
            ConfigError: several workers cannot train this model, or not on this device.
            TrainingError: a term is not finite, or a worker has gone.
            ResourceError: memory or disk ran out.
            KeyboardInterrupt: after saving, so that the run can be resumed.
        """
        self._check_workers()
        with (
            seeded(self.settings.seed, self.device),
            threads(self.settings.threads if self.settings.workers == 1 else 1),
            self._interruptible(),
        ):
            set_precision(self.model, pick_precision(self.settings.precision, self.device))
            if self.objective.prepare is not None:
                with seeded(self.settings.seed, self.device), torch.no_grad():
                    self.objective.prepare(self.model, self.train.take(slice(0, 2)))
            try:
                if resume and self.folder is not None and self.folder.state_path.exists():
                    self._restore()
                else:
                    if self.folder is not None and self.folder.metrics():
                        self.folder.keep_metrics(-1)  # of a run that ended before its first checkpoint
                    initialize = self.objective.initialize or type(self.model).initialize
                    initialize(self.model, self._first_data())
                    self._start_stage()
                with together(self.settings.workers, self._message_bytes) as self.workers:
                    if self.workers.rank:
                        self.folder = self.listener = None
                    while not self.at.done:
                        self._epoch()
                        self._stop_if_asked()
            except (KeyboardInterrupt, BrokenPipeError):  # or whoever listened has gone
                self._emergency_save()
                raise
            finally:
                set_precision(self.model, None)
            self._load_kept()
        self.model.eval()
        self._tell("end", {})
        return self.folder.metrics() if self.folder else self.at.extra.get("log", [])

    def _check_workers(self) -> None:
        s = self.settings
        if s.workers == 1:
            return
        why = unshareable(self.model)
        if self.device.type != "cpu":
            why = f"they share processors, and this trains on {self.device}"
        elif s.threads not in (None, 1):
            why = f"each has one thread, and train.threads is {s.threads}"
        elif s.workers > s.batch_size:
            why = f"a batch has {s.batch_size} data"
        if why:
            raise ConfigError(f"train.workers: {s.workers} cannot share the work: {why}")

    @property
    def _message_bytes(self) -> int:
        """Of the gradients of everything, at most."""
        parts = self.model, self._helpers
        return 8 * sum(t.numel() + 1 for part in parts for t in (*part.parameters(), *part.buffers()))

    @property
    def _helpers(self) -> nn.Module:
        return self.helpers or nn.Module()

    @property
    def _moving(self) -> list[Tensor]:
        """What may follow the data beside the parameters, as codebooks and means of batches do."""
        return [b for part in (self.model, self._helpers) for b in part.buffers() if b.is_floating_point()]

    def _first_data(self) -> dict[str, Tensor]:
        """The training data that the model starts from: all, or so many at random, for files may be ordered."""
        wanted = [FIRST_ROWS, *(getattr(module, "starting_rows", 0) for module in self.model.modules())]
        if len(self.train) <= max(wanted):
            return self.train.take(slice(0, len(self.train)))
        chance = torch.Generator().manual_seed(self.settings.seed)
        rows = torch.randperm(len(self.train), generator=chance)[: max(wanted)].sort().values
        return self.train.take(rows.to(self.device))

    def _load_kept(self) -> None:
        """Into the model the weights that the stage leaves: the best, or the last, averaged."""
        if self.best is not None and self.settings.keep == "best":
            self.model.load_state_dict(self.best)
        elif self.average is not None:
            self.model.load_state_dict(self.average.state())

    def _start_stage(self) -> None:
        s, at = self.settings, self.at
        self.optimizers = [
            optimizer_of(list(phase.parameters(self.model)), self.model, s)
            if isinstance(phase, GradientPhase)
            else no_optimizer()
            for phase in self.stage.phases
        ]
        gradient = any(isinstance(phase, GradientPhase) for phase in self.stage.phases)
        self.average = Average(self.model, s.average) if s.average and gradient else None
        at.epoch = at.batch = at.stage_step = at.best_step = at.drops = at.skipped = at.patience_step = 0
        at.best, at.calibration_seconds = None, 0.0
        at.total_steps, self._elapsed, self.best, at.best_early = None, 0.0, None, False
        if self.stage.passes is not None:
            at.total_steps = self.stage.passes * self.steps_per_epoch
        elif s.epochs is not None:
            at.total_steps = self._epochs * self.steps_per_epoch

    @property
    def _epochs(self) -> int:
        """Of this stage, where their number is given."""
        done = sum(stage.share for stage in self.objective.stages[: self.at.stage] if stage.passes is None)
        first, last = (round(share * (self.settings.epochs or 0)) for share in (done, done + self.stage.share))
        return max(1, last - first)

    @property
    def _seconds(self) -> float:
        """That this stage may take, where a time is given."""
        return self.stage.share * 60 * (self.settings.minutes or 0)

    def _take(self, split: TensorSplit, rows: Index) -> dict[str, Tensor]:
        """The rows of a batch, of each a share of the cells hidden that is drawn from [0, hide]."""
        batch, hide = split.take(rows), self.settings.hide
        if hide:
            share = hide * torch.rand(len(batch["x"]), 1, device=self.device)
            batch["seen"] = batch["seen"] & (torch.rand(batch["x"].shape, device=self.device) >= share)
        return batch

    def _epoch(self) -> None:
        at, s = self.at, self.settings
        order, train = self._order(at.epoch), self._cut(at.epoch)
        updates = [i for i, phase in enumerate(self.stage.phases) if isinstance(phase, UpdatePhase)]
        if at.batch == 0:
            self._updated = {i: self.stage.phases[i].start(self.model) for i in updates}  # pyright: ignore
        self.model.train()
        began, first = time.perf_counter(), at.batch
        for position in range(at.batch, self.steps_per_epoch):
            rows = order[position * s.batch_size : (position + 1) * s.batch_size]
            part, share = self.workers.part(rows)
            self._draw_apart()
            batch = {**self._take(train, part), "row": part, "total": self._total}
            progress, self._whole = self.progress, False
            for i, phase in enumerate(self.stage.phases):
                if isinstance(phase, UpdatePhase):
                    with torch.no_grad():
                        self._updated[i] = phase.accumulate(self.model, self._updated[i], batch)
                elif at.stage_step % phase.every == 0:
                    self._gradient_step(phase, self.optimizers[i], batch, progress, share)
            at.step, at.stage_step, at.batch = at.step + 1, at.stage_step + 1, position + 1
            if self.average is not None:
                self.average.follow(at.stage_step)
            now = time.perf_counter()
            if s.compile and not self._compiling:
                self._compiling = now - began
            if at.total_steps is None and s.minutes is not None:
                self._elapsed = self.workers.first(at.calibration_seconds + now - began)
                self._calibrate(self._elapsed)
            self._whole = True
            self._stop_if_asked()
            if at.step % 20 == 0:
                self._tell("step", {}, rate=(at.batch - first) * s.batch_size / (now - began))
                if not updates and at.batch < self.steps_per_epoch and self._checkpoint_is_due():
                    at.seconds += now - began
                    at.calibration_seconds += now - began
                    began, first = now, at.batch
                    self.save()
            if at.total_steps is not None and at.stage_step >= at.total_steps:
                break
        self._whole = False
        for i in updates:
            measured = self.stage.phases[i].apply(self.model, self._updated[i])  # pyright: ignore
            self.sums |= measured or {}
            self.counts |= dict.fromkeys(measured or {}, 1.0)
        elapsed = time.perf_counter() - began
        at.seconds += elapsed
        at.calibration_seconds += elapsed
        rate = (at.batch - first) * s.batch_size / max(elapsed, 1e-9)
        at.epoch, at.batch = at.epoch + 1, 0
        finished = at.total_steps is not None and at.stage_step >= at.total_steps
        finished = finished or (self.open_ended and at.epoch >= s.max_epochs)
        line = self._validate(rate) if at.epoch % self._validate_every == 0 or finished else None
        if finished or self._should_stop():
            self._end_stage()
        elif self._checkpoint_is_due():
            self.save()
        self._whole = True
        if line is not None:
            self._tell("epoch", line, rate)

    def _end_stage(self) -> None:
        if self.at.stage + 1 < len(self.objective.stages):
            self._load_kept()
            self.at.stage += 1
            self._start_stage()
        else:
            self.at.done = True
        self.save()

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Ctrl-C ends training after the step under way, so that what is saved is whole; a second one at once."""
        default = signal.default_int_handler
        if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) != default:
            yield
            return

        def ask(number: int, frame: Any) -> None:
            if self._asked_to_stop:
                raise KeyboardInterrupt
            self._asked_to_stop = True

        signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, default)

    def _stop_if_asked(self) -> None:
        if self._asked_to_stop:
            raise KeyboardInterrupt

    # One step

    def _gradient_step(
        self,
        phase: GradientPhase,
        optimizer: torch.optim.Optimizer,
        batch: dict[str, Tensor],
        progress: float,
        share: float,
    ) -> None:
        s = self.settings
        lr = s.lr * self._lr_factor(progress)
        for group in optimizer.param_groups:
            group["lr"] = lr
        try:
            with compiling(s.batch_size if s.compile else None):
                terms = phase.loss(self.model, batch, progress)
            optimizer.zero_grad(set_to_none=True)
            loss = terms.loss  # a weighted mean over the batch: what a batch counts follows from its rows' weights
            if "weight" in batch:
                loss = loss * (batch["weight"].mean() / self._mean_weight)
            if share != 1.0:
                loss = loss * share
            loss.backward()
            counted = self._share(batch) if share else 0.0
            if self.workers.number > 1:
                terms, counted = self._of_all(list(phase.parameters(self.model)), terms, counted)
            if not s.skips and self.device.type == "cpu" and not math.isfinite(terms.loss.item()):
                self._not_finite(terms.logged, terms.loss)
            if s.clip or s.skips:
                norm = nn.utils.clip_grad_norm_(list(phase.parameters(self.model)), s.clip or math.inf).detach()
                terms.logged["gradient_norm"] = norm
                if s.skips and self._left_out(norm, terms):
                    return
            optimizer.update() if isinstance(optimizer, LeanAdam) else optimizer.step()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
            raise _out_of_memory(e, s.batch_size) or e from None
        self._count(terms.logged, counted)
        if self.device.type != "cpu" and self.at.step % 50 == 49:  # one wait for the device in fifty steps
            for name, value in self.sums.items():
                if not math.isfinite(value.item()):
                    self._not_finite({name: value}, terms.loss)

    @torch.no_grad()
    def _of_all(self, parameters: list[nn.Parameter], terms: Terms, counted: float) -> tuple[Terms, float]:
        """What a whole batch gives, from all workers: gradients, what follows the data, what is logged and counts."""
        without = [float(p.grad is None) for p in parameters]
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        logged = [counted * float(value) for value in (terms.loss, *terms.logged.values())]
        whole, sums = self.workers.combine(slopes, self._moving, [counted, *logged, *without])
        for p, part, slope, absent in zip(parameters, slopes, whole, sums[1 + len(logged) :], strict=True):
            ordered = slope.to(p.dtype) if part.stride() == slope.stride() else part.copy_(slope)  # as p is in memory
            p.grad = None if absent == self.workers.number else ordered
        loss, *others = (torch.tensor(value / sums[0]) for value in sums[1 : 1 + len(logged)])
        return Terms(loss, dict(zip(terms.logged, others, strict=True))), sums[0]

    def _draw_apart(self) -> None:
        """Let what this worker draws in a step follow from the step and its rank alone, so that a resume is exact."""
        if self.workers.number > 1:
            torch.manual_seed(hash((self.settings.seed, self.at.stage, self.at.step, self.workers.rank)) % 2**63)

    def _left_out(self, norm: Tensor, terms: Terms) -> bool:
        """Whether a step is to be left out for its gradient; counted in the log as the share `skipped`."""
        size, limit = norm.item(), self._norm_limit()
        taken = math.isfinite(terms.loss.item()) and size <= limit
        if math.isfinite(size):
            self._remember(size)
        self.at.skipped = 0 if taken else self.at.skipped + 1
        logged = {"skipped": torch.tensor(0.0 if taken else 1.0)}
        if not taken and math.isfinite(size):
            logged["gradient_norm"] = norm
        self._count(logged, 1.0)
        many = min(STORM, max(LEAST_STORM, self.steps_per_epoch))
        if self.at.skipped >= many:
            raise TrainingError(
                f"epoch {self.at.epoch + 1}, step {self.at.step + 1}: {many} steps in a row were left out; the last "
                f"had a loss of {terms.loss.item():.4g} and a gradient norm of {size:.4g}, and train.skip_above and "
                f"train.skip_factor allow {limit:.4g}{self._keep_last_good()}. Try a higher train.skip_above (norms "
                f"are in nats and grow with the size of a datum), or train.skip_factor=10 alone, or a lower --lr"
            )
        return not taken

    def _norm_limit(self) -> float:
        """The gradient norm up to which a step is taken."""
        s, at = self.settings, self.at
        by_factor = s.skip_factor * at.usual_norm if s.skip_factor and at.norms >= LEAST_NORMS else math.inf
        return min(s.skip_above or math.inf, by_factor, torch.finfo(torch.float32).max)

    def _remember(self, norm: float) -> None:
        """Let a norm enter the usual one, whether its step is taken or not: where norms grow, so does what is usual."""
        at = self.at
        at.norms, share = at.norms + 1, max(1 / (at.norms + 1), 1 / NORMS)
        size = max(norm, torch.finfo(torch.float32).tiny)
        at.usual_norm = size if at.norms == 1 else at.usual_norm ** (1 - share) * size**share

    def _count(self, logged: dict[str, Tensor], share: float) -> None:
        """Add what a batch logged to the means of the log."""
        for name, value in logged.items():
            value = value if share == 1.0 else share * value
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0.0) + share

    def _share(self, batch: dict[str, Tensor]) -> float:
        """What a batch's mean counts in an average over batches: its size, or the weight of its rows."""
        if "weight" in batch:
            return float(batch["weight"].sum()) / self.settings.batch_size
        return len(batch["x"]) / self.settings.batch_size

    def _means(self) -> dict[str, float]:
        """Of what the phases logged since the last validation."""
        return {name: float(value) / self.counts[name] for name, value in self.sums.items()}

    def _not_finite(self, logged: dict[str, Tensor], loss: Tensor) -> None:
        """Stop, saying where."""
        term = next((name for name, v in logged.items() if not math.isfinite(v.item())), "loss")
        guilty = self._not_finite_parameter()
        if guilty:
            who = f"parameter {guilty} is not finite"
        else:
            sizes = [(float(p.detach().abs().max()), n) for n, p in self.model.named_parameters() if p.numel()]
            who = "all parameters are finite; the largest is {1}, {0:.3g} in size".format(*max(sizes))
        at = self.at
        raise TrainingError(
            f"epoch {at.epoch + 1}, batch {at.batch + 1} of {self.steps_per_epoch} (step {at.step + 1}): "
            f"{term} = {logged.get(term, loss).item()}; {who}{self._keep_last_good()}. "
            f"Try a lower --lr or train.clip=5"
        )

    def _not_finite_parameter(self) -> str | None:
        """Of the model; a buffer that is saved, as a codebook that follows its data, may be infinite, as a bound is."""
        spoilt = [n for n, p in self.model.named_parameters() if not torch.isfinite(p).all()]
        spoilt += [n for n, b in self.model.named_buffers() if b.is_floating_point() and torch.isnan(b).any()]
        return next(iter(spoilt), None)

    def _keep_last_good(self) -> str:
        """Save what is still good after a failure; returns the words that say where it is."""
        if self.folder is None:
            return ""
        with contextlib.suppress(ResourceError):
            if self._not_finite_parameter() is None:
                self.save()
            elif self.best is not None:
                self._save_weights(self.best)
        if not self.folder.model_path.exists():
            return "; nothing was kept, for no step was good"
        return f"; the last good state is in {self.folder.path}"

    # Schedules

    @property
    def progress(self) -> float:
        """Share of this stage's training that is done, in [0, 1]."""
        at, s = self.at, self.settings
        if at.total_steps is not None:
            return min(1.0, at.stage_step / at.total_steps)
        if s.minutes is not None:
            return min(1.0, self._elapsed / self._seconds)
        nominal = max(OPEN_ENDED_STEPS, OPEN_ENDED_EPOCHS * self.steps_per_epoch)
        return min(1.0, at.stage_step / min(nominal, s.max_epochs * self.steps_per_epoch))  # a warm-up always ends

    @property
    def open_ended(self) -> bool:
        return self.stage.passes is None and self.settings.epochs is None and self.settings.minutes is None

    def _lr_factor(self, progress: float) -> float:
        s = self.settings
        rise = min(1.0, (progress + 1e-9) / s.lr_warmup) if s.lr_warmup and not self.open_ended else 1.0
        schedule = ("constant" if self.open_ended else "cosine") if s.schedule == "auto" else s.schedule
        if schedule == "cosine":
            rise *= 0.5 * (1 + math.cos(math.pi * progress))
        elif schedule == "linear":
            rise *= 1 - progress
        return rise * 0.1**self.at.drops

    def _calibrate(self, elapsed: float) -> None:
        """Fix the number of steps from the speed so far, validation included; from then on only steps count."""
        at, budget = self.at, self._seconds
        at_least = min(20, self.steps_per_epoch)
        if at.stage_step < at_least or elapsed < min(10.0, 0.05 * budget):
            return
        began = time.perf_counter()
        self._measure(self.model)
        validation = time.perf_counter() - began
        step, left = (elapsed - self._compiling) / at.stage_step, max(0.0, budget - elapsed)
        seldom = left / (step + validation / (self.steps_per_epoch * self._affordable))
        often = (left - LEAST_VALIDATIONS * validation) / step  # where the run is short
        each = (left - 2 * validation) / (step + validation / self.steps_per_epoch)  # where it has fewer epochs
        at.total_steps = at.stage_step + int(self.workers.first(max(1, int(min(seldom, max(often, each))))))

    # Validation

    def _measure(self, model: Model) -> dict[str, float]:
        """Means of what the objective validates, in smaller batches where memory does not suffice."""
        while True:
            try:
                names, sums = self._measure_in_batches(model, self._validation_rows)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as e:
                answer = _out_of_memory(e, self.settings.batch_size)
                if answer is None:
                    raise
                if self._validation_rows == 1:
                    raise answer from None
                self._validation_rows = math.ceil(self._validation_rows / 2)
        if self.workers.number > 1:
            self._check_agreement()
        weight, *totals = self.workers.sum(sums)
        return {name: total / weight for name, total in zip(names, totals, strict=True)}

    def _check_agreement(self) -> None:
        """Raises `TrainingError` where the workers' weights are no longer the same."""
        with torch.no_grad():
            total = torch.stack([p.sum(dtype=torch.float64) for p in self.model.parameters()]).sum()
        said = self.workers.exchange([total])
        if (said.nan_to_num() != said[0].nan_to_num()).any():
            raise TrainingError("the workers' weights have come to differ, which is an error of this program")

    @torch.no_grad()
    def _measure_in_batches(self, model: Model, size: int) -> tuple[list[str], list[float]]:
        """Names, and sums over this worker's part of the validation rows, or as many training rows, `size` at once:
        of the weights, and of each name."""
        model.eval()
        split = self.valid if self.valid is not None else self.train
        totals: dict[str, Tensor] = {}
        weights = 0.0
        n = len(split) if self.valid is not None else min(len(split), 10_000)
        first, end = self.workers.range(n)
        with seeded(1 + self.workers.rank, self.device):
            for start in range(first, end, size):
                batch = self._take(split, slice(start, min(end, start + size)))
                rows = batch["x"].shape[0]
                weight = batch.get("weight", torch.ones(rows, device=self.device))
                weights += float(weight.sum())
                for name, value in self.objective.validate(model, batch).items():
                    total = (value * weight).sum()
                    totals[name] = totals[name] + total if name in totals else total
        model.train()
        return list(totals), [weights, *map(float, totals.values())]

    def _validate(self, rate: float) -> dict[str, Any]:
        """Measure the averaged weights, keep them if they are the best; returns the line that was logged."""
        at, began = self.at, time.perf_counter()
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            valid = self._measure(self.model)
            state = self._state()
        score = valid[self.stage.monitor]
        if not math.isfinite(score):
            raise TrainingError(f"epoch {at.epoch}: validation {self.stage.monitor} = {score}{self._keep_last_good()}")
        early = self.progress < self.stage.warmup
        taken = at.best is None or score > at.best or (at.best_early and not early)
        if taken:
            if at.best is None or score - at.best > self._tolerance(at.best) or at.best_early > early:
                at.patience_step = at.stage_step
            at.best, at.best_step, at.best_early = score, at.stage_step, early
            self.best = state
        seconds = time.perf_counter() - began
        at.seconds += seconds
        at.calibration_seconds += seconds
        line: dict[str, Any] = {
            "stage": self.stage.name,
            "epoch": at.epoch,
            "step": at.step,
            "seconds": round(at.seconds, 3),
            "lr": self.settings.lr * self._lr_factor(self.progress),
            "rate": round(rate, 1),
            "train": self._means(),
            "valid": valid,
            "best": taken,
        }
        self.sums, self.counts = {}, {}
        if self.folder is not None:
            self.folder.append_metrics(line)
        else:
            at.extra.setdefault("log", []).append(line)
        return line

    def _state(self) -> dict[str, Tensor]:
        """The model's as it stands."""
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def _tolerance(self, best: float) -> float:
        """What counts as improvement: anything for a gradient; EM creeps for ever, so its steps must be visible."""
        return 0.0 if any(map(_is_gradient, self.stage.phases)) else 1e-7 * max(1.0, abs(best))

    @property
    def _affordable(self) -> int:
        """Epochs between validations that keep their share of the time small."""
        rows = 0 if self.valid is None else len(self.valid)
        return max(1, math.ceil(self.objective.validation_cost * rows / (VALIDATION_SHARE * len(self.train))))

    @property
    def _validate_every(self) -> int:
        """Epochs between validations: 50 steps at least, and few enough that validation costs little of the time,
        but twenty in a run whose length is known."""
        if not any(map(_is_gradient, self.stage.phases)):
            return 1
        every = max(math.ceil(50 / self.steps_per_epoch), self._affordable)
        if self.at.total_steps is not None:
            every = min(every, max(1, self.at.total_steps // self.steps_per_epoch // LEAST_VALIDATIONS))
        return every

    def _should_stop(self) -> bool:
        """Without a budget: whether validation has stopped improving, the learning rate having been cut once."""
        if not self.open_ended:
            return False
        at = self.at
        if self.progress < self.stage.warmup:
            at.patience_step = at.stage_step
            return False
        epochs = max(self.settings.patience, 3 * self._validate_every)  # nothing improves unmeasured
        patience = max(epochs * self.steps_per_epoch, LEAST_PATIENCE_STEPS)
        if not any(map(_is_gradient, self.stage.phases)):
            patience = 5 * self.steps_per_epoch
        if at.stage_step - at.patience_step < patience:
            return False
        at.patience_step = at.stage_step
        at.drops += 1
        return at.drops > DROPS or not any(map(_is_gradient, self.stage.phases))

    def _order(self, epoch: int) -> Tensor:
        """The order of data in a pass, a function of seed, stage and epoch alone."""
        return torch.randperm(len(self.train), generator=self._chance(epoch)).to(self.device)

    def _cut(self, epoch: int) -> TensorSplit:
        """The data of a pass: windows of one long text, which might begin anywhere, begin elsewhere in each.

        Not where something is inferred of a window: what is known of it stays with it.
        """
        length = self.train.x[0].numel()
        shift = torch.randint(length, (), generator=self._chance(epoch)) if epoch else 0
        return self.train if self.model.hidden else self.train.recut(int(shift))

    def _chance(self, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(hash((self.settings.seed, self.at.stage, epoch)) % 2**63)

    def _tell(self, kind: str, line: dict[str, Any], rate: float = 0.0) -> None:
        if self.listener is None:
            return
        logged = line
        if kind == "step":
            logged = {"train": self._means()}
        remaining = None
        if self.at.total_steps is not None and rate:
            remaining = (self.at.total_steps - self.at.stage_step) * self.settings.batch_size / rate
        stage = self.stage.name if len(self.objective.stages) > 1 else ""
        at, monitor = self.at, self.stage.monitor
        self.listener(Event(kind, self.progress, at.epoch, at.step, rate, remaining, logged, monitor, stage))

    # Checkpoints

    def save(self) -> None:
        """Write the whole state, then the weights to use, each atomically."""
        if self.folder is None:
            return
        guilty = self._not_finite_parameter()
        if guilty:
            raise TrainingError(f"step {self.at.step}: parameter {guilty} is not finite{self._keep_last_good()}")
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.helpers is not None:
            tensors |= {f"helpers.{k}": v for k, v in self.helpers.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{i}": average for i, average in enumerate(self.average.tensors)}
        tensors |= {f"best.{k}": v for k, v in (self.best or {}).items()}
        tensors |= {f"sums.{k}": v for k, v in self.sums.items()}
        for i, optimizer in enumerate(self.optimizers):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state_of(optimizer).items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        position = {k: v for k, v in self.at.__dict__.items() if k != "extra"}
        record = {"position": position, "counts": self.counts, "batch_size": self.settings.batch_size}
        save_tensors(self.folder.state_path, tensors, {**record, "minutes": self.settings.minutes})
        best = self.best if self.settings.keep == "best" else None
        self._save_weights(best or (self.average.state() if self.average is not None else self._state()))
        self._saved_at = time.monotonic()

    def _save_weights(self, use: dict[str, Tensor]) -> None:
        assert self.folder is not None
        record = {"step": self.at.best_step if use is self.best else self.at.step, "monitor": self.stage.monitor}
        save_tensors(self.folder.model_path, use, {**record, "value": self.at.best, "seconds": self.at.seconds})

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self._saved_at > self.settings.checkpoint_seconds

    def _emergency_save(self) -> None:
        """On Ctrl-C: keep what is done, at the last whole step; an update's half pass is done again."""
        at = self.at
        if not self._whole or not at.step or at.done:
            return
        if any(isinstance(phase, UpdatePhase) for phase in self.stage.phases):
            if any(map(_is_gradient, self.stage.phases)) and at.batch:
                return
            at.step, at.stage_step, at.batch = at.step - at.batch, at.stage_step - at.batch, 0
        self.save()

    def _restore(self) -> None:
        assert self.folder is not None
        tensors, record = load_tensors(self.folder.state_path)
        try:
            position = record["position"]
            if record["batch_size"] != self.settings.batch_size:
                raise ConfigError(
                    f"--resume: the run has batch size {record['batch_size']}, got {self.settings.batch_size}"
                )
            self.at = Position(**position)
            saved = Position(**position)
            self._start_stage()  # fresh optimizers for the stage
            self.at, self._elapsed = saved, saved.calibration_seconds
            self.model.load_state_dict(_under(tensors, "model."))
            if self.helpers is not None:
                self.helpers.load_state_dict(_under(tensors, "helpers."))
            if self.average is not None:
                for i, average in enumerate(self.average.tensors):
                    average.copy_(tensors[f"average.{i}"])
            best = _under(tensors, "best.")
            self.best = {k: v.to(self.device) for k, v in best.items()} or None
            self.sums = {k: v.to(self.device) for k, v in _under(tensors, "sums.").items()}
            self.counts = record["counts"]
            for i, optimizer in enumerate(self.optimizers):
                restore(optimizer, _under(tensors, f"optimizer.{i}."))
            torch.set_rng_state(tensors["rng.cpu"])
            if self.device.type == "cuda" and "rng.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
        except JensenError:
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise IntegrityError(f"{self.folder.state_path} does not fit this run: {str(e).splitlines()[0]}") from None
        self.folder.keep_metrics(self.at.step)
        self._extend(record["minutes"])

    def _extend(self, minutes: float | None) -> None:
        """A budget given on resume lengthens the run, or ends it sooner; a finished run goes on."""
        s, at = self.settings, self.at
        if self.stage.passes is not None:
            return
        if s.epochs is not None:
            at.total_steps = self._epochs * self.steps_per_epoch
        elif s.minutes is not None and s.minutes != minutes:
            at.total_steps = None  # measured anew
        else:
            return
        fixed, budget = at.total_steps, self._seconds
        more = fixed > at.stage_step if fixed is not None else budget > self._elapsed
        at.done = at.done and not more


def _weighty(train: TensorSplit) -> TensorSplit:
    """The rows that count: a batch without any weight would have no mean."""
    if train.weight is None or train.weight.all() or not train.weight.any():
        return train
    return train.rows(train.weight > 0)


def _is_gradient(phase: GradientPhase | UpdatePhase) -> bool:
    return isinstance(phase, GradientPhase)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _out_of_memory(error: Exception, batch_size: int) -> JensenError | None:
    text = str(error)
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in text:
        return None
    smaller = max(1, batch_size // 2)
    return ResourceError(f"out of memory at batch size {batch_size}; try --batch-size {smaller}")
