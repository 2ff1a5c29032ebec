"""Start and stop under Slurm, measured: raycluster, `ray symmetric-run`, the recipe of Ray's guide.

    make bench                                        a first look: three hosts, one round
    python -m benchmarks --hosts 1,2,4,8 --rounds 3 --save results.json
    python -m benchmarks --ways raycluster --beside DIR   this build and another, in turns
    python -m benchmarks --show results.json          the tables of results saved earlier
    python -m benchmarks --idle                       what an idle cluster costs
    python -m benchmarks.join --beside DIR            what a worker's start reads, and its CPU
    python -m benchmarks.slow --beside DIR            starts from a slow shared file system, by FUSE
    python -m benchmarks.scale --workers 10000        the workers' way to a stand-in for Ray
    python -m benchmarks.scale_parts                  what grows faster than the number of nodes

It makes a bed of Slurm hosts of its own (tests/bed: namespaces on this machine), so it needs root and
Slurm's programs.  The ways take turns within each round: what else the machine does meets all of them, and
only ratios within one run mean something.
"""
