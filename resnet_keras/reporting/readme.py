"""The README's results, from the committed runs: a table, and figures as files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from resnet_keras.errors import InputError
from resnet_keras.reporting import drawings, estimates, results, run_section
from resnet_keras.reporting.document import Cell, Code, Details, Drawing, Inline, Link, Table
from resnet_keras.reporting.experiments import EXPERIMENTS, Row, configuration, needed_runs
from resnet_keras.reporting.markdown import figure, folded, table
from resnet_keras.reporting.report import titled
from resnet_keras.reporting.results import Line
from resnet_keras.reporting.run_files import (
    LOG,
    METRICS,
    Evaluation,
    Run,
    fingerprint,
    hardware,
    responses_of,
)
from resnet_keras.reporting.run_section import HASH
from resnet_keras.reporting.standing import MEASURED, NOT_RUN, SMOKE, UNFINISHED, Plan

FIGURES = Path("saved_models", "figures")  # in a checkout
# Experiments whose measured runs are shown.
DRAWN = ("fig1_fig6", "fig7", "fig6_short", "fig7_short", "constructed_solution")
WORKING = (
    "Smoke only: the commands of these rows work, tested end to end on few images with such flags; "
    "their numbers say nothing about the networks"
)
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def part(
    runs: Sequence[Run],
    evaluations: Mapping[str, Evaluation],
    plans: Mapping[str, Plan],
    root: Path,
) -> tuple[str, dict[str, bytes]]:
    """Return what stands between the marks, and the files that it shows, by names in ``FIGURES``.

    Args:
        runs: each of another name, within ``root``.
        evaluations: of ensembles, by their folders' names.
        plans: by configuration.
        root: the README's folder, which links start from.
    """
    rows: list[list[Cell]] = []
    commands: list[list[Cell]] = []
    not_run: dict[str, list[Row]] = {}
    for name in EXPERIMENTS:
        before: Line | None = None
        smoke: list[Line] = []
        lines = results.lines(name, runs, evaluations, plans)
        begun = any(line.standing.status not in (SMOKE, NOT_RUN) for line in lines)
        for line in lines:
            # Beside rows that were begun, each other row of a published table says its cost.
            shown = begun and EXPERIMENTS[name].table
            # Another quantity of the same runs: what was said once is not said again.
            again = before is not None and (line.row, line.runs) == (before.row, before.runs)
            before = line
            if line.standing.status not in (SMOKE, NOT_RUN) or shown:
                rows.append(_row(line, root, again))
                continue
            if line.standing.status == SMOKE:
                smoke.append(line)
            left = not_run.setdefault(name, [])
            if line.row not in left:
                left.append(line.row)
        # Where a number is missing, nobody knows that its command works.
        lacking = [(line.row, line.runs) for line in smoke if not line.values]
        smoke = [line for line in smoke if (line.row, line.runs) not in lacking]
        if smoke:
            commands.append(_smoke(smoke, root))
    header = "experiment, row, published, measured, difference, status, made in, log"
    parts = [table(Table(header.split(", "), rows, frozenset({2, 3, 4})))] if rows else []
    if commands:
        header = "experiment, rows, with, log"
        parts.append(folded(Details(WORKING, [Table(header.split(", "), commands)])))
    if not parts:
        parts.append("No run is committed yet.")
    if not_run:
        parts += ["Not run, or not whole:", table(_not_run(not_run, runs, plans))]
    files: dict[str, bytes] = {}
    for name in DRAWN:
        lines = results.lines(name, runs, evaluations, plans)
        whole = [line for line in lines if line.standing.status == MEASURED]
        if whole:
            shown = figure(_drawing(name, whole, runs), files, FIGURES.as_posix())
            parts.append(f"**{EXPERIMENTS[name].title}**\n\n{shown}")
    return "\n\n".join(parts), files


def _drawing(name: str, lines: Sequence[Line], runs: Sequence[Run]) -> Drawing:
    """Draw lines; by the runs' fingerprints a test finds out whether files are of these."""
    shown = {run.name: (titled(line.row.name, run), run) for line in lines for run in line.runs}
    heads = [fingerprint(run.place)[:HASH] for _, run in shown.values()]
    if "responses" in EXPERIMENTS[name].figures:
        measured = responses_of(runs)  # one run's directory may hold another's
        stds = {title: measured[run].stds for run, (title, _) in shown.items()}
        return drawings.responses(stds, name, heads)
    return drawings.curves(name, list(shown.values()), losses=False, fingerprints=heads)


def replaced(text: str, found: str, file: Path) -> str:
    """Return a README with its table replaced.

    Raises:
        InputError: where the marks are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InputError(
            f"{file} has no lines {BEGIN!r} and {END!r}: put them where the table goes."
        )
    return f"{before}{BEGIN}\n{found}\n{END}{after}"


def _row(line: Line, root: Path, again: bool) -> list[Cell]:
    # Of these, the number says nothing of the trained network.
    partial = line.standing.status in (SMOKE, UNFINISHED)
    measured = "—" if partial else results.figure(line.values, line.quantity)
    several = len(line.values) > 1 and not partial
    origin = _logs([line], root) if line.place else ()
    if partial or not line.place:
        origin = (*origin, *([" "] if origin else []), _command(line))
    return [
        line.experiment,
        f"{line.row.name}, {line.quantity}",
        line.published or "—",
        f"{measured}, n = {len(line.values)}" if several else measured,
        results.difference(line),
        "" if again else line.status,
        "" if again or not line.runs else _made(line),
        "" if again else origin,
    ]


def _made(line: Line) -> str:
    """Return how long the runs of a line took, on which machines, under which commits."""
    times = ", ".join(run_section.time(run) for run in line.runs)
    return "; ".join(
        [times, *_of_all(hardware, line.runs), *_of_all(run_section.commits, line.runs)]
    )


def _of_all(told: Callable[[Run], str], runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(map(told, runs)))


def _command(line: Line) -> Inline:
    """Return the flag that makes a row: of its training alone where that is all it needs."""
    if line.row.views == ("center",) and needed_runs([line.row]) == list(line.row.runs[:1]):
        return Code(f"--flagfile=configs/{configuration(line.row.runs[0])[0]}.flags")
    return Code(f"--experiment={line.experiment}")


def _smoke(lines: Sequence[Line], root: Path) -> list[Cell]:
    """Return one line for all rows of an experiment whose numbers say nothing of the networks."""
    count = len({line.row for line in lines})
    runs = [run for line in lines for run in line.runs]
    flags = [f"--{flag}={run.flags[flag]}" for flag in ("dataset", "train_steps") for run in runs]
    for line in lines:
        flags += re.findall(r"--\w+=\S*", " ".join(line.standing.deviations))
    changed = Code(" ".join(dict.fromkeys(flags)))
    return [lines[0].experiment, str(count), changed, _logs(lines, root)]


def _not_run(
    experiments: Mapping[str, Sequence[Row]], runs: Sequence[Run], plans: Mapping[str, Plan]
) -> Table:
    rows: list[list[Cell]] = []
    for name, left in experiments.items():
        cost = estimates.multiply_adds(left, plans)
        told = "" if cost is None else f"{cost:.1e}"
        here, there = estimates.hours_here(left, runs, plans), estimates.gpu_hours(left, plans)
        command = Code(f"--experiment={name}")
        rows.append([EXPERIMENTS[name].title, str(len(left)), told, here, there, command])
    header = "experiment, rows, multiply-adds, hours, hours on GPUs, with --mode=reproduce"
    return Table(header.split(", "), rows, frozenset({1, 2}))


def _logs(lines: Sequence[Line], root: Path) -> tuple[Inline, ...]:
    """Return links to what the numbers come from, and the head of their fingerprint."""
    places: dict[Path, None] = {}  # each once, in this order
    for line in lines:
        places |= dict.fromkeys([line.place] if line.place else [])
        places |= dict.fromkeys(run.place for run in line.runs)
    parts: list[Inline] = []
    for place in places:
        file = place / (LOG if (place / LOG).is_file() else METRICS)
        parts += [Link(place.name, file.relative_to(root).as_posix()), " "]
    heads = [fingerprint(place) for place in places]
    of_all = hashlib.sha256("".join(heads).encode()).hexdigest() if len(heads) > 1 else heads[0]
    return (*parts, of_all[:HASH])
