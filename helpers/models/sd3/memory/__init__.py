"""How much memory a run of SD3 takes."""
