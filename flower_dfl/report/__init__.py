"""One self-contained HTML file for a run or a sweep, made from its folder alone."""

from flower_dfl.report.page import write_report

__all__ = ["write_report"]
