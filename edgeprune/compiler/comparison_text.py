"""A comparison in words and tables: compare.md and the terminal, from the same cells of text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgeprune.compiler import wording
from edgeprune.compiler.comparison_report import BudgetRow, Comparison, MethodRow
from edgeprune.compiler.statistics import Difference, Summary
from edgeprune.passes.finalists import heats

_SCORES = {"audit": "before fine-tuning", "tuned": "after fine-tuning"}


def markdown(report: Comparison) -> str:
    """Return compare.md: what was compared on which images, a table a budget, and what may be said of it."""
    n = {split.name: split.n for split in report.splits}
    parts = [
        f"# Agents compared: {report.model}",
        f"Every search had at most {report.evaluations} true evaluations, a warm start's included; seeds "
        f"{', '.join(map(str, report.seeds))}; {_training(report)}. Scores are {report.metric}, in per cent: *search* "
        f"({_chose(report, n['search'])}) chose the plan, *audit* ({n['audit']} other images of that split) and *test* "
        f"({n['test']} images, read once for each final model) chose nothing. Figures are means over the seeds, ± half "
        "of a 95 % t-interval; *evals* were spent, and after *to best* a search was within 1 % of its best.",
        f"The original: search {_percent(report.dense.search)}, audit {_percent(report.dense.audit)}, test "
        f"{_percent(report.dense.test)}, {wording.count(report.dense.macs)} MACs, "
        f"{wording.count(report.dense.parameters)} parameters.",
    ]
    for budget in report.budgets:
        rows = [row for row in report.rows if row.budget == budget.label]
        parts += [f"## At most {budget.label}", _pipes(_titles(report), [_cells(report, row) for row in rows])]
        parts += ["\n".join(f"- {sentence}" for sentence in sentences(report, budget))]
    fits = _fits(report)
    if fits:
        parts += ["## Across budgets", "\n".join(f"- {sentence}" for sentence in fits)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    parts += ["![Best score by true evaluations](curves.svg)", "![Accuracy against MACs](pareto.svg)"]
    return "\n\n".join(parts) + "\n"


def _chose(report: Comparison, whole: int) -> str:
    others = heats(report.images, whole, report.objective) if report.finalists > 1 else []
    if not others:
        return f"{min(report.images, whole)} images"
    word = "others " if report.objective == "metric" else ""
    most = f"up to {others[-1]} {word}for the best {report.finalists} plans of a search"
    by = "" if report.objective == "metric" else " by the outputs' agreement with the original's, in which *to best* is"
    return f"{report.images} images while searching{by}, {most}"


def table(report: Comparison) -> RenderableType:
    """Return the tables and sentences for the terminal."""
    parts: list[RenderableType] = []
    for budget in report.budgets:
        drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), title_justify="left")
        drawn.title = f"at most {budget.label}"
        for at, title in enumerate(_titles(report)):
            drawn.add_column(title, justify="right" if at else "left", overflow="fold")
        for row in report.rows:
            if row.budget == budget.label:
                drawn.add_row(*map(Text, _cells(report, row)))
        parts += [drawn, *(Text(sentence) for sentence in sentences(report, budget))]
    parts += [Text(sentence) for sentence in _fits(report)]
    parts += [Text(f"note: {note}") for note in report.notes]
    return Group(*parts)


def sentences(report: Comparison, budget: BudgetRow) -> list[str]:
    """Say, for every method, what it has over the reference and over the best baseline, and whether that is chance."""
    found = []
    for row in report.rows:
        if row.budget != budget.label:
            continue
        pairs = [(report.reference, row.against_reference)]
        if budget.best_baseline != report.reference and row.method != report.reference:  # that is said there already
            pairs.append((budget.best_baseline, row.against_best))
        for other, against in pairs:
            found += [
                f"{row.method} against {other}, audit {_SCORES[score]}: {_difference(one)}."
                for score, one in against.items()
            ]
    for score, variance in budget.anova.items():
        if variance is None:
            found.append(f"ANOVA between methods, audit {_SCORES[score]}: no spread between seeds to hold it against.")
        else:
            word = "methods differ" if variance.p < 0.05 else "no significant difference between methods"
            found.append(
                f"ANOVA between methods, audit {_SCORES[score]}: F({variance.groups - 1}, "
                f"{variance.n - variance.groups}) = {variance.f:.2f}, {_p(variance.p)}, η² = "
                f"{variance.eta_squared:.2f}: {word}."
            )
    return found


def _difference(one: Difference) -> str:
    text = f"{100 * one.mean:+.2f} points"
    if one.interval is not None:
        text += f" ({100 * one.interval[0]:+.2f} to {100 * one.interval[1]:+.2f})"
    if one.p is not None:
        text += f", {_p(one.p)}" + (f", corrected {_p(one.holm)}" if one.holm is not None else "")
    return f"{text}: {one.verdict}"


def _fits(report: Comparison) -> list[str]:
    found = []
    for label, fit in report.regression.items():
        slope = f"{10 * fit.slope:+.2f} points"
        if fit.interval is not None:
            slope += f" ({10 * fit.interval[0]:+.2f} to {10 * fit.interval[1]:+.2f})"
        found.append(
            f"Audit score before fine-tuning by sparsity, {label}: {slope} for each tenth of the MACs removed; "
            f"R² = {fit.r_squared:.2f}, {fit.n} plans, {'which any line fits' if fit.p is None else _p(fit.p)}."
        )
    if report.latency_law is not None:
        law = report.latency_law
        found.append(
            f"p50 of the emitted float32 ONNX: {law.a:.3g} ms · parameters^{law.b:.3g} (R² = {law.r_squared:.2f}, "
            f"{law.n} plans)."
        )
    return found


def _titles(report: Comparison) -> list[str]:
    titles = ["method", "evals", "to best", "search", "audit"]
    titles += ["audit, tuned"] if report.epochs else []
    titles += ["test", "MACs"]
    sources = sorted({cell.measurement.source for cell in report.cells if cell.measurement is not None})
    return [*titles, f"p50, {' and '.join(sources)}"] if sources else titles


def _cells(report: Comparison, row: MethodRow) -> list[str]:
    cells = [row.method, f"{row.evaluations.mean:.0f}", f"{row.to_best.mean:.0f}", _spread(row.search),
             _spread(row.audit)]  # fmt: skip
    cells += [_spread(row.tuned)] if report.epochs and row.tuned is not None else []
    cells += [_spread(row.test), wording.ratio(row.macs_share.mean)]
    if any(cell.measurement is not None for cell in report.cells):
        cells.append(wording.ratio(row.latency_ratio.mean if row.latency_ratio else None))
    return cells


def _training(report: Comparison) -> str:
    epochs = "an epoch" if report.epochs == 1 else f"{report.epochs} epochs"
    return f"{epochs} of fine-tuning for every plan" if report.epochs else "no fine-tuning"


def _spread(found: Summary) -> str:
    half = "" if found.interval is None else f"±{100 * (found.interval[1] - found.mean):.2f}"
    return f"{_percent(found.mean)}{half}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _pipes(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---", *["---:"] * (len(titles) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
