"""Measured beside published: what is compared, what is said of it, and what is not."""

import dataclasses
from pathlib import Path

import pytest
from report_fixtures import DATA, FLAGS, evaluated, train

from resnet_keras.errors import InputError
from resnet_keras.reporting import estimates, results
from resnet_keras.reporting.experiments import Row
from resnet_keras.reporting.results import figure
from resnet_keras.reporting.run_files import Evaluation, Responses, Run
from resnet_keras.reporting.standing import Plan, judge

PLAN = Plan(
    flags=FLAGS | {"precision": "float32", "classes": [], "evaluate_every": 1_000},
    free=frozenset({"evaluate_every", "train_steps"}),
    classes=2,
    training_images=50_000,
    test_images=10_000,
    scales={"center": [32], "ten_crop": [32], "multi_scale": [224, 256]},
    multiply_adds=1e15,
    gpus="a GPU",
    gpu_hours=1.5,
)
PLANS = {"cifar_r20": PLAN, "r152": PLAN}
START = {"kind": "start", "step": 0, "init_from": "vgg_a", "init_step": 64_000}
FULL = [train(64_000, 0.01), evaluated(64_000, 891)]


def _run(name="cifar_r20", records=FULL, data=None, evaluations=None, **flags):
    return Run(
        Path("runs", name), dict(PLAN.flags) | flags, DATA | (data or {}), [], records,
        evaluations or {},
    )  # fmt: skip


def _line(*runs, experiment="table6", row="ResNet-20", plans=PLANS, ensembles=None):
    found = results.lines(experiment, runs, ensembles or {}, plans)
    (line,) = [line for line in found if line.row.name == row]
    return line


def test_a_full_run_is_measured_beside_table_6():
    line = _line(_run())
    assert (figure(line.values, line.quantity), line.published) == ("8.91", "8.75")
    assert line.difference == pytest.approx(8.91 - 8.75)
    assert str(line.standing) == "measured"


def test_deviations_are_named_and_free_flags_are_none():
    line = _line(_run(precision="bfloat16", evaluate_every=77, run_dir="elsewhere"))
    assert str(line.standing) == "measured; deviations: --precision=bfloat16 (float32)"
    assert line.difference is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": "digits", "data": {"training_images": 1_437}},
         "smoke only: on --dataset=digits (cifar10)"),
        ({"classes": ["cat"], "data": {"training_images": 5_000}},
         "smoke only: on --classes=cat (none)"),
        ({"train_steps": 500, "records": [train(500), evaluated(500, 5_000)]},
         "smoke only: 500 of 64,000 steps"),
        ({"train_steps": 500, "records": [train(500)]},
         "smoke only: 500 of 64,000 steps, no --views=center"),
        ({"data": {"training_images": 2_000}}, "smoke only: 2,000 of 50,000 training images"),
        ({"records": [train(64_000), evaluated(64_000, 30, images=300)]},
         "smoke only: 300 of 10,000 test images"),
        ({"records": [train(3_000)]}, "unfinished: at step 3,000 of 64,000"),
        ({"records": []}, "unfinished: no step yet of 64,000"),
        ({"records": [train(64_000)]}, "unfinished: no --views=center"),
    ],
)  # fmt: skip
def test_what_is_no_measurement_says_why_and_has_no_difference(change, told):
    line = _line(_run(**change))
    assert str(line.standing) == told
    assert line.difference is None


def test_held_out_images_are_a_deviation_and_no_missing_ones():
    line = _line(
        _run(
            records=[train(64_000), evaluated(64_000, 450, images=5_000) | {"kind": "validation"}],
            data={"training_images": 45_000}, validation_images=5_000,
        ),
        plans={"cifar_r20": dataclasses.replace(PLAN, flags=PLAN.flags | {"validation_images": 0})},
    )  # fmt: skip
    assert str(line.standing) == "measured; deviations: --validation_images=5000 (0)"
    assert line.values == pytest.approx((9.0,))
    assert line.difference is None, "the published number is of test images"


def test_rows_without_a_run_say_what_they_cost():
    line = _line()
    assert (line.values, line.difference, line.published) == ((), None, "8.75")
    assert line.status == "not run: 1.0e+15 multiply-adds, 1.5 h on a GPU"
    assert _line(plans={}).status == "not run"
    smoke = _line(_run(train_steps=500, records=[train(500), evaluated(500, 5_000)]))
    assert smoke.status == (
        "smoke only: 500 of 64,000 steps; a whole run: 1.0e+15 multiply-adds, 1.5 h on a GPU"
    )
    assert _line(_run()).status == "measured"


def test_a_row_costs_what_it_starts_from_too():
    """VGG-D at S = 384 starts from D, and that from A: 1 + 2 + 4."""
    costs = {"vgg_a": 1.0, "vgg_d": 2.0, "vgg_d_384": 4.0}
    plans = {
        name: dataclasses.replace(PLAN, multiply_adds=cost, gpu_hours=3 * cost)
        for name, cost in costs.items()
    }
    rows = [x.row for x in results.lines("vgg_table3", [], {}, plans) if "D, S=384" in x.row.name]
    assert estimates.multiply_adds(rows, plans) == 7.0
    assert estimates.gpu_hours(rows, plans) == "21 h on a GPU"
    assert estimates.multiply_adds(rows, {"vgg_d_384": PLAN}) is None
    assert estimates.gpu_hours(rows, {"vgg_d_384": PLAN}) == ""


def test_what_is_not_run_costs_hours_at_the_speed_of_what_was():
    """64,000 steps of 128 at 1,000 images/s take 8,192 s; a row of three times that, 6.8 hours."""
    plans = PLANS | {"cifar_r56": dataclasses.replace(PLAN, multiply_adds=3e15, gpu_hours=4.5)}

    def ran(speed=1_000.0, cpu="a CPU", name="cifar_r20", steps=64_000, **flags):
        records = [train(steps, images_per_second=speed), evaluated(steps, 891)]
        since = {"another": "2026-01-01", "a CPU": "2026-01-02"}[cpu]
        return dataclasses.replace(
            _run(name, records=records, **flags), environments=[{"cpu": cpu, "since": since}]
        )

    def told(*runs, plans=plans):
        return _line(*runs, row="ResNet-56", plans=plans).status

    known = "not run: 3.0e+15 multiply-adds, 6.8 h on a CPU, 1 device, 4.5 h on a GPU"
    assert told(ran()) == known
    # The median of the machine that was used last.
    slow, fast = ran(1.0, name="cifar_r20_seed1", seed=1), ran(1e9, name="cifar_r20_seed2", seed=2)
    before = [ran(5.0, "another", f"cifar_r20_seed{seed}", seed=seed) for seed in range(3, 8)]
    assert told(*before, ran(), slow, fast) == known
    unknown = "not run: 3.0e+15 multiply-adds, 4.5 h on a GPU"
    assert told(ran(steps=100)) == unknown
    for flags in (
        {"recompute": True}, {"small_image_steps": 9}, {"model": "cifar_resnet110"},
        {"image_size": 128}, {"precision": "bfloat16"}, {"accumulation_steps": 4},
        {"optimizer": "muon"},
    ):  # fmt: skip
        assert told(ran(**flags)) == unknown
    vgg = dataclasses.replace(PLAN, flags=PLAN.flags | {"model": "lab_vgg16"})
    lab = ran(name="lab_vgg16", model="lab_vgg16")
    assert told(lab, plans=plans | {"lab_vgg16": vgg}) == unknown, "of another family"
    half = dataclasses.replace(PLAN, flags=PLAN.flags | {"precision": "bfloat16"})
    fast = ran(name="cifar_r32", precision="bfloat16")
    assert told(fast, plans=plans | {"cifar_r32": half}) == unknown, "in another precision"


def test_hours_are_at_the_speed_of_the_same_network_where_it_was_run():
    """Per multiply-add, ResNet-20 is twice as fast here as ResNet-56; alone, each its own."""
    plans = PLANS | {
        f"cifar_r{depth}": dataclasses.replace(
            PLAN, flags=PLAN.flags | {"model": f"cifar_resnet{depth}"}, multiply_adds=cost
        )
        for depth, cost in ((20, 1e15), (56, 3e15), (44, 2e15))
    }

    def ran(name, speed):
        flags = plans[name].flags
        records = [train(64_000, images_per_second=speed), evaluated(64_000, 891)]
        return Run(Path("runs", name), dict(flags), DATA, [{"cpu": "a CPU"}], records)

    runs = [ran("cifar_r20", 8_192_000 / 3_600), ran("cifar_r56", 8_192_000 / 6 / 3_600)]

    def told(*names):
        rows = [Row(name, (name,)) for name in names]
        return estimates.hours_here(rows, runs, plans)

    assert told("cifar_r20") == "1 h on a CPU, 1 device"
    assert told("cifar_r56") == "6 h on a CPU, 1 device"
    assert told("cifar_r20", "cifar_r56") == "7 h on a CPU, 1 device"
    # Of neither, it is the median: 0.75e15 an hour.
    assert told("cifar_r44") == "2.7 h on a CPU, 1 device"

    halves = PLAN.flags | {"model": "cifar_resnet20", "precision": "bfloat16"}
    plans["fast"] = dataclasses.replace(PLAN, flags=halves, multiply_adds=1e15)
    assert told("cifar_r20", "fast") == "", "nothing is known in bfloat16"
    runs.append(ran("fast", 2 * 8_192_000 / 3_600))
    assert told("cifar_r20", "fast") == "1.5 h on a CPU, 1 device"


def test_a_row_that_was_run_whole_costs_nothing_more():
    runs = [_run(), _run("cifar_r20_seed1", [train(500)], seed=1, train_steps=500)]
    found = [x for x in results.lines("table6", runs, {}, PLANS) if x.row.name == "ResNet-20"]
    assert next(line.status for line in found) == "measured"
    assert all("a whole run" not in line.status for line in found)


def test_seeds_are_one_line_with_mean_and_sample_deviation():
    """8.5, 9.0 and 9.5: mean 9, deviation 0.5 by n - 1."""
    runs = [
        _run(name, [train(64_000), evaluated(64_000, wrong)], seed=seed)
        for name, wrong, seed in (
            ("cifar_r20", 850, 0), ("cifar_r20_seed1", 950, 1), ("cifar_r20_seed2", 900, 2),
        )
    ]  # fmt: skip
    line = _line(*runs)
    assert figure(line.values, line.quantity) == "9.00 ± 0.50 (8.50, 9.50, 9.00)"
    assert line.difference == pytest.approx(0.25)
    assert str(line.standing) == "measured"


def test_several_seeds_of_a_recipe_of_ours_stand_beside_the_papers_number():
    """With all that the recipe changes of the paper's: 9.0, 9.25, 9.5 beside 8.75; all or none."""
    recipe = {"lr_schedule": "cosine", "lr_drops": [], "train_steps": 10_000}
    plans = {
        "cifar_r20": PLAN,
        "cifar_r20_fast": dataclasses.replace(PLAN, flags=PLAN.flags | recipe),
    }
    runs = [
        Run(
            Path("runs", f"cifar_r20_fast{suffix}"),
            dict(plans["cifar_r20_fast"].flags) | {"seed": seed}, DATA, [],
            [train(10_000, images_per_second=1.0, elapsed=1_700.0),
             evaluated(10_000, wrong, elapsed=seconds)],
        )
        for seed, suffix, wrong, seconds in (
            (0, "", 900, 1_740.0), (1, "_seed1", 925, 1_758.0), (2, "_seed2", 950, 1_776.0),
        )
    ]  # fmt: skip
    line, time = results.lines("cifar_r20_fast", runs, {}, plans)
    assert (time.quantity, time.published, time.difference) == ("time (minutes)", "", None)
    assert figure(time.values, time.quantity) == "29.3 ± 0.3 (29.0, 29.3, 29.6)"
    assert figure(line.values, line.quantity) == "9.25 ± 0.25 (9.00, 9.25, 9.50)"
    assert (line.published, line.difference) == ("8.75", pytest.approx(0.5))
    told = "measured; deviations: --train_steps=10000 (64000), --lr_schedule=cosine (piecewise), "
    assert str(line.standing) == told + "--lr_drops= (32000,48000)"
    (line,) = [x for x in results.lines("table6", runs, {}, plans) if x.row.name == "ResNet-20"]
    assert line.values == (), "that row is the paper's own recipe"
    for chosen, missing in ((runs[:2], "seed 2 of 3"), (runs[2:], "seeds 0, 1 of 3")):
        line, _ = results.lines("cifar_r20_fast", chosen, {}, plans)
        assert str(line.standing).startswith(f"unfinished: {missing} missing; deviations: ")
        assert line.difference is None


@pytest.mark.parametrize(
    ("images", "names", "told"),
    [
        (50_000, ["cat", "dog"], "measured; deviations: on --dataset=tfrecord (cifar10)"),
        (49_999, ["cat", "dog"], "smoke only: on --dataset=tfrecord (cifar10)"),
        (50_000, ["cat"], "smoke only: on --dataset=tfrecord (cifar10)"),
    ],
)  # fmt: skip
def test_the_same_images_in_other_files_are_a_deviation(images, names, told):
    data = {"training_images": images, "class_names": names}
    line = _line(_run(dataset="tfrecord", data=data))
    assert str(line.standing) == told
    assert (line.difference is None) == told.startswith("smoke")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (9_980, "measured; deviations: 9,980 of 10,000 test images"),
        (9_979, "smoke only: 9,979 of 10,000 test images"),
    ],
)
def test_a_few_unreadable_test_images_are_a_deviation(images, told):
    """As many as --max_bad_fraction bears, here 0.2 %."""
    records = [train(64_000), evaluated(64_000, 900, images=images)]
    assert str(_line(_run(records=records, max_bad_fraction=0.002)).standing) == told


def test_a_changed_checkout_is_a_deviation():
    runs = [
        dataclasses.replace(_run(), environments=[{"dirty": first}, {"dirty": second}])
        for first, second in ((False, False), (True, False))
    ]
    assert [str(_line(run).standing) for run in runs] == [
        "measured", "measured; deviations: made from a changed checkout",
    ]  # fmt: skip
    changed = "measured; deviations: tested from a changed checkout"
    for dirty, told in ((False, "measured"), (True, changed)):
        found = _evaluation("multi_scale", 64_000)
        found.metrics["environment"] = {"dirty": dirty}
        run = _run("r152", evaluations={"test_multi_scale": found})
        line = next(x for x in results.lines("table4", [run], {}, PLANS) if x.values)
        assert str(line.standing) == told


@pytest.mark.parametrize(
    ("records", "value", "told"),
    [
        ([{"kind": "warm", "step": 350}, *FULL], (350,), "measured"),
        (FULL, (), "unfinished: not within 64,000 steps"),
    ],
)
def test_the_end_of_the_warmup_stands_beside_the_papers(records, value, told):
    """Sec. 4.2: "about 400 iterations"."""
    run = _run("cifar_r110_warmup", records)
    line = _line(run, experiment="warmup", row="ResNet-110", plans={"cifar_r110_warmup": PLAN})
    assert (line.values, line.published, str(line.standing)) == (value, "400", told)
    if value:
        assert (figure(line.values, line.quantity), results.difference(line)) == ("350", "-50")


def test_runs_of_another_standing_have_a_line_of_their_own():
    runs = [_run(), _run("cifar_r20_seed1", seed=1, precision="bfloat16")]
    found = [line for line in results.lines("table6", runs, {}, PLANS) if line.values]
    assert [len(line.values) for line in found] == [1, 1]
    assert len({str(line.standing) for line in found}) == 2


def test_one_seed_does_not_count_twice():
    with pytest.raises(InputError, match="have one seed, 0, and would count as two"):
        _line(_run(), _run("cifar_r20_seed0"))


def test_our_mean_is_compared_with_the_papers_mean_not_its_best_run():
    run = _run("cifar_r110", [train(64_000), evaluated(64_000, 670)])
    line = _line(run, row="ResNet-110", plans={"cifar_r110": PLAN})
    assert line.published == "6.61 ± 0.16 (best of five: 6.43)"
    assert line.difference == pytest.approx(6.70 - 6.61)


def test_published_values_are_told_as_they_are_printed():
    row = next(line.row for line in results.lines("table3", [], {}, {}) if "34 C" in line.row.name)
    assert results.published("table3", row, "top-5 error (%)") == (7.4, "7.40")


def test_accuracies_are_told_as_the_lab_report_tells_them():
    run = _run("lab_vgg16", [train(64_000, 0.0123), evaluated(64_000, 210, images=3_000)])
    plan = dataclasses.replace(PLAN, test_images=3_000)
    test, training = results.lines("lab_vgg16", [run], {}, {"lab_vgg16": plan})
    assert (test.quantity, test.published) == ("test accuracy (%)", "93")
    assert test.values == pytest.approx((93.0,))
    assert (training.quantity, training.published) == ("training accuracy (%)", "99.54")
    assert training.values == pytest.approx((98.77,))


def _evaluation(view, step, members=("runs/r152",), **more):
    member = {"step": step, "checkpoint": "latest", "scales": {view: [224, 256]}, **more}
    metrics = {
        "views": view, "members": [member | {"place": place} for place in members],
        "images": 10_000, "wrong": 2_200, "top1_error": 0.22, "wrong_top5": 500,
        "top5_error": 0.05,
    }  # fmt: skip
    return Evaluation(Path("runs/table5_resnet_six_models/metrics.json"), metrics)


def test_a_row_takes_the_evaluation_of_its_view():
    """Table 4: 19.38 / 4.49 under multi_scale; the log's centre crop is another measurement."""
    found = {"test_multi_scale": _evaluation("multi_scale", 64_000)}
    run = _run("r152", evaluations=found)
    top1, top5 = [x for x in results.lines("table4", [run], {}, PLANS) if x.values]
    assert (top1.values, top5.values) == (pytest.approx((22.0,)), pytest.approx((5.0,)))
    assert (top1.difference, top5.difference) == pytest.approx((22 - 19.38, 5 - 4.49))
    table3 = [x for x in results.lines("table3", [run], {}, PLANS) if x.row.name == "ResNet-152"]
    assert str(table3[0].standing) == "unfinished: no --views=ten_crop"
    assert table3[0].values == ()


def test_a_run_that_went_on_is_worth_its_last_test():
    """12.5 % at half the steps, 8.91 % at the end; with the evaluation of the end, that."""
    for step, expected in ((32_000, 8.91), (64_000, 12.5)):
        metrics = {"views": "center", "images": 10_000, "wrong": 1_250, "top1_error": 0.125,
                   "members": [{"place": "runs/cifar_r20", "step": step}]}  # fmt: skip
        line = _line(_run(evaluations={"test_center": Evaluation(Path("m"), metrics)}))
        assert line.values == pytest.approx((expected,))
        assert str(line.standing) == "measured"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"checkpoint": "best"}, "measured; deviations: tested with --checkpoint=best (latest)"),
        (
            {"scales": {"multi_scale": [64]}},
            "measured; deviations: tested with --scales=64 (224,256)",
        ),
        ({"step": 100}, "unfinished: evaluated at step 100"),
    ],
)
def test_an_evaluation_made_otherwise_says_so(change, told):
    found = {"test_multi_scale": _evaluation("multi_scale", **({"step": 64_000} | change))}
    run = _run("r152", evaluations=found)
    line = next(x for x in results.lines("table4", [run], {}, PLANS) if x.values)
    assert str(line.standing) == told


@pytest.mark.parametrize(("split", "other"), [("validation", "test"), ("test", "validation")])
def test_a_test_on_other_images_than_the_runs_own_says_so(split, other):
    held_out = 5_000 if other == "validation" else 0
    plan = dataclasses.replace(PLAN, flags=PLAN.flags | {"validation_images": held_out})
    found = _evaluation("multi_scale", 64_000)
    found.metrics["split"] = split
    run = _run("r152", evaluations={f"{split}_multi_scale": found}, validation_images=held_out)
    line = next(x for x in results.lines("table4", [run], {}, {"r152": plan}) if x.values)
    assert str(line.standing) == f"measured; deviations: on {split} images ({other})"


def test_an_ensemble_is_worth_what_its_worst_member_is():
    names = ("r34", "r34_c", "r50", "r101", "r152", "r152_seed1")
    result = _evaluation("multi_scale", 64_000, [f"runs/{name}" for name in names])
    plans = dict.fromkeys(("r34", "r34_c", "r50", "r101", "r152"), PLAN)
    runs = [_run(name, seed=int(name == "r152_seed1")) for name in names]
    (line,) = results.lines("table5", runs, {"table5_resnet_six_models": result}, plans)
    # Published of the test set, which only ImageNet's server knows; ours is the validation images.
    assert (line.published, str(line.standing)) == ("3.57 (test set)", "measured")
    assert (line.values, line.difference) == (pytest.approx((5.0,)), None)
    runs[2] = _run("r50", train_steps=500, records=[train(500)])
    (line,) = results.lines("table5", runs, {"table5_resnet_six_models": result}, plans)
    assert str(line.standing) == "smoke only: r50 500 of 64,000 steps"
    twice = _evaluation("multi_scale", 64_000, [
        f"runs/{name}" for name in (*names, "r34")
    ])  # fmt: skip
    whole = [_run(name, seed=int(name == "r152_seed1")) for name in names]
    (line,) = results.lines("table5", whole, {"table5_resnet_six_models": twice}, plans)
    assert line.status.startswith("smoke only: multi_scale of r101, r152, r152_seed1, r34, r34, ")
    result.metrics["images"] = 500
    (line,) = results.lines("table5", whole, {"table5_resnet_six_models": result}, plans)
    assert line.status.startswith("smoke only: r101 500 of 10,000 test images")
    (line,) = results.lines("table5", runs[1:], {"table5_resnet_six_models": result}, plans)
    assert "r34 is not among the runs" in line.status
    (line,) = results.lines("table5", [], {"table5_resnet_six_models": result}, plans)
    assert "r34 is not among the runs" in line.status
    assert line.difference is None


def test_a_run_without_a_configuration_is_not_called_measured():
    line = _line(_run(), plans={})
    assert str(line.standing) == "no configuration to compare with"
    assert line.difference is None


def test_a_net_that_starts_from_another_says_so_where_it_should_not():
    run = _run(records=[START, *FULL], init_from="runs/vgg_a")
    assert str(_line(run).standing) == "measured; deviations: --init_from=vgg_a (none)"


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([START, *FULL], "measured"),
        ([START | {"init_step": 1_500}, *FULL], "smoke only: from vgg_a at step 1,500 of 64,000"),
        ([START | {"init_step": 0}, *FULL], "smoke only: from vgg_a at step 0 of 64,000"),
        ([START | {"init_step": 65_000}, *FULL],
         "measured; deviations: from vgg_a at step 65,000 of 64,000"),
        ([START | {"init_from": "own"}, *FULL], "measured; deviations: --init_from=own (vgg_a)"),
        # Begun without, whatever it was told to start from when it went on.
        (FULL, "measured; deviations: --init_from= (vgg_a)"),
        ([], "unfinished: no step yet of 64,000"),
    ],
)  # fmt: skip
def test_a_run_is_worth_what_it_starts_from(records, told):
    run = _run("vgg_d", records, init_from="runs/vgg_a")
    assert str(judge(run, {"vgg_d": PLAN, "vgg_a": PLAN}, {})) == told


def test_a_deviation_of_the_start_is_told_of_what_starts_from_it():
    runs = {run.name: run for run in (
        _run("vgg_a", precision="bfloat16"),
        _run("vgg_d", [START, *FULL]),
        _run("vgg_d_384", [START | {"init_from": "vgg_d"}, *FULL]),
    )}  # fmt: skip
    standing = judge(runs["vgg_d_384"], dict.fromkeys(runs, PLAN), runs)
    assert standing.deviations == ("vgg_d vgg_a --precision=bfloat16 (float32)",)


@pytest.mark.parametrize(
    ("step", "told"), [(64_000, "measured"), (32_000, "unfinished: responses at step 32,000")]
)
def test_responses_are_of_the_last_step(step, told):
    run = dataclasses.replace(_run(), responses={"cifar_r20": Responses(step, (0.5, 0.75))})
    line = _line(run, experiment="fig7")
    assert line.values == (0.625,)
    assert str(line.standing) == told
    assert str(_line(run).standing) == "measured", "Table 6 asks for no responses"


def test_a_run_whose_responses_nobody_measured_is_not_in_fig_7():
    assert _line(_run(), experiment="fig7").standing.status == "not run"
