"""What a study found, for people and for programs: a page, a table, two files and pictures, all from one summary.

:mod:`~autoprune.report.summary` says what there is to say; :mod:`~autoprune.report.tables`,
:mod:`~autoprune.report.files` and :mod:`~autoprune.report.picture` lay it out;
:mod:`~autoprune.report.worth` compares the best network with the baselines, :mod:`~autoprune.report.sensitivity` reads
how much each group matters, and :mod:`~autoprune.report.report` writes the files. :mod:`~autoprune.report.page` makes
``report.html`` from :mod:`~autoprune.report.page_data` and :mod:`~autoprune.report.page_sections`. Neither torch
nor optuna is loaded here.
"""
