"""Writing down what a study found: a Markdown table of every entry, and a figure where the paper has one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from entries import COLUMNS, Entry, Key, Spread, columns_of, pooled, read_entries, spread_of, spread_text
from matplotlib.figure import Figure
from published import PUBLISHED, SUSPICIOUS
from running import folder_of
from study import UNTOUCHED, StudyCell

from flower_dfl.figures.frontier import compared, draw_frontier
from flower_dfl.figures.lines import draw_lines
from flower_dfl.figures.matrix import Matrix, draw_matrix
from flower_dfl.figures.series import BYZANTINE_SHARE, METRICS, ROUND, Line, Panel, Point
from flower_dfl.records import read_lines
from flower_dfl.sweeps.cells import read_summary

__all__ = ["Result", "byzantine_nodes", "comparable", "earlier_entries", "read_results", "write_study"]

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


def write_study(name: str, cells: Sequence[StudyCell], folder: Path, output: Path, *, add: bool = False) -> list[Path]:
    """Write a study's table and figure, and return their paths; none where there is nothing to write down.

    Args:
        name: Name of the study.
        cells: Its cells; those that are not complete are counted and left out.
        folder: Where the runs are.
        output: Where to write.
        add: Keep the entries of the table that is there and pool them with runs of other seeds; an entry gives way to
            runs of all its seeds. A figure that needs the runs themselves is drawn when all of them are at hand.

    Raises:
        ValueError: As :func:`earlier_entries`.
    """
    results = read_results(cells, folder)
    if name == "matrix":
        results = comparable(results)
    entries = _entries(cells, results, earlier_entries(name, cells, output) if add else {})
    if not entries:
        return []
    output.mkdir(parents=True, exist_ok=True)
    table = output / f"{name}.md"
    table.write_text(_table(name, cells, entries), encoding="utf-8")
    written = [table]
    figure = _figure(name, entries, results)
    if figure is not None:
        picture = output / f"{name}.png"
        figure.savefig(picture, dpi=130)
        written.append(picture)
    return written


def earlier_entries(name: str, cells: Sequence[StudyCell], output: Path) -> Mapping[Key, Entry]:
    """Return the entries of the table that is there; none if there is no table.

    Raises:
        ValueError: A row cannot be read, or the study does not have it.
    """
    entries = read_entries(output / f"{name}.md")
    if unknown := entries.keys() - {_key(cell) for cell in cells}:
        row = ", ".join(filter(None, min(unknown)))
        raise ValueError(f"expected rows of the study in {output / name}.md; got {row}, which {name} does not have")
    return entries


def _entries(cells: Sequence[StudyCell], results: Sequence[Result], earlier: Mapping[Key, Entry]) -> dict[Key, Entry]:
    """Return the entries of the results and of an earlier table, in the order of the cells."""
    groups: dict[Key, list[Result]] = {}
    for result in results:
        groups.setdefault(_key(result.cell), []).append(result)
    entries = dict(earlier)
    for key, group in groups.items():
        old = earlier.get(key)
        if old is None or old.seeds <= {result.cell.seed for result in group}:
            entries[key] = _entry(group)
        elif new := [result for result in group if result.cell.seed not in old.seeds]:
            entries[key] = pooled(old, _entry(new))
    places = {key: place for place, key in enumerate(dict.fromkeys(_key(cell) for cell in cells))}
    return dict(sorted(entries.items(), key=lambda item: places[item[0]]))


def _key(cell: StudyCell) -> Key:
    return Key(cell.data, cell.model, cell.variation, cell.attack, cell.rule)


def _entry(group: Sequence[Result]) -> Entry:
    """Return the entry of runs that differ in their seed alone."""
    by_all = group[0].cell.attack == "none"
    return Entry(
        frozenset(result.cell.seed for result in group),
        spread_of(_values(group, "honest_accuracy_mean"), min),
        spread_of(_values(group, "attack_success_rate_mean"), max),
        (_kept_by_all(group),) if by_all else (_kept(group, "honest_kept"), _kept(group, "byzantine_kept")),
        fmean(result.summary["seconds_total"] for result in group),
    )


def _figure(name: str, entries: Mapping[Key, Entry], results: Sequence[Result]) -> Figure | None:
    """Return the figure of a study; None if it has none, or not from what is at hand."""
    if name == "matrix":
        return draw_matrix(_matrices(entries))
    if name == "frontier":
        return _frontier(entries)
    if name in _FIGURES:
        x, label, found = _FIGURES[name](entries)
        panels = [panel for panel in found if len({point.x for line in panel.lines for point in line.points}) > 1]
        return draw_lines(panels, x, label, "rule", "deviation") if panels else None
    if name == "figure2" and sum(len(entry.seeds) for entry in entries.values()) <= len(results):
        return draw_lines(_over_rounds(results), ROUND, "honest accuracy", "rule", "min-max")
    return None


def _frontier(entries: Mapping[Key, Entry]) -> Figure | None:
    """Return every rule's worst cases over the attacks that all rules have met with the same seeds.

    None where no such attack has a trigger. Rules that nobody can influence are judged by what they have met of these.
    """
    met: dict[str, dict[str, Entry]] = {}
    for (*_, attack, rule), entry in entries.items():
        if attack != "none":
            met.setdefault(attack, {})[rule] = entry
    judged = {key.rule for key in entries} - UNTOUCHED
    fair = [of for of in met.values() if of.keys() >= judged and len({of[rule].seeds for rule in judged}) == 1]
    worst: dict[str, tuple[float, float]] = {}
    for rule in sorted({rule for of in fair for rule in of}):
        own = [of[rule] for of in fair if rule in of]
        if rates := [entry.rate.mean / 100 for entry in own if entry.rate]:
            worst[rule] = (min(entry.accuracy.mean / 100 for entry in own if entry.accuracy), max(rates))
    counts = [len(entry.seeds) for of in fair for entry in of.values()]
    return draw_frontier(compared(worst), len(fair), (min(counts), max(counts))) if worst else None


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


def _matrices(entries: Mapping[Key, Entry]) -> list[Matrix]:
    """Return the success of the attacks that have a trigger and the accuracy under the others, the same rules in each.

    The rule with the best mean is on top: of what is left of 1 by attack success, and of the accuracies.
    """
    found = {(rule, attack): entry for (*_, attack, rule), entry in entries.items()}
    rates = {key: entry.rate.mean / 100 for key, entry in found.items() if entry.rate}
    accuracies = {key: e.accuracy.mean / 100 for key, e in found.items() if e.accuracy and not e.rate}
    good = [(rule, 1 - value) for (rule, _), value in rates.items()]
    good += [(rule, value) for (rule, _), value in accuracies.items()]
    means = {rule: fmean(value for name, value in good if name == rule) for rule, _ in good}
    rules = tuple(sorted(means, key=lambda rule: (-means[rule], rule)))
    return [
        Matrix(metric.label, rules, tuple(dict.fromkeys(attack for _, attack in values)), values, metric.high_is_good)
        for metric, values in ((METRICS["asr"], rates), (METRICS["accuracy"], accuracies))
        if values
    ]


def _table(name: str, cells: Sequence[StudyCell], entries: Mapping[Key, Entry]) -> str:
    runs = sum(len(entry.seeds) for entry in entries.values())
    seconds = sum(len(entry.seeds) * entry.seconds for entry in entries.values())
    lines = [
        f"# {name}",
        "",
        f"{runs} of {len(cells)} runs complete, {seconds / 60:.0f} minutes of one core in all. Accuracy and",
        "attack success rate (ASR) in per cent, honest nodes, after the last round: mean ± sample standard deviation",
        "over seeds (worst seed). Kept: share of honest / Byzantine neighbours with a positive weight, mean over",
        "rounds and seeds. Without an attack all neighbours are honest; accuracy is still that of the nodes which are",
        "honest under attack. Paper: its printed accuracy, or accuracy / ASR, for what it calls the same; `?` marks",
        "a value that cannot be right as printed.",
        *(["Of the attacks and seeds, those that every rule has met which one can influence."] * (name == "matrix")),
        "",
    ]
    varied = any(key.variation for key in entries)
    head = ["data", "model", *(["setting"] if varied else []), "attack", "rule", *COLUMNS, "paper"]
    if name in _SUMMARISED:
        lines += [*_summary(entries), ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, entry in entries.items():
        data, model, variation, attack, rule = key
        row = [data, model, *([variation] if varied else []), attack, rule, *columns_of(entry), _paper(key)]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _summary(entries: Mapping[Key, Entry]) -> list[str]:
    """Return a table of every rule's worst cases over the attacks, each a mean over seeds and its worst seed."""
    head = ("data", "model", "setting", "rule", "number of seeds")
    head = (*head, "accuracy, no attack", "lowest accuracy under attack", "highest ASR")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for data, model, variation, rule in dict.fromkeys((d, m, v, r) for d, m, v, _, r in entries):
        met = {k.attack: entry for k, entry in entries.items() if k == (data, model, variation, k.attack, rule)}
        counts = sorted({len(entry.seeds) for entry in met.values()})
        seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        calm = met.pop("none", None)
        row = [data, model, variation, rule, seeds, spread_text(calm.accuracy, len(calm.seeds)) if calm else "-"]
        row.append(_worst(met, lambda entry: entry.accuracy, -1))
        row.append(_worst(met, lambda entry: entry.rate, 1))
        lines.append(f"| {' | '.join(row)} |")
    return lines


def _worst(met: Mapping[str, Entry], spread_in: Callable[[Entry], Spread | None], sign: int) -> str:
    """Return the spread that is worst by its mean, then by its worst seed, and its attack; "-" if there is none.

    ``sign`` is 1 where large is bad, and -1 where small is.
    """
    found = [(attack, len(entry.seeds), spread) for attack, entry in met.items() if (spread := spread_in(entry))]
    if not found:
        return "-"
    attack, count, spread = max(found, key=lambda one: (sign * one[2].mean, sign * one[2].worst))
    return f"{spread_text(spread, count)}, {attack}"


def _values(group: Sequence[Result], key: str) -> list[float]:
    return [100 * result.summary[key] for result in group if result.summary.get(key) is not None]


def _kept(group: Sequence[Result], key: str) -> float | None:
    values = _values(group, key)
    return fmean(values) / 100 if values else None


def _kept_by_all(group: Sequence[Result]) -> float | None:
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
    return fmean(shares) if shares else None


def _paper(entry: Key) -> str:
    data, model, variation, attack, rule = entry
    key = (data, model, "alie" if attack == _ALIE else attack, rule)
    if variation not in ("", "60 % Byzantine", "p = 0.8") or key not in PUBLISHED:
        return ""
    return PUBLISHED[key] + (" ?" if key in SUSPICIOUS else "")


def _over_rounds(results: Sequence[Result]) -> list[Panel]:
    """Return a panel of honest accuracy over the rounds for each task."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for result in results:
        rounds = found.setdefault(_task(_key(result.cell)), {}).setdefault(result.cell.rule, {})
        for number, accuracy in _accuracies(result):
            rounds.setdefault(number, []).append(accuracy)
    return [
        Panel(
            task,
            tuple(
                Line(rule, tuple(Point.of(number, values, "min-max") for number, values in sorted(rounds.items())))
                for rule, rounds in lines.items()
                if rounds
            ),
        )
        for task, lines in found.items()
    ]


def _accuracies(result: Result) -> Iterable[tuple[int, float]]:
    """Return the mean accuracy of the honest nodes in every round in which it was measured."""
    rounds: dict[int, list[dict[str, Any]]] = {}
    for entry in read_lines(result.folder / "rounds.jsonl"):
        rounds.setdefault(int(entry["round"]), []).append(entry)
    for number, entries in sorted(rounds.items()):
        accuracies = [float(e["accuracy"]) for e in entries if e["accuracy"] is not None and not e["byzantine"]]
        if accuracies:
            yield number, fmean(accuracies)


def _panels(
    entries: Mapping[Key, Entry],
    spread_in: Callable[[Entry], Spread | None],
    place: Callable[[Key], float],
    title: Callable[[Key], str],
) -> list[Panel]:
    """Gather entries: a panel a title, a line a rule, points where the keys place them."""
    found: dict[str, dict[str, list[Point]]] = {}
    for key, entry in entries.items():
        if spread := spread_in(entry):
            mean, deviation = spread.mean / 100, spread.deviation / 100
            point = Point(place(key), mean, mean - deviation, mean + deviation, len(entry.seeds))
            found.setdefault(title(key), {}).setdefault(key.rule, []).append(point)
    return [
        Panel(name, tuple(Line(rule, tuple(sorted(points, key=lambda p: p.x))) for rule, points in lines.items()))
        for name, lines in found.items()
    ]


def _task(key: Key) -> str:
    return f"{key.data}, {key.model}"


def _number_in(text: str) -> float:
    """Return the number at the end of a label such as ``alie, z = 4``, or at its start such as ``20 % Byzantine``."""
    words = text.replace("%", " ").split()
    return float(words[-1]) if words[-1].replace(".", "").isdigit() else float(words[0]) / 100


def _rates(entries: Mapping[Key, Entry], label: Callable[[Key], str]) -> list[Panel]:
    """Return a panel of attack success over the number in a label for each task."""
    return _panels(entries, lambda entry: entry.rate, lambda key: _number_in(label(key)), _task)


def _rates_and_accuracies(entries: Mapping[Key, Entry]) -> list[Panel]:
    def title(metric: str) -> Callable[[Key], str]:
        return lambda key: f"{metric}, {key.attack.split(',')[0].removeprefix('adaptive ')}, {key.data}"

    def place(key: Key) -> float:
        return _number_in(key.attack)

    rates = _panels(entries, lambda entry: entry.rate, place, title("ASR"))
    return rates + _panels(entries, lambda entry: entry.accuracy, place, title("accuracy"))


def _of_alie(entries: Mapping[Key, Entry]) -> Mapping[Key, Entry]:
    return {key: entry for key, entry in entries.items() if key.attack.startswith("alie")}


_FIGURES: Mapping[str, Callable[[Mapping[Key, Entry]], tuple[str, str, list[Panel]]]] = {
    "figure4": lambda e: (BYZANTINE_SHARE, "attack success rate", _rates(e, lambda key: key.variation)),
    "figure5": lambda e: ("data.params.p", "attack success rate", _rates(e, lambda key: key.variation)),
    "figure6": lambda e: ("beta", "attack success rate, accuracy", _rates_and_accuracies(e)),
    "beside": lambda e: ("z of ALIE", "attack success rate", _rates(_of_alie(e), lambda key: key.attack)),
}
"""What is on the axes, and the panels, of the figures that are drawn from a table."""
