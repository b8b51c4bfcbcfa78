"""Looking at data, trainings and results: pages of tables, charts and pictures."""
