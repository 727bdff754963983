"""The report of a study, for people and for programs: a page, tables, two files and plots, all from one summary.

``content`` decides what there is to report, ``page`` makes ``report.html``, ``plots`` draws, ``csv_json`` writes the
files for other programs, and ``write_report`` puts them into the study's folder. ``live`` watches a running search.
Neither torch nor optuna is loaded here.
"""
