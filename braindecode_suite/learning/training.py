"""The training loop of every deep model here: a Lightning trainer around a `Task`.

What it guarantees: batch order is a function of (seed, epoch); what a batch draws, of (seed, epoch, batch); a run that is
killed at any moment goes on from its last whole state and ends where the uninterrupted one does; the best weights on
validation data are returned, never the last; test rows are not among its arguments.
"""

from __future__ import annotations

import logging
import random
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from sklearn.utils import check_random_state  # of None: numpy's global generator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from braindecode_suite.core.config import Config
from braindecode_suite.core.errors import InputError, NonFiniteLoss
from braindecode_suite.core.files import data_hash, write_aside
from braindecode_suite.core.memory import reuse_freed_memory
from braindecode_suite.learning.layers import parameter_groups

LAST = "last.ckpt"
Decay = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(Config):
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate : float
        Peak of the one-cycle schedule, or the constant rate.
    schedule : {'one-cycle', 'constant'}
    weight_decay : float
        Of matrices only; AdamW without it is Adam.
    betas : pair of float
        Of the running means of the gradient and its square.
    warmup_epochs : float
        Epochs up to the peak.
    ema_decay : float
        Of the running average of the weights that is validated and kept; 0 turns it off.
    patience : int
        Epochs without a better validation score before stopping; 0 never stops early.
    validate_every : int
        Epochs between validations.
    gradient_clip : float
        Largest norm of the gradient of all weights together; larger ones are scaled down to it. 0 turns it off.
    checkpoint_seconds : float
        Least time between two resumable states; a kill loses at most this much work.
    """

    epochs: PositiveInt = 240
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 3e-4
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    weight_decay: NonNegativeFloat = 1e-2
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    warmup_epochs: NonNegativeFloat = 2.0
    ema_decay: Decay = 0.999
    patience: NonNegativeInt = 0
    validate_every: PositiveInt = 1
    gradient_clip: NonNegativeFloat = 0.0
    checkpoint_seconds: NonNegativeFloat = 20.0


@dataclass(frozen=True)
class Moment:
    """Where training is when a batch is drawn.

    Attributes
    ----------
    epoch : int
        From 0.
    progress : float
        Epochs done over epochs planned, 0 to 1.
    generator : torch.Generator
        On the CPU; a function of (seed, epoch, batch).
    """

    epoch: int
    progress: float
    generator: torch.Generator


class Task(Protocol):
    """What is trained: a network, its loss on some items, its validation scores."""

    @property
    def network(self) -> nn.Module:
        """The network, trained in place."""
        ...

    @property
    def n_items(self) -> int:
        """Number of training items."""
        ...

    def loss(self, items: np.ndarray, moment: Moment) -> dict[str, Tensor]:
        """Return the scalar ``loss`` of a batch of items, and its parts under other names."""
        ...

    def names(self, items: np.ndarray) -> Sequence[str]:
        """Return what to call these items in an error."""
        ...

    def validate(self) -> dict[str, float]:
        """Return scores on validation data; the weights with the largest ``score`` are kept."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What came of a training.

    Attributes
    ----------
    history : list of dict
        One row a validated epoch (0: before the first step): ``epoch``, ``validation_*`` and mean ``train_*`` losses.
    best_epoch : int
    resumed_from : int
        Epochs already done when this run began, 0 for a fresh one.
    """

    history: list[dict[str, float]]
    best_epoch: int
    resumed_from: int


def train(
    task: Task,
    config: TrainingConfig,
    *,
    work_dir: Path,
    seed: int = 0,
    device: str = "cpu",
    precision: str = "32",
    progress: bool = False,
    identity: Any = None,
) -> TrainingResult:
    """Train the task's network in place and leave in it the weights with the best validation score.

    Parameters
    ----------
    task : Task
    config : TrainingConfig
    work_dir : Path
        Holds the resumable state; one found here is gone on from.
    seed : int
    device : {'cpu', 'cuda'}
    precision : {'32', 'bf16'}
    progress : bool
        Whether to show a progress bar; never shown where stderr is not a terminal.
    identity : JSON-like, optional
        What the state must have been made with (config, data) to be gone on from.

    Returns
    -------
    TrainingResult

    Raises
    ------
    NonFiniteLoss
        At NaN or infinity, with the ids of the batch.
    """
    if precision not in ("32", "bf16"):
        raise InputError("`precision`", expected="32 or bf16", found=repr(precision))
    folder = work_dir / data_hash([config.model_dump(), seed, precision, identity])
    shell = _Shell(task, config, seed)
    keeper = _KeepBest(config, folder)
    callbacks: list[Callback] = [keeper]
    if config.ema_decay:
        callbacks.append(EMAWeightAveraging(use_buffers=False, decay=config.ema_decay))
    if progress and sys.stderr.isatty():
        callbacks.append(TQDMProgressBar(leave=False))
    callbacks.append(_Resume(folder, keeper, config.checkpoint_seconds))
    memory = reuse_freed_memory() if device == "cpu" else nullcontext()
    with _isolated_randomness(seed, device), _quiet(), memory:
        trainer = lightning.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_epochs=config.epochs,
            gradient_clip_val=config.gradient_clip or None,
            check_val_every_n_epoch=config.validate_every,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=True,
            enable_model_summary=False,
            enable_progress_bar=progress and sys.stderr.isatty(),
            default_root_dir=folder,
            use_distributed_sampler=False,
            inference_mode=False,
        )
        sampler = BatchOrder(task.n_items, config.batch_size, seed)
        own = torch.Generator()  # or the loaders would draw from the global generator each time they begin
        batches = DataLoader(_Echo(len(sampler)), batch_size=None, sampler=sampler, generator=own)
        once = DataLoader(_Echo(1), batch_size=None, generator=own)
        state = usable_state(folder)
        trainer.fit(shell, batches, once, ckpt_path=state, weights_only=True)
        keeper.restore(shell)
    task.network.to("cpu").eval()
    return TrainingResult(
        history=keeper.history, best_epoch=keeper.best_epoch, resumed_from=keeper.resumed_from
    )


class BatchOrder(Sampler[tuple[np.ndarray, int]]):
    """Yield (items, batch number) in an order that is a function of (seed, epoch); the last short batch is dropped.

    Examples
    --------
    >>> order = BatchOrder(5, 2, seed=0)
    >>> [len(items) for items, _ in order]
    [2, 2]
    """

    def __init__(self, n_items: int, batch_size: int, seed: int) -> None:
        if n_items < 2:
            raise InputError("training data", expected="at least 2 items", found=str(n_items))
        self.n_items, self.batch_size, self.seed, self.epoch = n_items, min(batch_size, n_items), seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; the trainer calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_items // self.batch_size

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_items)
        for batch in range(len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size], batch


def usable_state(folder: Path) -> Path | None:
    """Return the resumable state in `folder`, or None where there is none that can be read whole."""
    path = folder / LAST
    for stale in folder.glob(f".{path.stem}-*"):  # left by a run that was killed while writing
        stale.unlink(missing_ok=True)
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        best = state["callbacks"][_KeepBest.__qualname__]["best_file"]
        load_file(folder / best)
    except (
        Exception
    ) as error:  # a truncated zip, a missing key, a missing file: all mean that nothing can be resumed
        warnings.warn(
            f"{path}: not a whole training state ({type(error).__name__}); starting afresh", stacklevel=2
        )
        path.unlink(missing_ok=True)
        return None
    return path


class _Echo(Dataset[Any]):
    """A dataset whose items are their own keys: the sampler's batches reach the task as they are."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: Any) -> Any:
        return key


class _Shared:
    """Holds something that copies of the module share: the average of the weights must not copy the data."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared:
        return self


class _Shell(lightning.LightningModule):
    """The task as Lightning wants it."""

    def __init__(self, task: Task, config: TrainingConfig, seed: int) -> None:
        super().__init__()
        self.network = task.network
        self.shared, self.config, self.seed = _Shared(task), config, seed
        self.validation: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        self.n_batches = 0

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # item numbers; the task moves the data

    def training_step(self, batch: tuple[np.ndarray, int], batch_idx: int) -> Tensor:
        items, number = batch
        epoch = self.current_epoch
        draw = np.random.SeedSequence([self.seed, epoch, number]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(draw >> np.uint64(1)))
        progress = (epoch + number / len(self.trainer.train_dataloader)) / self.config.epochs  # type: ignore[arg-type]
        parts = self.shared.task.loss(items, Moment(epoch, progress, generator))
        loss = parts["loss"]
        if not torch.isfinite(loss):
            names = ", ".join(map(str, self.shared.task.names(items)))
            values = ", ".join(f"{name} {float(part.detach()):.3g}" for name, part in parts.items())
            raise NonFiniteLoss(f"epoch {epoch + 1}, batch {number + 1}: {values}; the batch held {names}")
        for name, part in parts.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=part.device)) + part.detach().float()
        self.n_batches += 1
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validation = self.shared.task.validate()

    def configure_optimizers(self) -> Any:
        config = self.config
        mixed = self.trainer.precision != "32-true"  # Lightning clips no gradient of a fused optimiser there
        optimiser = torch.optim.AdamW(
            parameter_groups(self.network, config.weight_decay),
            lr=config.learning_rate,
            betas=config.betas,
            fused=not (config.gradient_clip and mixed),
        )
        if config.schedule == "constant":
            return optimiser
        steps = max(int(self.trainer.estimated_stepping_batches), 3)  # the least that the schedule can divide
        warmup = min(max(config.warmup_epochs / config.epochs, 1.5 / steps), 0.5)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            config.learning_rate,
            total_steps=steps,
            pct_start=warmup,
            div_factor=25,
            final_div_factor=1000,
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def take_training_means(self) -> dict[str, float]:
        """Return mean losses since the last call."""
        means = {f"train_{name}": float(total) / max(self.n_batches, 1) for name, total in self.sums.items()}
        self.sums, self.n_batches = {}, 0
        return means


class _KeepBest(Callback):
    """Keeps history and the best (averaged) weights, and stops when patience runs out.

    It stands before the averaging callback, so that the averaged weights are in place when it looks.
    """

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.history: list[dict[str, float]] = []
        self.best_score, self.best_epoch, self.resumed_from = float("-inf"), 0, 0
        self.best: dict[str, Tensor] = {}
        self.best_on_disk = -1
        self._restored = False

    @property
    def best_file(self) -> str:
        return f"best_epoch-{self.best_epoch:05d}.safetensors"

    def look(self, shell: _Shell, epoch: int) -> None:
        scores = shell.validation
        row = {"epoch": float(epoch)} | {f"validation_{k}": float(v) for k, v in scores.items()}
        self.history.append(row | shell.take_training_means())
        score = float(scores["score"])
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            self.best = {k: v.detach().cpu().clone() for k, v in shell.network.state_dict().items()}

    def exhausted(self) -> bool:
        done = self.history[-1]["epoch"] if self.history else 0.0
        return bool(self.config.patience) and done - self.best_epoch >= self.config.patience

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        assert isinstance(pl_module, _Shell)
        if not self._restored:
            pl_module.eval()
            with torch.no_grad():
                pl_module.validation = pl_module.shared.task.validate()
            pl_module.train()
            self.look(pl_module, 0)
        trainer.should_stop = trainer.should_stop or self.exhausted()

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        assert isinstance(pl_module, _Shell)
        self.look(pl_module, trainer.current_epoch + 1)
        trainer.should_stop = trainer.should_stop or self.exhausted()

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "best_file": self.best_file,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self.resumed_from = int(self.history[-1]["epoch"])
        self.best, self.best_on_disk = load_file(self.folder / self.best_file), self.best_epoch
        self._restored = True

    def write_best(self) -> None:
        if self.best_on_disk != self.best_epoch:
            with write_aside(self.folder / self.best_file) as aside:
                save_file({k: v.contiguous() for k, v in self.best.items()}, aside)
            self.best_on_disk = self.best_epoch

    def restore(self, shell: _Shell) -> None:
        shell.network.load_state_dict(self.best)


class _Resume(Checkpoint):
    """Writes the resumable state at the end of an epoch: first the best weights, then the state that names them."""

    def __init__(self, folder: Path, keeper: _KeepBest, seconds: float) -> None:
        self.folder, self.keeper, self.seconds = folder, keeper, seconds
        self.written = time.monotonic()
        self.randomness: dict[str, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.randomness:
            set_random_states(self.randomness)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if self.keeper.history[-1]["epoch"] != done:  # between validations the running means would be lost
            return
        ending = trainer.should_stop or done == trainer.max_epochs
        if not ending and time.monotonic() - self.written < self.seconds:
            return
        self.keeper.write_best()
        self.randomness = random_states()
        with write_aside(self.folder / LAST) as aside:
            trainer.save_checkpoint(aside)
        self.written = time.monotonic()
        for old in self.folder.glob("best_epoch-*.safetensors"):
            if old.name != self.keeper.best_file:
                old.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        return self.randomness

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.randomness = state_dict


def random_states() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's global generators, as plain data and tensors."""
    kind, keys, position, has_gauss, gauss = check_random_state(None).get_state()
    return {
        "python": random.getstate(),
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = states["numpy"]
    check_random_state(None).set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def _isolated_randomness(seed: int, device: str) -> Iterator[None]:
    """Seed the global generators (dropout draws from them) for the block, and give them back as they were."""
    before = random_states()
    try:
        random.seed(seed)
        check_random_state(None).seed(seed % 2**32)
        torch.manual_seed(seed)
        yield
    finally:
        set_random_states(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notices about devices, workers and tips off the screen for the block."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
