"""The experiments: which configurations, tested how, answer which published rows.

Standard library only. ``--mode=reproduce`` makes commands of the rows, ``--mode=report`` the
lines of its tables. A run lies in a folder with its configuration's name: ``cifar_r20`` is trained
by ``configs/cifar_r20.flags``, and ``cifar_r20_seed1`` by the same with ``--seed=1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """Describe one row of an experiment.

    name: the row's in the published table, where there is one.
    runs: names of runs; several are an ensemble.
    views: of --mode=evaluate; several are averaged.
    seeds: with which the only run is made and tested; () for its configuration's own.
    """

    name: str
    runs: tuple[str, ...]
    views: tuple[str, ...] = ("center",)
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Describe one table or figure.

    title: what it is, for people.
    table: key of ``paper.TABLES``; None where the paper has curves only.
    rows: what is measured.
    figures: drawn of the rows' runs: "curves" (Fig. 4 and 6), "responses" (Fig. 7).
    timed: whether how long a run took is a result, too.
    """

    title: str
    table: str | None
    rows: tuple[Row, ...]
    figures: tuple[str, ...] = ()
    timed: bool = False


def configuration(run: str) -> tuple[str, int | None]:
    """Return the name of a run's configuration, and the seed where the run's name gives one."""
    name, _, seed = run.rpartition("_seed")
    return (name, int(seed)) if name and seed.isdecimal() else (run, None)


def answering_together(row: Row) -> list[tuple[str, ...]]:
    """Return the runs of each answer of a row: an ensemble's all at once, seeds one by one."""
    if not row.seeds:
        return [row.runs]
    (run,) = row.runs
    return [(f"{run}_seed{seed}" if seed else run,) for seed in row.seeds]  # 0: the flag's default


def result_name(experiment: str, row: Row) -> str:
    """Return the name of the folder with the result of an ensemble, beside those of the runs."""
    return f"{experiment}_{re.sub('[^a-z0-9]+', '_', row.name.lower()).strip('_')}"


def _rows(views: str, runs: dict[str, str]) -> tuple[Row, ...]:
    return tuple(Row(name, (run,), (views,)) for name, run in runs.items())


_TABLE2 = {"plain-18": "plain18", "ResNet-18": "r18", "plain-34": "plain34", "ResNet-34": "r34_a"}
_BIG = {
    "ResNet-34 B": "r34",
    "ResNet-34 C": "r34_c",
    "ResNet-50": "r50",
    "ResNet-101": "r101",
    "ResNet-152": "r152",
}
_PLAIN = {f"plain-{depth}": f"cifar_plain{depth}" for depth in (20, 32, 44, 56, 110)}
_RESNET = {f"ResNet-{depth}": f"cifar_r{depth}" for depth in (20, 32, 44, 56, 110)}
_FIG7 = ("plain-20", "plain-56", "ResNet-20", "ResNet-56", "ResNet-110")
_FIG6_SHORT = {
    "plain-20": "fig6_plain20",
    "plain-56": "fig6_plain56",
    "ResNet-20": "fig6_r20",
    "ResNet-56": "fig6_r56",
}
# VGG paper, Sec. 4: how a network's runs are named by the training scale S, and the test scales Q.
_SCALES = {
    "256": ("", "256", "224,256,288"),
    "384": ("_384", "384", "352,384,416"),
    "[256;512]": ("_jitter", "384", "256,384,512"),
}


def _vgg(networks: dict[str, str], *, several: bool) -> tuple[Row, ...]:
    """Return the rows of Table 3, tested at one scale, or of Table 4, at three."""
    return tuple(
        Row(
            f"{name}, S={scale}, Q={three if several else one}",
            (run + suffix,),
            ("multi_scale" if several else "dense",),
        )
        for name, run in networks.items()
        for scale, (suffix, one, three) in _SCALES.items()
        if name in "CDE" or not suffix
    )


def _vgg_views(nets: dict[str, tuple[str, ...]]) -> tuple[Row, ...]:
    """Return the rows that compare dense testing with multi-crop, both at three scales."""
    tests = {
        "dense": ("multi_scale",),
        "multi-crop": ("multi_crop",),
        "multi-crop and dense": ("multi_crop", "multi_scale"),
    }
    return tuple(
        Row(f"{name}, {test}", runs, views)
        for name, runs in nets.items()
        for test, views in tests.items()
    )


_VGG_NETS = {
    "A": "vgg_a", "A-LRN": "vgg_a_lrn", "B": "vgg_b", "C": "vgg_c", "D": "vgg_d", "E": "vgg_e",
}  # fmt: skip

EXPERIMENTS: dict[str, Experiment] = {
    "table2": Experiment(
        "ResNet paper, Table 2: plain and residual nets of 18 and 34 layers",
        "resnet_table2",
        _rows("ten_crop", _TABLE2),
    ),
    "table3": Experiment(
        "ResNet paper, Table 3: shortcuts A, B, C and deeper nets",
        "resnet_table3",
        _rows("ten_crop", {"plain-34": "plain34", "ResNet-34 A": "r34_a", **_BIG}),
    ),
    "table4": Experiment(
        "ResNet paper, Table 4: single models, fully convolutional at five scales",
        "resnet_table4",
        _rows("multi_scale", _BIG),
    ),
    "table5": Experiment(
        # Which six is not published, but that two of them have 152 layers.
        "ResNet paper, Table 5: six models together, on the validation images",
        "resnet_table5",
        (
            Row(
                "ResNet, six models",
                ("r34", "r34_c", "r50", "r101", "r152", "r152_seed1"),
                ("multi_scale",),
            ),
        ),
    ),
    "table6": Experiment(
        "ResNet paper, Table 6: CIFAR-10",
        "resnet_table6",
        _rows("center", {**_RESNET, "ResNet-1202": "cifar_r1202"}),
    ),
    "cifar_r20_fast": Experiment(
        "ResNet paper, Table 6: ResNet-20 in half an hour on two CPU cores",
        "resnet_table6",
        (Row("ResNet-20", ("cifar_r20_fast",), seeds=(0, 1, 2)),),
        ("curves",),
        timed=True,
    ),
    "warmup": Experiment(
        "ResNet paper, Sec. 4.2: how long ResNet-110 warms up",
        "resnet_warmup",
        _rows("center", {"ResNet-110": "cifar_r110_warmup"}),
        ("curves",),
    ),
    "fig1_fig6": Experiment(
        "ResNet paper, Fig. 1 and 6: CIFAR-10, plain against residual nets",
        None,
        _rows("center", {**_PLAIN, **_RESNET}),
        ("curves",),
    ),
    "fig6_short": Experiment(
        "ResNet paper, Fig. 6, in a tenth of its iterations",
        None,
        _rows("center", _FIG6_SHORT),
        ("curves",),
    ),
    "fig4": Experiment(
        "ResNet paper, Fig. 4: ImageNet, plain against residual nets",
        None,
        _rows("center", _TABLE2),
        ("curves",),
    ),
    "fig7": Experiment(
        "ResNet paper, Fig. 7: layer responses",
        None,
        _rows("center", {name: {**_PLAIN, **_RESNET}[name] for name in _FIG7}),
        ("responses",),
    ),
    "fig7_short": Experiment(
        "ResNet paper, Fig. 7: layer responses, after a tenth of the iterations",
        None,
        _rows("center", _FIG6_SHORT),
        ("responses",),
    ),
    "vgg_table3": Experiment(
        "VGG paper, Table 3: one test scale", "vgg_table3", _vgg(_VGG_NETS, several=False)
    ),
    "vgg_table4": Experiment(
        "VGG paper, Table 4: three test scales",
        "vgg_table4",
        _vgg({name: _VGG_NETS[name] for name in "BCDE"}, several=True),
    ),
    "vgg_table5": Experiment(
        "VGG paper, Table 5: dense and multi-crop testing",
        "vgg_table5",
        _vgg_views({"D": ("vgg_d_jitter",), "E": ("vgg_e_jitter",)}),
    ),
    "vgg_table6": Experiment(
        "VGG paper, Table 6: ensembles",
        "vgg_table6",
        (
            Row(
                "ILSVRC submission, seven nets",
                (
                    *("vgg_d", "vgg_d_384", "vgg_d_jitter", "vgg_c", "vgg_c_384"),
                    *("vgg_e", "vgg_e_384"),
                ),
                ("multi_scale",),
            ),
            *_vgg_views({"D and E": ("vgg_d_jitter", "vgg_e_jitter")}),
        ),
    ),
    "vgg_5x5": Experiment(
        "VGG paper, Sec. 2.3 and 4.1: net B, and with a 5x5 in place of each pair of 3x3",
        None,
        _rows("center", {"B": "vgg_b", "B with 5x5": "vgg_b_5x5"}),
        ("curves",),
    ),
    "lab_vgg16": Experiment(
        "Lab report: VGG-16 on three classes of CIFAR-10",
        "lab",
        _rows("center", {"VGG-16": "lab_vgg16"}),
        ("curves",),
    ),
    "lab_resnet50": Experiment(
        "Lab report: ResNet-50 on three classes of CIFAR-10",
        "lab",
        _rows("center", {"ResNet-50": "lab_r50"}),
        ("curves",),
    ),
    "constructed_solution": Experiment(
        "ResNet paper, Sec. 1: deeper nets built from shallower ones by identity layers",
        None,
        _rows(
            "center",
            {
                f"{kind}-{depth}, {what}": f"constructed_{short}{depth}{suffix}"
                for kind, short in (("plain", "plain"), ("ResNet", "r"))
                for depth, what, suffix in (
                    (20, "from scratch", ""),
                    (20, "trained on", "_on"),
                    (56, "constructed from it", ""),
                )
            },
        ),
        ("curves",),
    ),
}

# What a run starts from (--init_from), by the names of configurations. VGG paper, Sec. 3.1: A's
# layers in the deeper nets, and S = 256 before 384 before the jittered scale.
STARTS_FROM: dict[str, str] = {
    **{f"vgg_{net}": "vgg_a" for net in "bcde"},
    **{f"vgg_{net}_384": f"vgg_{net}" for net in "cde"},
    **{f"vgg_{net}_jitter": f"vgg_{net}_384" for net in "cde"},
    **{f"constructed_{run}": f"constructed_{run[:-2]}20" for run in ("plain56", "r56")},
    **{f"constructed_{run}_on": f"constructed_{run}" for run in ("plain20", "r20")},
}

# Configurations of ours, each with the paper's that it changes: what it changes are deviations.
DEVIATES_FROM: dict[str, str] = {
    "cifar_r20_fast": "cifar_r20",
    "cifar_r110_warmup": "cifar_r110",
    **{f"fig6_{net}": f"cifar_{net}" for net in ("plain20", "plain56", "r20", "r56")},
}


def needed_runs(rows: Iterable[Row]) -> list[str]:
    """Return the runs of some rows and those that they start from, in an order to train them in."""
    found: list[str] = []

    def add(run: str) -> None:
        first = STARTS_FROM.get(configuration(run)[0])
        if first:
            add(first)
        if run not in found:
            found.append(run)

    for row in rows:
        for runs in answering_together(row):
            for run in runs:
                add(run)
    return found
