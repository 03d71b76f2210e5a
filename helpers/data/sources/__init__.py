"""The sources of images: folders, buckets, tables of URLs and hub datasets."""
