"""Reports on a run: frozen events, and the listeners that show, store or send them."""
