"""A real Slurm cluster on one machine, for tests and for trying things by hand.

Every host is a set of namespaces (network, PID, mount, UTS, IPC) with its own /tmp, /run,
/dev/shm and slurmd; all of them hang on one warden process in a network of their own, so
several beds live side by side and nothing in them reaches the machine's network.

    python -m tests.bed [--name BED] up 3 [--cpus 16] [--memory 8000] [--gpus 0,2,2] [--cgroups]
                                          [--set KillWait=5] [--keep DIR] [--owner PID]
    python -m tests.bed [--name BED] run [--user alice] [--wd DIR] n1 -- hostname
    python -m tests.bed [--name BED] run login -- srun -N3 hostname
    python -m tests.bed [--name BED] power-off n2 | power-on n2 | cable n2 down|up
    python -m tests.bed [--name BED] status | leftovers | down

Root and Debian's packages slurmctld, slurmd, slurm-client, munge and iproute2 are needed.

Hosts are n1 to nN and `login` (slurmctld).  Users are root, alice and bob; their homes lie
below /home, which all hosts of a bed share, as does everything else of the machine but /tmp,
/var/tmp, /run, /dev/shm and /root.  The checkout, this Python's prefixes and what --keep names
are visible at their usual paths for every user.  Partitions are `main` (the default) and
`urgent`, whose jobs preempt (requeue) those of `main`.  A job that names no --mem gets all
memory of its nodes, so jobs that are to share a node must name it.  Logs of the daemons:
/var/lib/raycluster-bed/BED/log.  A bed made with --owner (tests: always) ends with that process.

The same in Python, from tests.bed.bed and tests.bed.spec:

    with Bed.up("name", BedSpec(hosts=3)) as bed:
        bed.run("n1", ["hostname"], check=True).stdout
"""
