"""What the command line does with a run's folder."""
