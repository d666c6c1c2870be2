"""The loop itself, on a network small enough for a second a run."""

import functools
import json
import os
import re
import resource
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from processes import TIMES

from resnet_keras.errors import InputError
from resnet_keras.training import loop
from resnet_keras.training.checkpoints import Checkpoints
from resnet_keras.training.logs import Log
from resnet_keras.training.optimizers import LossScale, MomentumSGD, all_finite
from resnet_keras.training.schedules import (
    INITIAL,
    observe_training,
    piecewise,
    warmup_until_learning,
)
from resnet_keras.training.signals import Stopped
from resnet_keras.training.step import make_train_function
from resnet_keras.training.strategy import average_statistics

BATCH = 12


def _network(norm: bool = True, dropout: float = 0.0) -> keras.Model:
    x = image = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(5, 3, name="conv")(x)
    if norm:
        x = keras.layers.BatchNormalization(momentum=0.9, name="bn")(x)
    x = keras.layers.Flatten()(keras.layers.Activation("relu")(x))
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    return keras.Model(image, keras.layers.Dense(3, name="fc")(x))


def _batches(first: int = 0, bad: int = -1) -> tf.data.Dataset:
    """Return learnable batches that follow from their number; number ``bad`` raises."""

    def batch(number: tf.Tensor) -> dict[str, tf.Tensor]:
        tf.debugging.assert_none_equal(number, tf.constant(bad, tf.int64))
        seed = tf.stack([tf.constant(5, tf.int64), number])
        image = tf.random.stateless_normal([BATCH, 4, 4, 3], seed)
        label = tf.argmax(tf.reduce_mean(image, [1, 2]), axis=1, output_type=tf.int32)
        return {"image": image, "label": label, "weight": tf.ones([BATCH])}

    return tf.data.Dataset.range(first, 10**6).map(batch)


class Run:
    """One run in a directory: everything that main would put together."""

    def __init__(self, folder, strategy=None, loss_scale=None, **network):
        keras.utils.set_random_seed(3)
        self.strategy = strategy or tf.distribute.OneDeviceStrategy("/cpu:0")
        with self.strategy.scope():
            self.model = _network(**network)
            self.optimizer = MomentumSGD(0.9, 1e-3)
            self.optimizer.build(self.model.trainable_variables)
            self.loss_scale = LossScale(loss_scale) if loss_scale else None
        others = {"optimizer": self.optimizer.state}
        if self.loss_scale:
            others["loss_scale"] = self.loss_scale.state
        self.checkpoints = Checkpoints(folder, self.model, others, loop.INITIAL | INITIAL)
        self.start, self.state = self.checkpoints.restore()
        self.average = average_statistics(self.strategy, self.model)
        self.folder = folder
        self.evaluated: list[int] = []
        self.rates: dict[int, float] = {}

    def train(self, steps, *, rate=0.05, evaluate=None, bad=-1, stubborn=False, parts=1,
              schedule=None, warm_below=None, watch=lambda step: None, **periods):  # fmt: skip
        given = {"steps_per_call": 4, "log_every": 10, "checkpoint_every": 7, "evaluate_every": 0}
        given |= periods
        log = Log(
            self.folder, records=int(self.state["records"]), step=self.start, total_steps=steps,
            images_per_step=BATCH, tensorboard=False,
        )  # fmt: skip
        self.opened = []

        def open_stream(step: int, guarded: bool):
            self.opened.append((step, guarded))
            batches = _batches(step, bad=-1 if guarded and not stubborn else bad)
            return iter(self.strategy.experimental_distribute_dataset(batches))

        def evaluate_and_log(step, request):
            metrics = (evaluate or self._evaluate)(step)
            log.write("test", step, **(metrics or {}))
            return metrics or {}

        def observed(state, step, wrong, images):
            return observe_training(state, step, wrong, images, until_error=warm_below)

        planned = schedule or piecewise(rate, (20,))

        def noted(step, state):
            self.rates[step] = planned(step, state)
            return self.rates[step]

        try:
            loop.train(
                make_train_function(
                    self.model, self.optimizer, self.strategy, batch_size=BATCH, seed=1,
                    steps_per_call=given["steps_per_call"], accumulation_steps=parts,
                    loss_scale=self.loss_scale,
                ),
                open_stream,
                schedule=noted,
                state=self.state,
                start=self.start,
                steps=steps,
                save=self._save,
                finite=lambda: bool(all_finite([v.value for v in self.model.trainable_variables])),
                evaluate=evaluate_and_log,
                observe_training=observed if warm_below else None,
                observe_evaluation=lambda state, step, metrics: state,
                watch=watch,
                log=log,
                **given,
            )  # fmt: skip
        finally:
            log.close()
        return self

    def _evaluate(self, step):
        self.evaluated.append(step)

    def _save(self, step, state):
        self.average()
        self.checkpoints.save(step, state)

    def weights(self) -> list[np.ndarray]:
        self.average()
        kept = [v.value for v in self.model.variables if "seed" not in v.path]
        kept += self.optimizer.velocities
        return [self.strategy.experimental_local_results(v)[0].numpy() for v in kept]

    def trainable(self) -> dict[str, np.ndarray]:
        local = self.strategy.experimental_local_results
        return {v.path: local(v.value)[0].numpy() for v in self.model.trainable_variables}

    def log(self, kind: str = "") -> list[dict]:
        lines = (self.folder / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        without = [{k: v for k, v in r.items() if k not in TIMES} for r in records]
        return [r for r in without if not kind or r["kind"] == kind]


def _folder(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


def _assert_equal(one: Run, other: Run):
    for a, b in zip(one.weights(), other.weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_learns(tmp_path):
    run = Run(_folder(tmp_path, "a")).train(200)
    errors = [record["error"] for record in run.log("train")]
    assert errors[-1] < 0.6 * errors[0]
    assert [record["step"] for record in run.log("train")] == list(range(10, 201, 10))
    assert run.evaluated == [200]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the function from settings to an undisturbed run, made when it is first asked for."""

    @functools.cache
    def make(steps, dropout=0.0, **periods):
        return Run(tmp_path_factory.mktemp("whole"), dropout=dropout).train(steps, **periods)

    return make


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_stopped_and_resumed_run_equals_an_undisturbed_one(tmp_path, undisturbed, dropout):
    whole = undisturbed(32, dropout, evaluate_every=13)
    folder = _folder(tmp_path, "parts")
    first = Run(folder, dropout=dropout)

    def interrupt(step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="SIGTERM"):
        first.train(32, evaluate=interrupt, evaluate_every=13)
    # The signal came after step 13; the call at hand is finished and saved.
    resumed = Run(folder, dropout=dropout)
    assert 13 < resumed.start < 20
    resumed.train(32, evaluate_every=13)
    _assert_equal(whole, resumed)
    assert whole.log() == resumed.log()


def test_an_evaluation_that_was_cut_short_is_made_anew(tmp_path, undisturbed):
    whole = undisturbed(32, 0.0, evaluate_every=13)
    folder = _folder(tmp_path, "parts")

    def cut_short(step: int) -> None:
        raise KeyboardInterrupt  # a second Ctrl-C: nothing is saved any more

    with pytest.raises(KeyboardInterrupt):
        Run(folder).train(32, evaluate=cut_short, evaluate_every=13)
    resumed = Run(folder)
    assert resumed.start == 13
    resumed.train(32, evaluate_every=13)
    assert resumed.evaluated == whole.evaluated == [13, 26, 32]
    assert resumed.log() == whole.log()
    _assert_equal(whole, resumed)


def test_the_number_of_steps_in_a_call_changes_nothing(tmp_path):
    one = Run(_folder(tmp_path, "one")).train(20, steps_per_call=1)
    many = Run(_folder(tmp_path, "many")).train(20, steps_per_call=9)
    _assert_equal(one, many)


@pytest.mark.parametrize(
    ("seconds", "alone", "expected"),
    [
        (3600.0, True, [7, 3, 4, 6]),  # to the checkpoint, the line, the checkpoint, the end
        (0.0, True, [7, *[1] * 13]),  # after the first, whose steps nobody had timed
        (0.0, False, [7, 3, 4, 6]),  # workers must make the same calls
    ],
)
def test_a_signal_need_not_wait_for_many_long_steps(
    seconds, alone, expected, tmp_path, monkeypatch
):
    counts, make = [], make_train_function

    def noting(*arguments, **settings):
        function = make(*arguments, **settings)

        def call(iterator, rates, count, step, stop):
            counts.append(count)
            return function(iterator, rates, count, step, stop)

        return call

    monkeypatch.setitem(Run.train.__globals__, "make_train_function", noting)
    monkeypatch.setattr(loop, "CALL_SECONDS", seconds)
    Run(tmp_path).train(20, steps_per_call=9, alone=alone)
    assert counts == expected


def test_periods_are_kept_whatever_the_steps_in_a_call(tmp_path):
    run = Run(_folder(tmp_path, "a")).train(20, steps_per_call=16, evaluate_every=6)
    assert run.evaluated == [6, 12, 18, 20]
    assert [r["step"] for r in run.log("train")] == [10, 20]
    # Checkpoints at 7 and 14, before every evaluation and at the end; the last three stay.
    assert sorted(f.stem for f in run.folder.glob("*.index")) == ["ckpt-14", "ckpt-18", "ckpt-20"]


def test_the_seconds_of_saving_are_in_the_line_after(tmp_path):
    for name, period, told in (("often", 7, [True, True]), ("at the end", 100, [False, False])):
        folder = _folder(tmp_path, name)
        Run(folder).train(20, checkpoint_every=period)
        records = list(map(json.loads, (folder / "log.jsonl").read_text().splitlines()))
        lines = [r for r in records if r["kind"] == "train"]
        assert [r.get("saving", 0) > 0 for r in lines] == told
        assert min(r["peak_memory"] for r in lines) > 2**20  # bytes; Python alone needs more


def test_replicas_without_batch_norm_equal_one_device(tmp_path, cpus):
    one = Run(_folder(tmp_path, "1"), norm=False).train(8)
    strategy = mirrored(cpus[:3])
    three = Run(_folder(tmp_path, "3"), strategy, norm=False).train(8)
    for a, b in zip(one.weights(), three.weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_statistics_become_the_mean_over_replicas(tmp_path, cpus):
    strategy = mirrored(cpus[:2])
    run = Run(_folder(tmp_path, "a"), strategy)
    run.average = lambda: None
    run.train(5)
    moving_mean = run.model.get_layer("bn").moving_mean.value
    values = [v.numpy() for v in strategy.experimental_local_results(moving_mean)]
    assert np.abs(values[0] - values[1]).max() > 1e-4  # each saw half of every batch
    average_statistics(strategy, run.model)()
    for value in strategy.experimental_local_results(moving_mean):
        np.testing.assert_allclose(value.numpy(), (values[0] + values[1]) / 2, rtol=1e-6)


def test_a_checkpoint_of_two_replicas_opens_on_one_device(tmp_path, cpus):
    two = Run(_folder(tmp_path, "a"), mirrored(cpus[:2])).train(7)
    one = Run(two.folder)
    assert one.start == 7
    for a, b in zip(two.weights(), one.weights(), strict=True):
        if a.shape == b.shape == (5,):  # batch norm's: the mean over the replicas
            np.testing.assert_allclose(a, b, rtol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)


def test_dropout_differs_by_step_and_replica_and_follows_the_seed(tmp_path, cpus):
    """Masks show in the loss of a network whose weights stand still."""

    def losses(seed: int, replicas: int, images: int = 12) -> np.ndarray:
        keras.utils.set_random_seed(3)
        strategy = mirrored(cpus[:replicas])
        with strategy.scope():
            model = _network(norm=False, dropout=0.5)
            optimizer = MomentumSGD(0.0, 0.0)
            optimizer.build(model.trainable_variables)
        train = make_train_function(
            model, optimizer, strategy, batch_size=12, seed=seed, steps_per_call=1
        )
        same = next(iter(_batches()))
        # Both replicas get the same images, so that only their masks can differ.
        half = {k: tf.concat([v[:6], v[:6]], 0)[:images] for k, v in same.items()}
        batches = tf.data.Dataset.from_tensors(half).repeat()
        iterator = iter(strategy.experimental_distribute_dataset(batches))
        steps = [train(iterator, [0.0], 1, step) for step in range(3)]
        return np.array([call.sums[0][0] for call in steps])

    first = losses(1, 2)
    assert len(set(first.round(4))) == 3
    np.testing.assert_array_equal(first, losses(1, 2))
    assert not np.allclose(first, losses(2, 2))
    # Replicas with one mask would give twice the loss of one of them alone with its six images. At
    # step 0 a replica that is alone has the mask of the first of two.
    assert first[0] != pytest.approx(2 * losses(1, 1, images=6)[0], rel=1e-3)


def test_a_damaged_checkpoint_names_the_one_to_go_back_to(tmp_path):
    """As a power loss leaves them: what is told leads to the weights of an undisturbed run."""
    expected = Run(_folder(tmp_path, "whole")).train(21).weights()
    folder = _folder(tmp_path, "damaged")
    Run(folder).train(14)
    (folder / "ckpt-14.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(InputError, match=r"ckpt-14 is damaged .* write ckpt-7 for ckpt-14 in the"):
        Run(folder)
    state = folder / "checkpoint"
    state.write_text(state.read_text().replace("ckpt-14", "ckpt-7"))
    resumed = Run(folder)
    assert resumed.start == 7
    for a, b in zip(expected, resumed.train(21).weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    alone = _folder(tmp_path, "alone")
    Run(alone).train(7)
    (alone / "ckpt-7.index").write_bytes(b"")
    with pytest.raises(InputError, match=r"ckpt-7 is damaged .* or train anew with --restart"):
        Run(alone)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    run = Run(_folder(tmp_path, "a")).train(7)
    before = run.weights()
    broken = Run(run.folder)
    with pytest.raises(loop.NonFiniteLoss) as caught:
        broken.train(200, rate=1e30)
    told = str(caught.value)
    assert re.search(r"of step (8|9|1\d) is not finite, at a learning rate of 1e\+30", told)
    assert "back at the checkpoint of step 7" in told
    for a, b in zip(before, Run(run.folder).weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [0, 6, 7, 11])
def test_a_stream_that_fails_is_opened_again_where_it_stood(tmp_path, undisturbed, bad):
    """Step ``bad`` fails in the middle of a call of 4 steps; nothing is lost or done twice."""
    whole = undisturbed(20, log_every=20)
    broken = Run(tmp_path).train(20, bad=bad, log_every=20)
    assert broken.opened == [(0, False), (bad, True)]
    _assert_equal(whole, broken)
    assert whole.log() == broken.log()


def _gives_out(at: int):
    """Return what finds, from a step on, more unreadable images than are allowed."""

    def watch(step: int) -> None:
        if step >= at:
            raise ValueError("too many unreadable images")

    return watch


@pytest.mark.parametrize(
    ("alone", "at", "saved"),
    [
        (True, 14, 14),  # at once
        (False, 14, 18),  # with the others, who hear of it in the next call
        (True, 20, 20),
        (False, 20, 20),  # there is no next call
    ],
)
def test_work_is_kept_when_the_data_give_out(tmp_path, undisturbed, alone, at, saved):
    """Calls end at 10, 14, 18 and 20; the steps made are saved, and no result comes of them."""
    run = Run(tmp_path)
    with pytest.raises(ValueError, match="too many"):
        run.train(20, watch=_gives_out(at), checkpoint_every=40, alone=alone)
    resumed = Run(run.folder)
    assert resumed.start == saved
    assert run.evaluated == []
    whole = undisturbed(20, checkpoint_every=40)
    _assert_equal(whole, resumed.train(20, checkpoint_every=40))
    assert resumed.log() == whole.log()


def test_a_finished_run_whose_data_gave_out_says_so_again(tmp_path):
    Run(_folder(tmp_path, "a")).train(8)
    finished = Run(tmp_path / "a")
    with pytest.raises(ValueError, match="too many"):
        finished.train(8, watch=_gives_out(8))
    assert finished.evaluated == []


def test_a_signal_during_the_last_evaluation_is_heard_after_it(tmp_path):
    """As among several workers, who must evaluate together."""
    run = Run(_folder(tmp_path, "a"))
    with pytest.raises(Stopped, match=r"SIGTERM after step 8 of 8\."):
        run.train(8, evaluate=lambda step: os.kill(os.getpid(), signal.SIGTERM), alone=False)
    assert run.log()[-1] == {"kind": "test", "step": 8}


def test_steps_before_a_failure_that_no_guard_mends_are_kept(tmp_path):
    run = Run(_folder(tmp_path, "a"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        run.train(40, bad=14, checkpoint_every=40, stubborn=True)
    assert run.opened == [(0, False), (14, True)]
    resumed = Run(run.folder)
    assert resumed.start == 14
    _assert_equal(Run(_folder(tmp_path, "whole")).train(14), resumed)


def test_a_checkpoint_of_another_network_is_one_sentence(tmp_path):
    run = Run(_folder(tmp_path, "a")).train(7)
    with pytest.raises(InputError, match="another network"):
        Run(run.folder, norm=False, dropout=0.5)


def test_a_full_disk_spares_the_checkpoint_before(tmp_path):
    """A limit on the size of files stands in for the full disk."""
    run = Run(_folder(tmp_path, "a")).train(7)
    before = run.weights()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"step 8 cannot be written .* make room"):
            run.checkpoints.save(8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resumed = Run(run.folder)
    assert resumed.start == 7
    for one, other in zip(before, resumed.weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_parts_of_a_batch_without_batch_norm_equal_the_whole(tmp_path):
    whole = Run(_folder(tmp_path, "whole"), norm=False).train(8)
    parts = Run(_folder(tmp_path, "parts"), norm=False).train(8, parts=3)
    for a, b in zip(whole.weights(), parts.weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for a, b in zip(whole.log("train"), parts.log("train"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["error"] == a["error"]


def test_parts_of_a_batch_have_statistics_of_their_own_as_devices_have(tmp_path, cpus):
    """One device with two parts does what two devices do, moving averages included."""
    parts = Run(_folder(tmp_path, "parts")).train(6, parts=2)
    devices = Run(_folder(tmp_path, "devices"), mirrored(cpus[:2])).train(6)
    for a, b in zip(parts.weights(), devices.weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_masks_differ_between_the_parts_of_a_batch(tmp_path):
    """With equal images in all parts and weights at rest, only masks can make the losses differ."""
    keras.utils.set_random_seed(3)
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    model = _network(norm=False, dropout=0.5)
    optimizer = MomentumSGD(0.0, 0.0)
    optimizer.build(model.trainable_variables)
    same = next(iter(_batches()))
    half = {k: tf.concat([v[:6], v[:6]], 0) for k, v in same.items()}

    def loss(parts: int, batch: dict) -> float:
        train = make_train_function(
            model, optimizer, strategy, batch_size=12, seed=1, steps_per_call=1,
            accumulation_steps=parts,
        )  # fmt: skip
        return train(iter(tf.data.Dataset.from_tensors(batch).repeat()), [0.0], 1, 0).sums[0][0]

    first = loss(1, {k: v[:6] for k, v in same.items()})  # the mask of part 0, by itself
    assert loss(2, half) != pytest.approx(2 * first, rel=1e-3)


def test_a_loss_scale_changes_nothing_but_steps_that_overflow(tmp_path):
    plain = Run(_folder(tmp_path, "plain")).train(12)
    scaled = Run(_folder(tmp_path, "scaled"), loss_scale=2.0**15).train(12)
    _assert_equal(plain, scaled)  # powers of two round nothing
    # An infinite scale stands in for an overflow: the step is left out, the scale comes down.
    huge = Run(_folder(tmp_path, "huge"), loss_scale=float("inf"))
    before = huge.trainable()
    huge.train(1)
    for path, weights in huge.trainable().items():
        np.testing.assert_array_equal(weights, before[path])
    huge = Run(huge.folder, loss_scale=1.0)
    assert float(huge.loss_scale.factor.numpy()) == 2.0**24
    huge.train(12)
    assert (huge.trainable()["conv/kernel"] != before["conv/kernel"]).any()


def test_gradients_that_overflow_without_a_scale_end_the_run(tmp_path, monkeypatch):
    """A stand-in for them: all are told to be infinite from the first step on."""
    monkeypatch.setattr(
        "resnet_keras.training.step.all_finite", lambda gradients: tf.constant(False)
    )
    run = Run(_folder(tmp_path, "run"), loss_scale=4.0)
    with pytest.raises(loop.NonFiniteLoss, match="of step 3 is not finite"):
        run.train(12)


def test_a_loss_scale_is_kept_on_resume_and_grows_after_2000_good_steps(tmp_path):
    scale = LossScale(8.0)
    for _ in range(1999):
        scale.update(tf.constant(True))
    assert float(scale.factor.numpy()) == 8
    scale.update(tf.constant(True))
    assert float(scale.factor.numpy()) == 16
    run = Run(_folder(tmp_path, "a"), loss_scale=2.0**20).train(7)
    run.loss_scale.factor.assign(2.0**10)
    run.checkpoints.save(8)
    assert float(Run(run.folder, loss_scale=2.0**20).loss_scale.factor.numpy()) == 2.0**10


def test_a_warm_up_ends_in_the_middle_of_a_run_and_is_kept_on_resume(tmp_path):
    schedule = warmup_until_learning(piecewise(0.05, ()), 0.001)
    run = Run(_folder(tmp_path, "a")).train(120, schedule=schedule, warm_below=2.0)
    assert {run.rates[step] for step in range(50)} == {0.001}
    assert {run.rates[step] for step in range(50, 120)} == {0.05}
    resumed = Run(run.folder).train(130, schedule=schedule, warm_below=0.0)
    assert resumed.rates[125] == 0.05


def test_weights_that_are_no_numbers_never_reach_a_checkpoint(tmp_path):
    """The loss of a step is that of the weights before it, so it comes one step late."""
    run = Run(_folder(tmp_path, "a")).train(7)
    broken = Run(run.folder)
    # The last step before the checkpoint at 14 makes the weights infinite; its loss is fine.
    rates = lambda step, state: 0.05 if step < 13 else float("inf")  # noqa: E731
    with pytest.raises(loop.NonFiniteLoss, match=r"update of step 14 .* checkpoint of step 7"):
        broken.train(30, schedule=rates, steps_per_call=1)
    _assert_equal(run, Run(run.folder))
