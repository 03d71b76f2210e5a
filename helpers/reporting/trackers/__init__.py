"""Programs that keep a run's figures and images for looking at; each is imported only when asked for."""
