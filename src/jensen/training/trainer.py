"""One trainer for every model: it runs the stages and phases of the model's objective.

What it guarantees: a resumed run equals the uninterrupted one bit for bit on a CPU; a killed run leaves its last good
checkpoint; a term that is not finite stops the run with the batch, the term and the parameter named.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jensen.conditionals.amortized import set_precision
from jensen.core import Model, seeded
from jensen.data.dataset import Index, TensorSplit
from jensen.errors import ConfigError, IntegrityError, JensenError, ResourceError, TrainingError
from jensen.hardware import no_denormals, out_of_memory, pick_device, pick_precision, threads
from jensen.objectives import GradientPhase, Objective, Stage, Terms, UpdatePhase
from jensen.training.adam import LeanAdam
from jensen.training.averaging import Average
from jensen.training.folder import Folder, load_tensors, save_tensors
from jensen.training.gradients import Gradients, pays_to_compile
from jensen.training.interruption import Interruption
from jensen.training.means import Means
from jensen.training.optimizers import no_optimizer, optimizer_of, restore, state_of
from jensen.training.pace import Pace
from jensen.training.position import Position
from jensen.training.settings import Settings, unshareable
from jensen.training.skipping import Skipping
from jensen.training.validation import Validation
from jensen.training.workers import Workers, together

log = logging.getLogger(__name__)
FIRST_ROWS = 20_000  # data that models start from, where they start from data
MONITORED_ROWS = 10_000  # of training, at most, where they stand in for validation data


@dataclass(frozen=True)
class Event:
    """What a listener is told: after every few steps, after every epoch with the line that was logged, and before what
    takes long."""

    kind: str  # "step", "epoch", "compile", "stop" (asked to, which waits for the end of a step) or "end"
    progress: float
    epoch: int
    step: int
    rate: float  # data a second
    remaining: float | None  # seconds
    logged: dict[str, Any]
    monitor: str = ""  # the name of what decides which weights are kept
    stage: str = ""  # its name, where there are several
    held_out: bool = True  # whether "valid" of the line is of data that are not trained on


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
        self.pace = Pace(settings, self.objective, self.at, len(self.train), len(valid) if valid is not None else 0)
        self.skipping = Skipping(settings, self.at)
        measured = valid if valid is not None else self.train
        n = len(measured) if valid is not None else min(len(measured), MONITORED_ROWS)
        self.validation = Validation(
            self.objective, lambda rows: self._take(measured, rows), n, settings.batch_size, self.device
        )
        self.optimizers: list[torch.optim.Optimizer] = []
        self.average: Average | None = None
        self.best: dict[str, Tensor] | None = None
        self.means = Means()  # of what the phases log, since the last validation
        self._saved_at = time.monotonic()
        self._updated: dict[int, Any] = {}
        self._whole = False  # between two steps: what would be saved now is no half step
        self._began = 0.0  # until when the time is counted
        self._compiling = False  # in the step under way
        self._risen = 1.0  # the weight that warms up, in the last step
        asked = settings.compile
        compiled = pays_to_compile(self.model, settings, len(self.train)) if asked == "auto" else asked
        rows = settings.batch_size if compiled else None
        self._gradients = Gradients(self.model, rows, self._tell_compiling, asked is True)
        self._interruption = Interruption(lambda: self._tell("stop", {}))
        self.workers = Workers()

    @property
    def stage(self) -> Stage:
        return self.pace.stage

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
            no_denormals(),
            self._interruption.awaited(),
        ):
            set_precision(self.model, pick_precision(self.settings.precision, self.device))
            if self.objective.prepare is not None:
                with seeded(self.settings.seed, self.device), torch.no_grad():
                    self.objective.prepare(self.model, self.train.take(slice(0, 2)))
            try:
                if resume and self.folder is not None and self.folder.has_begun():
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
                    self._began = time.perf_counter()
                    while not self.at.done:
                        self._epoch()
                        self._interruption.stop_if_asked()
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
        s = self.settings
        self.optimizers = [
            optimizer_of(list(phase.parameters(self.model)), self.model, s)
            if isinstance(phase, GradientPhase)
            else no_optimizer()
            for phase in self.stage.phases
        ]
        self.average = Average(self.model, s.average) if s.average and self.stage.has_gradient else None
        self.best, self._risen = None, 1.0
        self.pace.begin_stage()

    def _take(self, split: TensorSplit, rows: Index) -> dict[str, Tensor]:
        """The rows of a batch, of each a share of the cells hidden that is drawn from [0, hide]."""
        batch, hide = split.take(rows), self.settings.hide
        if hide:
            share = hide * torch.rand(len(batch["x"]), 1, device=self.device)
            batch["seen"] = batch["seen"] & (torch.rand(batch["x"].shape, device=self.device) >= share)
        return batch

    def _epoch(self) -> None:
        at, s = self.at, self.settings
        self._spend()  # on what was done between two passes
        order, train = self._order(at.epoch), self._cut(at.epoch)
        updates = [i for i, phase in enumerate(self.stage.phases) if isinstance(phase, UpdatePhase)]
        if at.batch == 0:
            self._updated = {i: self.stage.phases[i].start(self.model) for i in updates}  # pyright: ignore
        self.model.train()
        first = at.batch
        for position in range(at.batch, self.pace.steps_per_epoch):
            rows = order[position * s.batch_size : (position + 1) * s.batch_size]
            part, share = self.workers.part(rows)
            self._draw_apart()
            batch = {**self._take(train, part), "row": part, "total": self._total}
            self._whole = False
            for i, phase in enumerate(self.stage.phases):
                if isinstance(phase, UpdatePhase):
                    with torch.no_grad():
                        self._updated[i] = phase.accumulate(self.model, self._updated[i], batch)
                elif at.stage_step % phase.every == 0:
                    self._gradient_step(phase, self.optimizers[i], batch, share)
            at.step, at.stage_step, at.batch = at.step + 1, at.stage_step + 1, position + 1
            if self.average is not None:
                self.average.follow(at.stage_step)
            now = time.perf_counter()
            if self._compiling:  # it says nothing of the speed
                self._compiling = False
                if at.compiled:  # a resumed run does it again, as it loads the data again
                    self._began = now
                else:
                    self._spend(now)
                    self.pace.measure_from(self.workers.first(at.calibration_seconds))
                    at.compiled = True
                first = at.batch
            if self.pace.is_timed:
                self.pace.elapsed = self.workers.first(at.calibration_seconds + now - self._began)
                if self.pace.knows_its_speed:
                    self.pace.fix(self._seconds_of_validation)
            elif self.pace.is_due:
                self.pace.adjust(self.workers.first(at.calibration_seconds + now - self._began))
            self._whole = True
            self._interruption.stop_if_asked()
            if at.step % 20 == 0:
                self._tell("step", {}, rate=(at.batch - first) * s.batch_size / max(now - self._began, 1e-9))
                if not updates and at.batch < self.pace.steps_per_epoch and self._checkpoint_is_due():
                    self._spend(now)
                    first = at.batch
                    self.save()
            if at.total_steps is not None and at.stage_step >= at.total_steps:
                break
        self._whole = False
        for i in updates:
            measured = self.stage.phases[i].apply(self.model, self._updated[i])  # pyright: ignore
            self.means.put(measured or {})
        rate = (at.batch - first) * s.batch_size / max(self._spend(), 1e-9)
        at.epoch, at.batch = at.epoch + 1, 0
        over = self.pace.is_over
        line = self._validate(rate) if at.epoch % self.pace.validate_every == 0 or over else None
        if over or self.pace.loses_patience():
            self._end_stage()
        elif self._checkpoint_is_due():
            self.save()
        self._whole = True
        if line is not None:
            self._tell("epoch", line, rate)

    def _tell_compiling(self) -> None:
        if self._compiling:
            return
        self._compiling = True
        with contextlib.suppress(BrokenPipeError):  # in the middle of a step; the next event says it again
            self._tell("compile", {})

    def _spend(self, now: float | None = None) -> float:
        """Count the time until now; returns what had not been counted."""
        now = time.perf_counter() if now is None else now
        spent, self._began = now - self._began, now
        self.at.spend(spent)
        return spent

    def _seconds_of_validation(self) -> float:
        """Of the first worker."""
        began = time.perf_counter()
        self.validation.of(self.model, self.workers)
        return self.workers.first(time.perf_counter() - began)

    def _end_stage(self) -> None:
        at, before = self.at, self.stage
        if self._risen < 1 and not self.workers.rank:
            log.warning(
                "objective.warmup: in the last step the weight stood at %.2g and not yet at 1, so that the loss was "
                "not the one wanted; train longer, or take objective.warmup=0",
                self._risen,
            )
        if at.stage + 1 < len(self.objective.stages):
            self._load_kept()
            best = self.best, at.best, at.best_early
            at.stage += 1
            self._start_stage()
            if self.stage.monitor == before.monitor:  # what the next one finds is measured against it
                self.best, at.best, at.best_early = best
        else:
            at.done = True
        self.save()

    # One step

    def _gradient_step(
        self,
        phase: GradientPhase,
        optimizer: torch.optim.Optimizer,
        batch: dict[str, Tensor],
        share: float,
    ) -> None:
        s, lr, self._risen = self.settings, self.pace.lr, self.stage.rise(self.pace.progress)
        for group in optimizer.param_groups:
            group["lr"] = lr
        try:
            terms = self._gradients.backward(
                phase, batch, self.pace.progress, self.stage.warmup, self._factor(batch, share)
            )
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
            raise out_of_memory(e, s.batch_size) or e from None
        self.means.add(terms.logged, counted)
        if self.device.type != "cpu" and self.at.step % 50 == 49:  # one wait for the device in fifty steps
            for name, value in self.means.sums.items():
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
        size, limit = norm.item(), self.skipping.limit
        taken = self.skipping.takes(terms.loss.item(), size)
        logged = {"skipped": torch.tensor(0.0 if taken else 1.0)}
        if not taken and math.isfinite(size):
            logged["gradient_norm"] = norm
        self.means.add(logged)
        many = self.skipping.storm(self.pace.steps_per_epoch)
        if many:
            raise TrainingError(
                f"epoch {self.at.epoch + 1}, step {self.at.step + 1}: {many} steps in a row were left out; the last "
                f"had a loss of {terms.loss.item():.4g} and a gradient norm of {size:.4g}, and train.skip_above and "
                f"train.skip_factor allow {limit:.4g}{self._keep_last_good()}. Try a higher train.skip_above (norms "
                f"are in nats and grow with the size of a datum), or train.skip_factor=10 alone, or a lower --lr"
            )
        return not taken

    def _factor(self, batch: dict[str, Tensor], share: float) -> Tensor | float | None:
        """What the gradient of this worker's share of a batch counts; None is 1.

        A loss is a weighted mean over the batch: what a batch counts follows from its rows' weights.
        """
        if "weight" in batch:
            return share * (batch["weight"].mean() / self._mean_weight)
        return None if share == 1.0 else share

    def _share(self, batch: dict[str, Tensor]) -> float:
        """What a batch's mean counts in an average over batches: its size, or the weight of its rows."""
        if "weight" in batch:
            return float(batch["weight"].sum()) / self.settings.batch_size
        return len(batch["x"]) / self.settings.batch_size

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
            f"epoch {at.epoch + 1}, batch {at.batch + 1} of {self.pace.steps_per_epoch} (step {at.step + 1}): "
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

    # Validation

    def _validate(self, rate: float) -> dict[str, Any]:
        """Measure the averaged weights, keep them if they are the best; returns the line that was logged."""
        at = self.at
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            valid = self.validation.of(self.model, self.workers)
            state = self._state()
        score = valid[self.stage.monitor]
        if not math.isfinite(score):
            raise TrainingError(f"epoch {at.epoch}: validation {self.stage.monitor} = {score}{self._keep_last_good()}")
        taken = self.pace.improves(score)
        if taken:
            self.best = state
        self.pace.leave_out(self.workers.first(self._spend()))
        line: dict[str, Any] = {
            "stage": self.stage.name,
            "epoch": at.epoch,
            "step": at.step,
            "seconds": round(at.seconds, 3),
            "lr": self.pace.lr,
            "rate": round(rate, 1),
            "train": self.means.values(),
            "valid": valid,
            "best": taken,
        }
        self.means.clear()
        if self.folder is not None:
            self.folder.append_metrics(line)
        else:
            at.extra.setdefault("log", []).append(line)
        return line

    def _state(self) -> dict[str, Tensor]:
        """The model's as it stands."""
        return {k: v.detach().clone() for k, v in self.model.state_dict().items()}

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
            logged = {"train": self.means.values()}
        remaining = None
        if self.at.total_steps is not None and rate:
            remaining = (self.at.total_steps - self.at.stage_step) * self.settings.batch_size / rate
        stage = self.stage.name if len(self.objective.stages) > 1 else ""
        at, monitor = self.at, self.stage.monitor
        held_out, progress = self.valid is not None, self.pace.progress
        self.listener(Event(kind, progress, at.epoch, at.step, rate, remaining, logged, monitor, stage, held_out))

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
        tensors |= {f"sums.{k}": v for k, v in self.means.sums.items()}
        for i, optimizer in enumerate(self.optimizers):
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state_of(optimizer).items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        record = {"position": self.at.record(), "counts": self.means.counts, "batch_size": self.settings.batch_size}
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
            if self.stage.has_gradient and at.batch:
                return
            at.step, at.stage_step, at.batch = at.step - at.batch, at.stage_step - at.batch, 0
        else:
            self._spend()
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
            self.at.restore(position)
            self._start_stage()  # fresh optimizers for the stage
            self.at.restore(position)
            self.pace.elapsed = self.at.calibration_seconds
            self.model.load_state_dict(_under(tensors, "model."))
            if self.helpers is not None:
                self.helpers.load_state_dict(_under(tensors, "helpers."))
            if self.average is not None:
                for i, average in enumerate(self.average.tensors):
                    average.copy_(tensors[f"average.{i}"])
            best = _under(tensors, "best.")
            self.best = {k: v.to(self.device) for k, v in best.items()} or None
            self.means.sums = {k: v.to(self.device) for k, v in _under(tensors, "sums.").items()}
            self.means.counts = record["counts"]
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
        self.pace.extend(record["minutes"])


def _weighty(train: TensorSplit) -> TensorSplit:
    """The rows that count: a batch without any weight would have no mean."""
    if train.weight is None or train.weight.all() or not train.weight.any():
        return train
    return train.rows(train.weight > 0)


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
