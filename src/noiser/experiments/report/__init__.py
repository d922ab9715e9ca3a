"""A run's report: tables, figures and texts from its records."""
