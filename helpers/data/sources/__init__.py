"""Where images come from: folders, buckets, tables of URLs, hub datasets."""
