"""Pages, figures and tables made from a run's scores."""
