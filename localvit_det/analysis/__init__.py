"""Looking at datasets, trainings, results and networks: pages of tables, charts and pictures."""
