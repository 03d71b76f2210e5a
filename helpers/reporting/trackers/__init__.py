"""Programs that keep a run's figures and pictures for looking at; each is imported only when asked for."""
