"""Clusters from Python: SlurmCluster, AsyncSlurmCluster and LocalCluster."""
