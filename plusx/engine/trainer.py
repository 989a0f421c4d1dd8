"""The training loop: from wherever the run stands to its end, in the same bits however often it is interrupted."""

import itertools
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from plusx.config import Config
from plusx.engine.distributed import ALONE, World, shared
from plusx.engine.graphs import Graphed
from plusx.engine.guard import Guard, explain
from plusx.engine.log import Log, Row, describe
from plusx.engine.metrics import Metrics
from plusx.engine.optim import AveragedWeights, build_optimizer, set_rates, set_training_mode
from plusx.engine.position import Length, Position
from plusx.engine.precise import reestimate
from plusx.engine.precision import keep_float32
from plusx.engine.saved import CHECKPOINTS, Saved
from plusx.engine.schedule import SoFar, decay_factor, learning_factor
from plusx.engine.step import TrainBatch, train_step
from plusx.engine.stop import SIGNALS, Interrupt, Stopped, StopSignals
from plusx.engine.synced import synchronize
from plusx.errors import ConfigError, DivergedError, PlusxError
from plusx.memory import keep_freed_memory

T = TypeVar("T")
SMOOTHING = 0.02  # weight of a batch in the moving average of the training error


class TrainLoader(Protocol):
    """Training batches, a pure function of epoch and position."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[TrainBatch]:
        """The batches of an epoch from position `start`; closing the iterator ends the work of its workers."""

    def close(self) -> None:
        """End what may wait for the next epoch."""


@dataclass(frozen=True)
class FitResult:
    """What a finished run says about itself; fractions are 0..1."""

    steps: int
    epochs: int
    best: dict[str, Any]  # epoch, top1
    final: dict[str, Any]  # top1, loss
    seconds: float
    images_per_second: float
    history: list[Row]


class Trainer:
    """A run of training steps, evaluations and checkpoints.

    Arguments:
        module: the network on its device, initialised; images (N, C, H, W) -> logits (N, K).
        train: the training batches.
        evaluate: the metrics of a network on the watched split.
        watched: the name of that split.
        data: identifies the examples; a checkpoint of others goes on at its next epoch.
        config: resolved: `engine.precision` and `engine.select` are chosen.
        task: "single" or "multi".
        folder: the run folder; `checkpoints/` is made in it.
        on_selected: gets the evaluated network, its metrics and its row whenever these become the model to keep.
        lost: why what it kept can no longer be read; "" where it can.
        log: where the run tells how it goes.
        on_step: called after each step with its number, the first is 1, and the network, whose gradients are still
            those that the optimizer got; it must change nothing. What it writes to disk before it returns is there
            before the step is saved; if it fails on rank 0, the step is not saved.
        class_weights: (K,) of the loss, on the module's device; see `criterion`.
        save_start: write a checkpoint before the first step, since the start cannot be made again.
        world: the processes of the run. Each trains on its part of every batch and evaluates its part of the split;
            rank 0 alone writes.

    Raises:
        ConfigError: CUDA graphs in a run of several processes; what `build_optimizer` refuses.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        train: TrainLoader,
        evaluate: Callable[[nn.Module], Metrics],
        watched: str,
        data: str,
        config: Config,
        task: str,
        folder: Path,
        on_selected: Callable[[nn.Module, Metrics, Row], None],
        lost: Callable[[], str] = str,
        log: Log,
        on_step: Callable[[int, nn.Module], None] | None = None,
        class_weights: Tensor | None = None,
        save_start: bool = False,
        world: World = ALONE,
    ) -> None:
        if config.engine.cuda_graphs and world.size > 1:
            raise ConfigError(f"engine.cuda_graphs: got {world.size} processes, expected one.", "Leave it out.")
        assert config.engine.precision != "auto", "run resolves the precision"
        assert config.engine.select is not None, "recipes.choose resolves the selection"
        self.config, self.task, self.watched = config, task, watched
        self.train, self.evaluate, self.log = train, evaluate, log
        self.on_selected, self.lost, self.on_step, self.world = on_selected, lost, on_step, world
        self.save_start = save_start
        if config.engine.channels_last:
            module.to(memory_format=torch.channels_last)
        self.module = module
        self.device = next(module.parameters()).device
        self.class_weights = class_weights
        if world.size > 1 and config.engine.sync_bn:
            synchronize(module)
        self.optimizer = build_optimizer(module, config.optim)  # freezes, before ranks agree whose gradients they share
        self.net = self._wrapped()
        keep_float32(self.device)
        keep_freed_memory()
        if self.device.type == "cuda":
            torch.backends.cudnn.deterministic = True  # resuming in the same bits needs the same sums
        self.average = AveragedWeights(module, config.engine.ema) if config.engine.ema else None
        self.total = config.schedule.steps or (config.schedule.epochs or 0) * train.steps_per_epoch
        self.saved = Saved(
            folder=folder / CHECKPOINTS,
            module=module,
            average=self.average,
            optimizer=self.optimizer,
            length=Length(self.total, train.steps_per_epoch, in_epochs=bool(config.schedule.epochs)),
            data=data,
            best=config.engine.select == "best",
            log=log,
            world=world,
        )
        self.guard = Guard(module, self.optimizer)
        self.at = Position()
        self._errors: list[float] = []  # at each evaluation: what schedules may follow
        self.running = Metrics(task, device=self.device)
        self._late = 0  # minutes have passed since the last checkpoint: rank 0's clock decides
        self._unsettled = world.size > 1
        self._saved = (-1, -1)  # step and evaluation of the last checkpoint
        self._saved_at = self._mark = time.perf_counter()

    def fit(self) -> FitResult:
        """Trains to the end from the newest checkpoint, or from the start when there is none.

        Before each step and evaluation the global random state is set from (seed, step), so that what a network draws
        depends on nothing else.

        Raises:
            DivergedError: a loss or gradients that are not finite.
            TrainingError: a full disk, too little memory.
            Stopped: after a signal, when the state is saved.
        """
        self._resume()
        config, world, at, per_epoch = self.config, self.world, self.at, self.train.steps_per_epoch
        with StopSignals() as signals, closing(self.train), self.log.progress(at.step, self.total):
            world.signals = signals
            try:
                while at.step < self.total or self._evaluation_due():
                    if self._evaluation_due():
                        self._seed(at.step)
                        if at.step == self.total and config.engine.precise_bn:
                            self._reestimate(signals)
                        metrics = self._together(signals, self._measured)
                        self._select(metrics.merge(world.total))
                        continue
                    epoch, start = divmod(at.step, per_epoch)
                    end = min((epoch + 1) * per_epoch, self.total)
                    if start == 0:
                        self.running, at.epoch_seconds = Metrics(self.task, device=self.device), 0.0
                    set_training_mode(self.module, config.optim)
                    self._lap()
                    with closing(self.train.epoch(epoch, start)) as batches:  # type: ignore[type-var]
                        while at.step < end:
                            batch = self._together(signals, lambda: next(batches))
                            with self.guard.whole_or_nothing(self._explain):
                                if self._unsettled:
                                    self._settle(batch)
                                at.rate = self._rate(at.step)
                                set_rates(self.optimizer, at.rate, self._decay(at.step))
                                self._seed(at.step)
                                right = self.running.correct if self._warming() else 0
                                given = (batch, self.running, config, at.step + 1, world, self.class_weights)
                                loss = train_step(self.net, self.optimizer, *given)
                                if not config.engine.sync_bn:
                                    world.mean(_statistics(self.module))
                                self._count(batch.total, right)
                                if self.on_step is not None:  # a step that it did not see is made again
                                    self.on_step(at.step, self.module)
                            self.log.step(at.step, self.total, epoch + 1, batch.total, loss, at.rate)
                            if self._late or at.step % (config.engine.checkpoint_steps or self.total) == 0:
                                self._save()
                    if not self._evaluation_due():
                        self.log.line(describe([self._train_row()], self.total / per_epoch))
                        self._save()
                self._together(signals, lambda: None)  # a signal that came in the last save stops here
            except BaseException as error:
                self._leave(error, signals.received)
                raise
        if signals.received:  # in the last moments, in which nobody looked
            signal.raise_signal(signals.received)
        return self._result()

    def _wrapped(self) -> nn.Module:
        """The network as steps call it."""
        engine, net = self.config.engine, shared(self.module, self.world)
        if engine.cuda_graphs:
            return Graphed(net, engine.batch or 0)
        compiled: nn.Module = torch.compile(net, dynamic=False) if engine.compile else net  # type: ignore[assignment]
        return compiled

    def _evaluation_due(self) -> bool:
        at, period = self.at, self.train.steps_per_epoch * self.config.engine.evaluate_every
        return at.step > at.evaluated and (at.step == self.total or at.step % period == 0)

    def _evaluated(self) -> nn.Module:
        """The network whose metrics count and which is kept: the averaged one where there is one."""
        return self.average.module if self.average else self.module

    def _measured(self) -> Metrics:
        """This rank's part of an evaluation, once every rank has made its own: one may take minutes longer."""
        metrics = self.evaluate(self._evaluated())
        self.world.meet(f"evaluated/{self.at.step}")
        return metrics

    def _rate(self, step: int) -> float:
        """The learning rate of a step; the first is 0."""
        so_far = SoFar(not self._warming(), self._errors)
        return self.config.optim.lr * learning_factor(self.config.schedule, step, self.total, so_far)

    def _watched_errors(self) -> list[float]:
        """The error at each evaluation; a test split may steer nothing: then that of training in its place."""
        split = "val" if self.watched == "val" else "train"
        return [1 - row["top1"] for row in self.at.rows if row["split"] == split]

    def _decay(self, step: int) -> float:
        """The weight decay of a step; the first is 0."""
        return self.config.optim.weight_decay * decay_factor(self.config.schedule, step, self.total)

    def _warming(self) -> bool:
        return bool(self.config.schedule.warmup_error) and not self.at.warm

    def _together(self, signals: StopSignals, work: Callable[[], T]) -> T:
        """The result of what this rank does alone, once all ranks agree to go on; changes nothing that is saved.

        Raises:
            Interrupt: a rank was told to stop.
            RankError: another rank failed; on that one, its failure.
        """
        failure: Exception | None = None
        self.world.step = self.at.step + 1
        try:
            with signals.waiting():
                result = work()
        except Interrupt:
            self.world.stopping()  # signals.received says why
        except Exception as error:
            failure = error
            self.world.announce(error)
        minutes = self.config.engine.checkpoint_minutes
        late = self.world.leads and minutes > 0 and time.perf_counter() - self._saved_at >= 60 * minutes
        failed, signal, self._late = self.world.highest(failure is not None, signals.received or 0, late)
        if failure is not None:
            raise failure
        if failed:
            raise self.world.lost()
        if signal:
            signals.received = signal
            raise Interrupt
        return result

    def _settle(self, batch: TrainBatch) -> None:
        """A pass without effect: gradients are summed in an order that is fixed after the first, wherever that is."""
        self.net(torch.zeros_like(batch.images[:2])).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)
        self.guard.take_back()
        self._unsettled = False

    def _reestimate(self, signals: StopSignals) -> None:
        """Precise batch norm of the network that will be evaluated, on the batches that would come next."""
        layout = torch.channels_last if self.config.engine.channels_last else torch.contiguous_format
        with closing(self._coming()) as batches:
            agreed = (self._together(signals, lambda: next(batches)) for _ in range(self.config.engine.precise_bn))
            reestimate(self._evaluated(), agreed, self.config.engine.precision, layout)
        self.world.mean(_statistics(self._evaluated()))

    def _coming(self) -> Generator[TrainBatch, None, None]:
        """The batches of the next epoch, of the one after it, and so on."""
        for epoch in itertools.count(self.at.step // self.train.steps_per_epoch):
            with closing(self.train.epoch(epoch)) as batches:  # type: ignore[type-var]
                yield from batches

    def _seed(self, step: int) -> None:
        seed = (self.config.seed << 32 | step) % (1 << 63)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _count(self, images: int, right: int) -> None:
        """What follows a step; `right` answers were counted before it."""
        at, seconds = self.at, self._lap()
        at.step += 1
        if self._warming():
            at.train_error += SMOOTHING * (1 - (self.running.correct - right) / images - at.train_error)
            at.warm = at.train_error < (self.config.schedule.warmup_error or 0)
        if self.average:
            self.average.update(at.step)
        at.images += images
        at.train_seconds += seconds
        at.epoch_seconds += seconds

    def _explain(self, error: BaseException) -> PlusxError | None:
        """What a failure of the coming step means to a user; None where nobody knows."""
        return self.world.explain(error) or explain(error, self.at.step + 1, self.config.engine)

    def _select(self, metrics: Metrics) -> None:
        """Records an evaluation, keeps its network if it is the one to keep, and saves."""
        at, seconds = self.at, self._lap()
        if not math.isfinite(metrics.loss):
            self.guard.exact = False
            raise DivergedError(f"step {at.step}: the loss on {self.watched} is not finite.")
        row = self._row(self.watched, metrics, metrics.n / seconds)
        rows = [self._train_row(), row]
        better = at.best is None or (row["top1"], -row["loss"]) > (at.best["top1"], -at.best["loss"])
        self.log.rows(at.rows + rows)
        self.log.line(describe(rows, self.total / self.train.steps_per_epoch))
        if self.world.leads and (better or self.config.engine.select == "last"):
            self.on_selected(self._evaluated(), metrics, row)
        at.evaluated, at.rows, at.best = at.step, at.rows + rows, row if better else at.best
        self._errors = self._watched_errors()
        self._save()

    def _train_row(self) -> Row:
        return self._row("train", self.running, self.running.n / max(self.at.epoch_seconds, 1e-9))

    def _row(self, split: str, metrics: Metrics, speed: float) -> Row:
        return {
            "step": self.at.step,
            "epoch": math.ceil(self.at.step / self.train.steps_per_epoch),
            "split": split,
            "loss": metrics.loss,
            "top1": metrics.top1,
            "top5": metrics.top5,
            "lr": self.at.rate,
            "images_per_second": round(speed, 1),
            "seconds": round(self.at.seconds, 3),
        }

    def _lap(self) -> float:
        """Seconds since the last call, added to the run's."""
        before, self._mark = self._mark, time.perf_counter()
        self.at.seconds += self._mark - before
        return self._mark - before

    def _save(self, leaving: bool = False) -> None:
        """Writes a checkpoint of this step.

        Raises:
            TrainingError: it cannot be written; those before are still there.
        """
        self.guard.exact = False
        self._lap()
        self.saved.write(self.at, self.running, leaving)
        self._saved, self._saved_at = (self.at.step, self.at.evaluated), time.perf_counter()
        self.guard.exact = True

    def _resume(self) -> None:
        """Continues from the newest checkpoint that is whole.

        Raises:
            ModelFileError: checkpoints that are all damaged, or of another network or plan.
        """
        found = self.saved.newest(self.lost)
        if found:
            self.at = self.saved.restore(found, self.running)
            self._errors = self._watched_errors()
            self._saved = (self.at.step, self.at.evaluated)
            self.log.line(f"continuing after step {self.at.step:,} of {self.total:,}, from {found.path.name}")
        self.log.rows(self.at.rows)
        self._saved_at = self._mark = time.perf_counter()
        if self.save_start and not found:
            self._save()

    def _leave(self, error: BaseException, signal: int | None) -> None:
        """The last save of a run that ends early; a second Ctrl-C, or a state that may not be saved, goes without.

        Raises:
            Stopped: the end is one that was asked for.
            TrainingError: the end has a known reason.
        """
        if isinstance(error, KeyboardInterrupt):
            return
        if self.guard.exact and self._saved != (self.at.step, self.at.evaluated):
            try:
                self._save(leaving=True)
            except Exception as failed:  # what ends the run goes first
                self.log.line(f"step {self.at.step:,} is not saved: {str(failed).splitlines()[0]}")
        if signal is not None and isinstance(error, Interrupt):
            done = f"step {self.at.step:,} of {self.total:,}"
            raise Stopped(f"stopped by {SIGNALS[signal]} after {done}.", signal) from None
        if explained := explain(error, self.at.step + 1, self.config.engine):
            raise explained from error

    def _result(self) -> FitResult:
        at = self.at
        assert at.best is not None, "a finished run was evaluated at its last step"
        return FitResult(
            steps=at.step,
            epochs=at.rows[-1]["epoch"],
            best={key: at.best[key] for key in ("epoch", "step", "top1", "loss")},
            final={key: at.rows[-1][key] for key in ("top1", "top5", "loss")},
            seconds=round(at.seconds, 3),
            images_per_second=round(at.images / max(at.train_seconds, 1e-9), 1),
            history=list(at.rows),
        )


def _statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances of batch norm."""
    return [value for name, value in module.named_buffers() if name.endswith(("running_mean", "running_var"))]
