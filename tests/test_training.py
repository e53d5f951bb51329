"""The training loop: exact resume, the best weights kept, batch order, bad numbers, untouched global state."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.utils import check_random_state
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from braindecode_suite.core.errors import InputError, NonFiniteLoss
from braindecode_suite.learning.layers import parameter_groups
from braindecode_suite.learning.training import (
    BatchOrder,
    Moment,
    TrainingConfig,
    random_states,
    train,
    usable_state,
)

CONFIG = TrainingConfig(
    epochs=6,
    batch_size=16,
    learning_rate=0.02,
    warmup_epochs=1,
    ema_decay=0.9,
    checkpoint_seconds=0,
    weight_decay=0.1,
)


class Regression:
    """A linear problem learned by a small network with dropout, with noise drawn per batch."""

    def __init__(self, *, bad_epoch: int = -1, stop_at: int = -1) -> None:
        rng = np.random.default_rng(0)
        self.x = torch.from_numpy(rng.standard_normal((80, 5))).float()
        self.y = self.x @ torch.from_numpy(rng.standard_normal((5, 2))).float()
        generator = torch.Generator().manual_seed(1)
        layers = nn.Linear(5, 16), nn.Linear(16, 2)
        self.network = nn.Sequential(layers[0], nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.2), layers[1])
        for layer in layers:
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * 0.3
            layer.bias.data.zero_()
        self.bad_epoch, self.stop_at = bad_epoch, stop_at
        self.seen: list[tuple[int, list[int]]] = []

    n_items = 64

    def loss(self, items: np.ndarray, moment: Moment) -> dict[str, Tensor]:
        if moment.epoch == self.stop_at:
            raise KeyError("the machine is switched off")
        self.seen.append((moment.epoch, items.tolist()))
        noise = (
            torch.randn(len(items), 5, generator=moment.generator)
            + random.random()
            + check_random_state(None).rand()
        )
        error = (self.network(self.x[items] + 0.01 * noise) - self.y[items]).square().mean()
        return {"loss": error * (float("nan") if moment.epoch == self.bad_epoch else 1), "mse": error}

    def names(self, items: np.ndarray) -> list[str]:
        return [f"image-{item}" for item in items]

    def validate(self) -> dict[str, float]:
        assert not self.network.training
        with torch.no_grad():
            error = float((self.network(self.x[64:]) - self.y[64:]).square().mean())
        return {"score": -error, "mse": error}


def weights(task: Regression) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in task.network.parameters()]).numpy()


@pytest.mark.parametrize("epochs_done", [1, 4])
def test_an_interrupted_run_ends_where_the_uninterrupted_one_does(tmp_path: Path, epochs_done: int) -> None:
    whole = Regression()
    expected = train(whole, CONFIG, work_dir=tmp_path / "whole")
    with pytest.raises(KeyError, match="switched off"):
        train(Regression(stop_at=epochs_done), CONFIG, work_dir=tmp_path / "cut")
    resumed = Regression()
    result = train(resumed, CONFIG, work_dir=tmp_path / "cut")
    assert result.resumed_from == epochs_done
    assert min(epoch for epoch, _ in resumed.seen) == epochs_done
    np.testing.assert_allclose(weights(resumed), weights(whole), atol=1e-6, rtol=0)
    assert result.best_epoch == expected.best_epoch
    assert [row.keys() for row in result.history] == [row.keys() for row in expected.history]
    for ours, theirs in zip(result.history, expected.history, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, again = Regression(), Regression()
    train(first, CONFIG, work_dir=tmp_path)
    result = train(again, CONFIG, work_dir=tmp_path)
    assert again.seen == []
    assert result.resumed_from == 6
    assert_array_equal(weights(again), weights(first))


def test_a_run_that_stopped_early_is_not_trained_further(tmp_path: Path) -> None:
    config = CONFIG.model_copy(
        update={"epochs": 40, "patience": 2, "learning_rate": 1.0, "warmup_epochs": 20.0}
    )
    first, again = Regression(), Regression()
    result = train(first, config, work_dir=tmp_path)
    assert result.history[-1]["epoch"] == result.best_epoch + 2 < 40
    train(again, config, work_dir=tmp_path)
    assert again.seen == []
    assert_array_equal(weights(again), weights(first))


def test_another_config_or_seed_starts_afresh(tmp_path: Path) -> None:
    train(Regression(), CONFIG, work_dir=tmp_path)
    for kwargs in ({"seed": 1}, {"identity": "other data"}):
        assert train(Regression(), CONFIG, work_dir=tmp_path, **kwargs).resumed_from == 0
    assert train(Regression(), CONFIG.model_copy(update={"epochs": 2}), work_dir=tmp_path).resumed_from == 0


def test_a_truncated_state_is_ignored_with_a_warning(tmp_path: Path) -> None:
    expected = Regression()
    train(expected, CONFIG, work_dir=tmp_path)
    (state,) = tmp_path.glob("*/last.ckpt")
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    task = Regression()
    with pytest.warns(UserWarning, match=r"last\.ckpt: not a whole training state"):
        result = train(task, CONFIG, work_dir=tmp_path)
    assert result.resumed_from == 0
    assert_array_equal(weights(task), weights(expected))


def test_files_left_by_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".last-abc.ckpt").write_bytes(b"half")
    assert usable_state(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_kill_9_in_the_middle_then_the_same_command_gives_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys, time
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from pathlib import Path
            import numpy as np
            from test_training import CONFIG, Regression, train, weights

            class Slow(Regression):
                def loss(self, items, moment):
                    time.sleep(0.05)
                    return super().loss(items, moment)

            task = Slow()
            train(task, CONFIG, work_dir=Path({str(tmp_path)!r}))
            np.save({str(tmp_path / "weights.npy")!r}, weights(task))
            """
        )
    )
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen([sys.executable, str(script)], env=environment)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("*/last.ckpt")), "no state was written in time"
    assert not (tmp_path / "weights.npy").exists(), "the run had ended before it was killed"
    subprocess.run([sys.executable, str(script)], env=environment, check=True, timeout=90)
    whole = Regression()
    train(whole, CONFIG, work_dir=tmp_path / "whole")
    np.testing.assert_allclose(np.load(tmp_path / "weights.npy"), weights(whole), atol=1e-6, rtol=0)


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    task = Regression()
    config = CONFIG.model_copy(update={"epochs": 12, "learning_rate": 1.0, "warmup_epochs": 6.0})
    result = train(task, config, work_dir=tmp_path)
    scores = [row["validation_score"] for row in result.history]
    assert result.best_epoch == int(np.argmax(scores)) < 12
    assert task.validate()["score"] == pytest.approx(max(scores), abs=1e-6)


def test_averaged_weights_are_what_is_validated_and_kept(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"epochs": 1, "ema_decay": 0.5})
    averaged, plain = Regression(), Regression()
    start = weights(averaged)
    train(averaged, config, work_dir=tmp_path)
    train(plain, config.model_copy(update={"ema_decay": 0.0}), work_dir=tmp_path)
    assert not np.allclose(weights(averaged), weights(plain))
    assert np.linalg.norm(weights(averaged) - start) < np.linalg.norm(weights(plain) - start)


def test_nan_stops_the_run_and_names_the_batch(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteLoss, match=r"epoch 3, batch 1: loss nan, mse .*; the batch held image-\d+, "
    ):
        train(Regression(bad_epoch=2), CONFIG, work_dir=tmp_path)


def test_global_random_states_are_left_as_they_were(tmp_path: Path) -> None:
    task, before = Regression(), random_states()
    train(task, CONFIG, work_dir=tmp_path)
    after = random_states()
    assert after["python"] == before["python"]
    assert after["numpy"] == before["numpy"]
    assert torch.equal(after["torch"], before["torch"])


def test_bf16_trains_to_about_the_same(tmp_path: Path) -> None:
    single, half = Regression(), Regression()
    train(single, CONFIG, work_dir=tmp_path)
    train(half, CONFIG, work_dir=tmp_path, precision="bf16")
    assert all(p.dtype == torch.float32 for p in half.network.parameters())
    assert half.validate()["mse"] == pytest.approx(single.validate()["mse"], rel=0.1)


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="32 or bf16; found '16'"):
        train(Regression(), CONFIG, work_dir=tmp_path, precision="16")


def test_batch_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = BatchOrder(20, 4, seed)
        batches.set_epoch(epoch)
        return [int(item) for items, _ in batches for item in items]

    assert sorted(order(0, 0)) == list(range(20))
    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_the_trainer_follows_that_order(tmp_path: Path) -> None:
    task = Regression()
    train(task, CONFIG, work_dir=tmp_path, seed=7)
    order = BatchOrder(64, 16, 7)
    for epoch in range(CONFIG.epochs):
        order.set_epoch(epoch)
        assert [items for e, items in task.seen if e == epoch] == [items.tolist() for items, _ in order]


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_of_one_or_two_steps_has_a_schedule(tmp_path: Path, epochs: int) -> None:
    task = Regression()
    config = TrainingConfig(epochs=epochs, batch_size=task.n_items, learning_rate=1e-2, ema_decay=0)
    before = weights(task).copy()
    assert (
        len(train(task, config, work_dir=tmp_path, seed=0, device="cpu").history) == epochs + 1
    )  # and once before
    assert np.isfinite(weights(task)).all()
    assert not np.array_equal(weights(task), before)


def test_only_matrices_decay() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Conv2d(1, 1, 3), nn.Embedding(2, 3))
    decayed, kept = parameter_groups(network, 0.1)
    assert {tuple(p.shape) for p in decayed["params"]} == {(4, 3), (1, 1, 3, 3)}
    assert {tuple(p.shape) for p in kept["params"]} == {(4,), (1,), (2, 3)}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_a_gradient_is_scaled_down_to_the_norm_that_is_allowed(tmp_path: Path, precision: str) -> None:
    norms: list[float] = []
    task = Regression()

    def look(optimiser: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimiser.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.flatten() for g in gradients if g is not None]).norm()))

    handle = register_optimizer_step_post_hook(look)
    try:
        train(task, CONFIG, work_dir=tmp_path / "free", precision=precision)
        free, norms[:] = list(norms), []
        clipped = CONFIG.model_copy(update={"gradient_clip": 0.05})
        train(Regression(), clipped, work_dir=tmp_path / "clipped", precision=precision)
    finally:
        handle.remove()
    assert min(free) > 0.05
    np.testing.assert_allclose(norms, 0.05, rtol=1e-4)
