"""The report of runs, from what was read of them to the blocks of a document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from resnet_keras.reporting import figures, learning, results
from resnet_keras.reporting.document import (
    Block,
    Cell,
    Code,
    Details,
    Drawing,
    Heading,
    Inline,
    Link,
    Paragraph,
    Picture,
    Table,
)
from resnet_keras.reporting.experiments import EXPERIMENTS, configuration
from resnet_keras.reporting.paper import TABLES
from resnet_keras.reporting.results import NOT_RUN, Line, Plan, Standing
from resnet_keras.reporting.run_files import (
    GRID,
    LOG,
    TESTED,
    Evaluation,
    Run,
    fingerprint,
    responses_of,
)

HASH = 12  # digits of a fingerprint that are shown
COMMIT = 10  # of a commit
# Test errors (%) whose first step is told of the runs of a figure.
REACHED = {"fig4": (60, 50, 40, 35, 30), "fig1_fig6": (50, 30, 20, 15, 10)}
HEADROOM = 3  # times the highest last error is where an axis of errors ends
LEGEND = (
    "Training thin, test bold, as in Fig. 4 and 6 of the ResNet paper; plain nets left, residual "
    "nets right. Training values are means between two lines of the log, of augmented images. "
    "Light vertical lines: the learning rate is divided by 10."
)
STATUSES = (
    "Status: measured, all steps of the configuration on its data, with deviations named; smoke "
    "only, the commands work, the number says nothing about the network; unfinished, training or "
    "evaluation is still to be made; not run, with its cost in multiply-adds (three times the "
    "forward pass of every image). Differences are measured minus published, in the same unit. "
    "Several seeds are told as mean ± standard deviation (n - 1), and each; never the best."
)
# What the fields of a constructed net's first record mean, before any step.
START = {
    "relative_difference": "difference of the outputs, relative",
    "init_error": "error of the shallower net",
    "error": "error of the deeper net",
    "init_batch_error": "the shallower net's, by statistics of the batch",
    "batch_error": "the deeper net's, by statistics of the batch",
}


def blocks(
    runs: Sequence[Run],
    evaluations: Mapping[str, Evaluation],
    plans: Mapping[str, Plan],
    grids: Mapping[str, bytes],
) -> list[Block]:
    """Return the report without its title.

    Args:
        runs: each of another name; in the order in which they are shown.
        evaluations: of ensembles, by their folders' names.
        plans: by configuration.
        grids: PNG pictures, by run.
    """
    found: list[Block] = [Paragraph(STATUSES)]
    not_run = []
    for name in EXPERIMENTS:
        lines = results.lines(name, runs, evaluations, plans)
        if any(line.standing.status != NOT_RUN for line in lines):
            found += _experiment(name, lines, runs)
        else:
            not_run.append(name)
    answered = {run.name for name in EXPERIMENTS for _, run in results.runs_of(name, runs)}
    others = [run for run in runs if run.name not in answered]
    if others:
        found += [Heading(2, "Other runs", "others"), _others(others, plans)]
    measured = responses_of(runs)
    if measured:
        found += [
            Heading(2, "Layer responses, as in Fig. 7 of the ResNet paper", "responses"),
            Drawing(
                "responses",
                [
                    figures.svg(
                        figures.responses(measured, ordered=ordered),
                        f"responses-{ordered:d}", "layer responses",
                    )
                    for ordered in (False, True)
                ],
                "Standard deviation of the output of each 3x3 layer, after batch norm and before "
                "nonlinearity or addition; plain nets dashed.",
            ),
        ]  # fmt: skip
    if not_run:
        found += [Heading(2, "Not run", "not-run"), not_run_table(not_run, plans)]
    found.append(Heading(2, "Runs", "runs"))
    for run in runs:
        found += _run(run, results.judge(run, plans.get(configuration(run.name)[0])), grids)
    return found


def not_run_table(names: Sequence[str], plans: Mapping[str, Plan]) -> Table:
    """Return a line an experiment: what it would measure, the published numbers, cost, command."""
    rows: list[list[Cell]] = []
    for name in names:
        experiment = EXPERIMENTS[name]
        quantities = results.quantities(name)
        told = []
        for row in experiment.rows:
            values = [results.published(name, row, quantity)[1] or "—" for quantity in quantities]
            told.append(f"{row.name}: {' / '.join(values)}" if experiment.table else row.name)
        unit = " / ".join(quantities if experiment.table else experiment.figures)
        cost = results.multiply_adds(experiment.rows, plans)
        rows.append(
            [
                experiment.title,
                f"{unit}: {'; '.join(told)}",
                "" if cost is None else f"{cost:.1e}",
                Code(f"--experiment={name}"),
            ]
        )
    header = ["experiment", "rows and published values", "multiply-adds", "with --mode=reproduce"]
    return Table(header, rows, frozenset({2}))


def _experiment(name: str, lines: Sequence[Line], runs: Sequence[Run]) -> list[Block]:
    experiment = EXPERIMENTS[name]
    source = TABLES[experiment.table].source if experiment.table else None
    command = Code(f"python -m resnet_keras.main --mode=reproduce --experiment={name}")
    used = results.runs_of(name, runs)
    found: list[Block] = [
        Heading(2, experiment.title, name),
        Paragraph((f"Source: {source}. " if source else "", "All of it: ", command)),
        _lines(lines),
    ]
    logged = [(row.name, run) for row, run in used if run.records]
    if "curves" in experiment.figures and logged:
        found.append(_curves(name, [(_titled(row, run), run) for row, run in logged]))
    if name in REACHED and logged:
        found += _reached(REACHED[name], logged)
    return found + _starts(used)


def _titled(row: str, run: Run) -> str:
    """Return a run's name in a figure: its row's, with the seed where it has one of its own."""
    seed = configuration(run.name)[1]
    return row if seed is None else f"{row}, seed {seed}"


def _lines(lines: Sequence[Line]) -> Table:
    rows: list[list[Cell]] = []
    before: Line | None = None
    for line in lines:
        # Another quantity of the same runs: what was said once is not said again.
        again = before is not None and (line.row, line.runs) == (before.row, before.runs)
        before = line
        rows.append(
            [
                "" if again else line.row.name,
                line.quantity,
                results.figure(line.values, line.quantity),
                line.published or "—",
                "—" if line.difference is None else f"{line.difference:+.2f}",
                str(len(line.values)) if line.values else "",
                *([""] * 5 if again else _rest(line)),
            ]
        )
    header = "row, quantity, measured, published, difference, n, status, runs, commit, hardware"
    return Table([*header.split(", "), "time"], rows, frozenset({2, 3, 4, 5}))


def _rest(line: Line) -> list[Cell]:
    """Return what a line says of its runs: status, names, commit, hardware, time."""
    environments = [run.environments[-1] for run in line.runs if run.environments]
    return [
        str(line.standing),
        _joined([Link(run.name, f"#run-{_slug(run.name)}") for run in line.runs]),
        ", ".join(dict.fromkeys(_commit(found) for found in environments)),
        ", ".join(dict.fromkeys(_hardware(run) for run in line.runs if run.environments)),
        ", ".join(_time(run) for run in line.runs),
    ]


def _joined(parts: Sequence[Inline]) -> Cell:
    return tuple(piece for part in parts for piece in (", ", part))[1:]


def _others(runs: Sequence[Run], plans: Mapping[str, Plan]) -> Table:
    rows: list[list[Cell]] = []
    for run in runs:
        standing = results.judge(run, plans.get(configuration(run.name)[0]))
        trained, (_, errors) = learning.training_error(run), _tests(run, "top1_error")
        rows.append(
            [
                Link(run.name, f"#run-{_slug(run.name)}"),
                "—" if trained is None else f"{100 * trained[0]:.2f}",
                f"{100 * errors[-1]:.2f}" if errors else "—",
                str(standing),
            ]
        )
    return Table(["run", results.TRAINING, results.TEST, "status"], rows, frozenset({1, 2}))


def _tests(run: Run, value: str) -> tuple[list[int], list[float]]:
    return learning.curve(run, value, *TESTED)


def _curves(name: str, runs: Sequence[tuple[str, Run]]) -> Drawing:
    """Draw error and loss: two columns where there are plain and residual nets, else one."""
    colours = {run.name: number for number, (_, run) in enumerate(runs)}
    plain = [pair for pair in runs if "plain" in pair[1].flags["model"]]
    residual = [pair for pair in runs if pair not in plain]
    sides = {"plain": plain, "residual": residual} if plain and residual else {"": runs}
    panels = []
    for value, test_value, label, factor in (
        ("error", "top1_error", "error (%)", 100),
        ("loss", "loss", "loss", 1),
    ):
        drawn = {
            side: [
                figures.Curve(
                    title, colours[run.name],
                    _scaled(learning.curve(run, value, "train"), factor),
                    _scaled(_tests(run, test_value), factor), learning.drops(run),
                )
                for title, run in members
            ]
            for side, members in sides.items()
        }  # fmt: skip
        every = [curve for side in drawn.values() for curve in side]
        limits = _error_limits(every) if factor > 1 else _loss_limits(every)
        for number, (side, members) in enumerate(drawn.items()):
            figure = figures.curves(members, title=side, label=label, limits=limits)
            panels.append(figures.svg(figure, f"{_slug(name)}-{value}-{number}", f"{name} {label}"))
    return Drawing(f"{_slug(name)}-curves", panels, LEGEND)


def _slug(name: str) -> str:
    """Return a name as an id and a file's name."""
    return "".join(letter if letter.isalnum() or letter in "_-." else "-" for letter in name)


def _scaled(found: tuple[list[int], list[float]], factor: int) -> tuple[list[int], list[float]]:
    steps, values = found
    return steps, [factor * value for value in values]


def _error_limits(curves: Sequence[figures.Curve]) -> tuple[float, float]:
    """Return the ends of an axis of errors (%) on which the end of training can be read."""
    values = [pair[1] for curve in curves for pair in (curve.training, curve.test) if pair[1]]
    return 0.0, max(5.0, min(100.0, HEADROOM * max((found[-1] for found in values), default=100)))


def _loss_limits(curves: Sequence[figures.Curve]) -> tuple[float, float]:
    """Return the ends of an axis of losses, which all of them fit; those of 0 do not."""
    values = [
        value
        for curve in curves
        for pair in (curve.training, curve.test)
        for value in pair[1]
        if math.isfinite(value) and value > 0
    ]
    return min(values, default=0.1) / 1.2, max(values, default=1.0) * 1.2


def _reached(errors: Sequence[int], runs: Sequence[tuple[str, Run]]) -> list[Block]:
    rows = []
    for row, run in runs:
        steps = [learning.reached(run, error / 100) for error in errors]
        rows.append([_titled(row, run), *("—" if step is None else f"{step:,}" for step in steps)])
    header = ["iterations to a test error of", *(f"{error} %" for error in errors)]
    note = "The first test at or below it; —: none was. Tests lie --evaluate_every steps apart."
    return [Table(header, rows, frozenset(range(1, len(header)))), Paragraph(note)]


def _starts(runs: Sequence[tuple[Any, Run]]) -> list[Block]:
    rows: list[list[Cell]] = []
    for row, run in runs:
        for record in run.of_kind("start"):
            shown = [record.get(name) for name in START]
            rows.append(
                [
                    f"{row.name} ({run.name})",
                    *(_start(name, value) for name, value in zip(START, shown, strict=True)),
                ]
            )
    if not rows:
        return []
    note = "Before the first step, beside the net that it was constructed from:"
    return [Paragraph(note), Table(["row", *START.values()], rows, frozenset(range(1, 6)))]


def _start(name: str, value: float | None) -> str:
    if value is None:
        return "—"
    return f"{value:.1e}" if name == "relative_difference" else f"{100 * value:.2f} %"


def _run(run: Run, standing: Standing, grids: Mapping[str, bytes]) -> list[Block]:
    found: list[Block] = [
        Heading(3, run.name, f"run-{_slug(run.name)}"),
        Paragraph(
            (
                f"{run.flags['model']} on {run.flags['dataset']}: {standing}. Log: ",
                Code((run.place / LOG).as_posix()),
                f", fingerprint {fingerprint(run.place)[:HASH]}.",
            )
        ),
    ]
    if run.records:
        found.append(_curves(f"run-{run.name}", [(run.name, run)]))
        found += _evaluations(run)
        found.append(_speed(run))
    else:
        found.append(Paragraph("The log has no step yet."))
    shown = [evaluation for evaluation in run.evaluations.values() if evaluation.classes]
    # The centre crop's, where there are several.
    shown.sort(key=lambda evaluation: evaluation.metrics.get("views") != "center")
    if shown:
        matrix = figures.confusion(np.array(shown[0].counts), shown[0].classes)
        drawn = figures.svg(matrix, f"confusion-{_slug(run.name)}", f"confusions of {run.name}")
        caption = f"Confusions: {shown[0].file.parent.name}, {shown[0].metrics['images']:,} images."
        found.append(Drawing(f"confusion-{_slug(run.name)}", [drawn], caption))
    if run.name in grids:
        found.append(
            Picture(f"grid-{_slug(run.name)}", grids[run.name], "Pictures with predicted classes.")
        )
    return [*found, _configuration(run), _environments(run)]


def _evaluations(run: Run) -> list[Block]:
    rows: list[list[Cell]] = [
        [f"log, {record['kind']}", *_errors(record, record["step"])]
        for record in run.of_kind(*TESTED)[-1:]
    ]
    for name, evaluation in run.evaluations.items():
        member = evaluation.metrics["members"][0]
        rows.append([name, *_errors(evaluation.metrics, member.get("step", 0))])
    header = ["evaluation", "step", "images", "wrong", "top-1 error", "95 % interval", "top-5"]
    return [Table(header, rows, frozenset(range(1, 7)))] if rows else []


def _errors(found: Mapping[str, Any], step: int) -> list[Cell]:
    interval = found.get("top1_interval")
    return [
        f"{step:,}",
        f"{found['images']:,}",
        f"{found['wrong']:,}",
        f"{100 * found['top1_error']:.2f} %",
        f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f} %" if interval else "",
        f"{100 * found['top5_error']:.2f} %" if "top5_error" in found else "",
    ]


def _speed(run: Run) -> Block:
    found = learning.speed(run)
    if found is None:
        return Paragraph("The log tells no speed.")
    return Table(
        ["images/s, whole job", "waiting for input", "evaluating", "saving", "whole time"],
        [
            [
                f"{found.images_per_second:,.1f}",
                *(f"{100 * s:.1f} %" for s in (found.waiting, found.evaluating, found.saving)),
                _time(run),
            ]
        ],
        frozenset(range(5)),
    )


def _time(run: Run) -> str:
    found = learning.speed(run)
    if found is None:
        return "—"
    minutes = found.seconds / 60
    if minutes < 1:
        return f"{found.seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _commit(environment: Mapping[str, Any]) -> str:
    commit = environment.get("commit")
    if not commit:
        return "no checkout"
    return commit[:COMMIT] + (" (changed)" if environment.get("dirty") else "")


def _hardware(run: Run) -> str:
    devices = run.data.get("replicas", 1)
    return f"{run.environments[-1].get('cpu')}, {devices} device{'s' * (devices != 1)}"


def _configuration(run: Run) -> Details:
    rows: list[list[Cell]] = [
        [Code(f"--{name}"), ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name, value in run.flags.items()
    ]
    rows += [
        [name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)]
        for name, value in run.data.items()
    ]
    return Details("Configuration", [Table(["flag, or of the data", "value"], rows)])


def _environments(run: Run) -> Details:
    rows: list[list[Cell]] = [
        [
            found.get("since", ""),
            _commit(found),
            ", ".join(f"{name} {version}" for name, version in found.get("packages", {}).items()),
            f"Python {found.get('python')}, {found.get('platform')}, {found.get('cpu')}",
        ]
        for found in run.environments
    ]
    return Details("Environments", [Table(["since", "commit", "packages", "machine"], rows)])


def read_grids(runs: Sequence[Run]) -> dict[str, bytes]:
    """Return the picture grids that lie in runs, by the runs' names."""
    return {
        run.name: (run.place / GRID).read_bytes() for run in runs if (run.place / GRID).is_file()
    }
