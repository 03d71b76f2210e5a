"""File storage, local or in S3 buckets: read-only sources of datasets, and stores for caches."""
