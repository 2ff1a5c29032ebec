"""The state directory on a shared file system: records and their files, the head's lease, the catalogue."""
