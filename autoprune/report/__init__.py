"""What a study found, for people and for programs: a page, a table, two files and pictures, all from one summary.

``report.summary`` says what there is to say; ``report.tables``,
``report.files`` and ``report.picture`` lay it out;
``report.worth`` compares the best network with the baselines, ``report.sensitivity`` reads
how much each group matters, and ``report.report`` writes the files. ``report.page`` makes
``report.html`` from ``report.page_data`` and ``report.page_sections``. Neither torch
nor optuna is loaded here.
"""
