"""Runs and prepared data in Google's buckets. Imports neither JAX nor gin, and google.cloud only once it is needed.

names     gs:// URLs, and where the copy on this machine lies
bucket    a folder of a bucket: list, read, conditioned writes; one-line errors, retries
lease     one trainer a run, where there are no locks
copy      from the bucket to this machine: what is whole there
mirror    from this machine to the bucket, beside the training: data first, the commit marker last
workdir   the three together, for a trainer; and a copy for those who only read
"""
