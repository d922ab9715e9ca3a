"""From a run's records to tables, figures and documents."""
