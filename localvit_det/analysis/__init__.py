"""Looking at datasets, trainings, results and networks: pages of tables, charts and pictures.

It has no `__all__`: `localvit analyze` imports the one module that its verb needs.
"""
