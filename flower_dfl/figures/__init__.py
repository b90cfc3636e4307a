"""Figures for papers and reports: curves of a sweep, the frontier of its rules, networks and label splits."""
