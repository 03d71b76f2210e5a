"""The pages that open in a browser: run.html and datasets.html."""
