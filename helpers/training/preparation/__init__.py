"""What happens before the first step: catalogs, caches, the dry run."""
