"""Writing down what a study found: a Markdown table of every entry, and a figure where the paper has one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.figure import Figure
from published import PUBLISHED, SUSPICIOUS
from running import folder_of
from study import UNTOUCHED, StudyCell

from flower_dfl.figures.frontier import draw_frontier, standings
from flower_dfl.figures.lines import draw_lines
from flower_dfl.figures.matrix import Matrix, draw_matrix
from flower_dfl.figures.meetings import count_attacks
from flower_dfl.figures.series import METRICS, ROUND, Line, Metric, Panel, Point, with_parameters
from flower_dfl.records import read_lines
from flower_dfl.sweeps.cells import Cell, read_summary

__all__ = ["Result", "byzantine_nodes", "comparable", "read_results", "write_study"]

_SUMMARISED = ("anchored", "anchored80", "frontier", "held-out", "matrix", "untargeted")

_ALIE = "alie, z = 4"
"""What stands for the paper's ALIE, of which it does not give z."""


@dataclass(frozen=True, slots=True)
class Result:
    """A complete cell."""

    cell: StudyCell
    folder: Path
    summary: Mapping[str, Any]


def read_results(cells: Iterable[StudyCell], folder: Path) -> list[Result]:
    """Return the cells that are complete, with what they found."""
    runs = ((cell, folder_of(cell.plan, folder)) for cell in cells)
    return [Result(cell, run, read_summary(run)) for cell, run in runs if run is not None]


def byzantine_nodes(result: Result) -> set[int]:
    """Return the nodes that are Byzantine under attack."""
    return {entry["node"] for entry in read_lines(result.folder / "rounds.jsonl") if entry["byzantine"]}


def write_study(name: str, cells: Sequence[StudyCell], folder: Path, output: Path) -> list[Path]:
    """Write a study's table and figure, and return their paths; none where there is nothing to write down.

    Args:
        name: Name of the study.
        cells: Its cells; those that are not complete are counted and left out.
        folder: Where the runs are.
        output: Where to write.
    """
    results = read_results(cells, folder)
    if name == "matrix":
        results = comparable(results)
    if not results:
        return []
    output.mkdir(parents=True, exist_ok=True)
    table = output / f"{name}.md"
    table.write_text(_table(name, cells, results), encoding="utf-8")
    written = [table]
    figure = _figure(name, results)
    if figure is not None:
        picture = output / f"{name}.png"
        figure.savefig(picture, dpi=130)
        written.append(picture)
    return written


def _figure(name: str, results: Sequence[Result]) -> Figure | None:
    if name == "matrix":
        return draw_matrix(_matrices(results))
    if name == "frontier" and (fair := comparable(results)):
        cells = [with_parameters(Cell(r.cell.plan.name, r.folder, r.cell.plan.settings, r.summary)) for r in fair]
        return draw_frontier(standings(cells), count_attacks(cells), len({r.cell.seed for r in fair}))
    if name in _FIGURES:
        x, label, found = _FIGURES[name](results)
        panels = [panel for panel in found if x == ROUND or len({p.x for line in panel.lines for p in line.points}) > 1]
        return draw_lines(panels, x, label, "rule", "min-max") if panels else None
    return None


def comparable(results: Sequence[Result]) -> list[Result]:
    """Return the results of those attacks and seeds that every rule has met: with others, rules cannot be compared.

    Rules that nobody can influence are no hindrance, as they meet one attack of each trigger.
    """
    rules = {r.cell.rule for r in results} - UNTOUCHED
    met: dict[tuple[str, int], set[str]] = {}
    for result in results:
        met.setdefault((result.cell.attack, result.cell.seed), set()).add(result.cell.rule)
    full = {pair for pair, who in met.items() if who >= rules}
    attacks = {attack for attack, _ in full}
    seeds = {seed for _, seed in full if attacks <= {a for a, s in full if s == seed}}
    return [r for r in results if r.cell.attack in attacks and r.cell.seed in seeds]


def _matrices(results: Sequence[Result]) -> list[Matrix]:
    """Return the success of the attacks that have a trigger and the accuracy under the others, the same rules in each.

    The rule with the best mean is on top: of what is left of 1 by attack success, and of the accuracies.
    """
    rates, accuracies = _entries(results, METRICS["asr"]), _entries(results, METRICS["accuracy"])
    accuracies = {entry: value for entry, value in accuracies.items() if entry not in rates}
    good = [(rule, 1 - value) for (rule, _), value in rates.items()]
    good += [(rule, value) for (rule, _), value in accuracies.items()]
    means = {rule: fmean(value for name, value in good if name == rule) for rule, _ in good}
    rules = tuple(sorted(means, key=lambda rule: (-means[rule], rule)))
    return [
        Matrix(metric.label, rules, tuple(dict.fromkeys(attack for _, attack in values)), values, metric.high_is_good)
        for metric, values in ((METRICS["asr"], rates), (METRICS["accuracy"], accuracies))
        if values
    ]


def _entries(results: Sequence[Result], metric: Metric) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if (value := result.summary.get(metric.summary)) is not None:
            found.setdefault((result.cell.rule, result.cell.attack), []).append(value)
    return {entry: fmean(values) for entry, values in found.items()}


def _table(name: str, cells: Sequence[StudyCell], results: Sequence[Result]) -> str:
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.data, cell.model, cell.variation, cell.attack, cell.rule), []).append(result)
    seconds = sum(result.summary["seconds_total"] for result in results)
    lines = [
        f"# {name}",
        "",
        f"{len(results)} of {len(cells)} runs complete, {seconds / 60:.0f} minutes of one core in all. Accuracy and",
        "attack success rate (ASR) in per cent, honest nodes, after the last round: mean ± sample standard deviation",
        "over seeds (worst seed). Kept: share of honest / Byzantine neighbours with a positive weight, mean over",
        "rounds and seeds. Without an attack all neighbours are honest; accuracy is still that of the nodes which are",
        "honest under attack. Paper: its printed accuracy, or accuracy / ASR, for what it calls the same; `?` marks",
        "a value that cannot be right as printed.",
        *(["Of the attacks and seeds, those that every rule has met which one can influence."] * (name == "matrix")),
        "",
    ]
    varied = any(key[2] for key in groups)
    head = ["data", "model", *(["setting"] if varied else []), "attack", "rule"]
    head += ["accuracy", "ASR", "kept", "seeds", "seconds a run", "paper"]
    if name in _SUMMARISED:
        lines += [*_summary(groups), ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, group in sorted(groups.items(), key=lambda item: _order(item[0], cells)):
        data, model, variation, attack, rule = key
        row = [data, model, *([variation] if varied else []), attack, rule]
        row += [
            _spread(group, "honest_accuracy_mean", min),
            _spread(group, "attack_success_rate_mean", max),
            _kept_by_all(group) if attack == "none" else _kept(group),
            str(len(group)),
            f"{fmean(result.summary['seconds_total'] for result in group):.0f}",
            _paper(data, model, variation, attack, rule),
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _summary(groups: Mapping[tuple[str, ...], Sequence[Result]]) -> list[str]:
    """Return a table of every rule's worst cases over the attacks, each a mean over seeds and its worst seed."""
    lines = [
        "| data | model | setting | rule | seeds | accuracy, no attack | lowest accuracy under attack | highest ASR |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for data, model, variation, rule in dict.fromkeys((d, m, v, r) for d, m, v, _, r in groups):
        attacks = {
            attack: group
            for (d, m, v, attack, r), group in groups.items()
            if (d, m, v, r) == (data, model, variation, rule) and attack != "none"
        }
        calm = groups.get((data, model, variation, "none", rule), [])
        accuracies = {name: _values(group, "honest_accuracy_mean") for name, group in attacks.items()}
        rates = {
            name: found for name, group in attacks.items() if (found := _values(group, "attack_success_rate_mean"))
        }
        counts = sorted({len(group) for group in (calm, *attacks.values()) if group})
        seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        row = [data, model, variation, rule, seeds, _spread(calm, "honest_accuracy_mean", min)]
        lowest = min(accuracies, key=lambda name: fmean(accuracies[name]), default="")
        row.append(f"{_spread(attacks[lowest], 'honest_accuracy_mean', min)}, {lowest}" if lowest else "-")
        highest = max(rates, key=lambda name: fmean(rates[name]), default="")
        row.append(f"{_spread(attacks[highest], 'attack_success_rate_mean', max)}, {highest}" if highest else "-")
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _order(key: tuple[str, ...], cells: Sequence[StudyCell]) -> int:
    """Return the place of an entry in the study; seeds are interleaved there."""
    return next(i for i, c in enumerate(cells) if (c.data, c.model, c.variation, c.attack, c.rule) == key)


def _values(group: Sequence[Result], key: str) -> list[float]:
    return [100 * result.summary[key] for result in group if result.summary.get(key) is not None]


def _spread(group: Sequence[Result], key: str, worst: Callable[[list[float]], float]) -> str:
    values = _values(group, key)
    if not values:
        return "-"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{fmean(values):.1f}{spread} ({worst(values):.1f})"


def _kept(group: Sequence[Result]) -> str:
    values = [_values(group, key) for key in ("honest_kept", "byzantine_kept")]
    return " / ".join(f"{fmean(found) / 100:.2f}" if found else "-" for found in values)


def _kept_by_all(group: Sequence[Result]) -> str:
    """Return the mean over seeds of the share of all neighbours that the nodes keep whose accuracy is reported."""
    shares = []
    for result in group:
        others = byzantine_nodes(result)
        kept = [
            edge["weight"] > 0
            for edge in read_lines(result.folder / "edges.jsonl")
            if edge["receiver"] not in others and edge["sender"] != edge["receiver"]
        ]
        if kept:
            shares.append(fmean(kept))
    return f"{fmean(shares):.2f}" if shares else "-"


def _paper(data: str, model: str, variation: str, attack: str, rule: str) -> str:
    key = (data, model, "alie" if attack == _ALIE else attack, rule)
    if variation not in ("", "60 % Byzantine", "p = 0.8") or key not in PUBLISHED:
        return ""
    return PUBLISHED[key] + (" ?" if key in SUSPICIOUS else "")


def _panels(
    results: Sequence[Result],
    place: Callable[[Result], Iterable[tuple[float, float]]],
    group: Callable[[StudyCell], str],
) -> list[Panel]:
    """Gather points: a panel a group, a line a rule, the values of all seeds at a place together."""
    found: dict[str, dict[str, dict[float, list[float]]]] = {}
    for result in results:
        line = found.setdefault(group(result.cell), {}).setdefault(result.cell.rule, {})
        for x, value in place(result):
            line.setdefault(x, []).append(value)
    return [
        Panel(
            title,
            tuple(
                Line(rule, tuple(Point(x, tuple(values)) for x, values in sorted(line.items())))
                for rule, line in lines.items()
                if line
            ),
        )
        for title, lines in found.items()
    ]


def _task(cell: StudyCell) -> str:
    return f"{cell.data}, {cell.model}"


def _over_rounds(result: Result) -> Iterable[tuple[float, float]]:
    rounds: dict[int, list[dict[str, Any]]] = {}
    for entry in read_lines(result.folder / "rounds.jsonl"):
        rounds.setdefault(int(entry["round"]), []).append(entry)
    for number, entries in sorted(rounds.items()):
        accuracies = [float(e["accuracy"]) for e in entries if e["accuracy"] is not None and not e["byzantine"]]
        if accuracies:
            yield number, fmean(accuracies)


def _number_in(text: str) -> float:
    """Return the number at the end of a label such as ``alie, z = 4``, or at its start such as ``20 % Byzantine``."""
    words = text.replace("%", " ").split()
    return float(words[-1]) if words[-1].replace(".", "").isdigit() else float(words[0]) / 100


def _rate_by(label: Callable[[StudyCell], str]) -> Callable[[Result], Iterable[tuple[float, float]]]:
    def place(result: Result) -> Iterable[tuple[float, float]]:
        rate = result.summary.get("attack_success_rate_mean")
        return [] if rate is None else [(_number_in(label(result.cell)), float(rate))]

    return place


def _rate_and_accuracy(results: Sequence[Result]) -> list[Panel]:
    panels = []
    for metric, name in (("attack_success_rate_mean", "ASR"), ("honest_accuracy_mean", "accuracy")):
        panels += _panels(
            results,
            lambda r, metric=metric: [(_number_in(r.cell.attack), float(r.summary[metric]))],
            lambda c, name=name: f"{name}, {c.attack.split(',')[0].removeprefix('adaptive ')}, {c.data}",
        )
    return panels


_FIGURES: Mapping[str, Callable[[Sequence[Result]], tuple[str, str, list[Panel]]]] = {
    "figure2": lambda r: (ROUND, "honest accuracy", _panels(r, _over_rounds, _task)),
    "figure4": lambda r: (
        "byzantine-share", "attack success rate", _panels(r, _rate_by(lambda c: c.variation), _task),
    ),
    "figure5": lambda r: (
        "data.params.p", "attack success rate", _panels(r, _rate_by(lambda c: c.variation), _task),
    ),
    "figure6": lambda r: ("beta", "attack success rate, accuracy", _rate_and_accuracy(r)),
    "beside": lambda r: (
        "z of ALIE",
        "attack success rate",
        _panels([one for one in r if one.cell.attack.startswith("alie")], _rate_by(lambda c: c.attack), _task),
    ),
}  # fmt: skip
