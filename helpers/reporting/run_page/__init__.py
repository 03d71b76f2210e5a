"""`OUTPUT_DIR/run.html`, the page that shows a run while it learns and afterwards."""
