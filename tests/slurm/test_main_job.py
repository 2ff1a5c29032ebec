"""The main job on real Slurm: batch scripts as they are, shapes of jobs, and ends that are told truly."""

from __future__ import annotations

import shlex
import time

import pytest

from tests.bed.bed import REPOSITORY
from tests.bed.spec import LOGIN
from tests.slurm.batches import NODES, SRUN, batch, driver, head_is_up, line_with, read, record, submit
from tests.slurm.jobs import JobEnd, Slurm
from tests.waiting import wait_until

ALL = "NODES n1 n2 n3"
OUTPUT_LIMIT_BYTES = 4096
SCRIPTS = ("head_and_workers.sbatch", "symmetric.sbatch")


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.versions
def test_three_nodes_the_drivers_code_and_nothing_left(slurm: Slurm, script: str) -> None:
    job = submit(slurm, script, *NODES, "7", "--tasks", user="alice")
    assert job.wait() == JobEnd("FAILED", 7, 0), job.output()
    output = job.output()
    assert ALL in output
    assert "TASKS n1 n2 n3" in output
    own = "".join(line for line in output.splitlines(True) if not line.startswith(("NODES", "TASKS")))
    assert len(own.encode()) <= OUTPUT_LIMIT_BYTES, own
    slurm.assert_nothing_left()


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_node_is_a_cluster_too(slurm: Slurm, script: str) -> None:
    job = submit(slurm, script, *NODES, "0", options=("--nodes=1",))
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert "NODES n1\n" in job.output()
    slurm.assert_nothing_left()


def test_without_arguments_the_script_runs_its_example(slurm: Slurm) -> None:
    job = submit(slurm, "symmetric.sbatch", user="bob")
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert "n3: hello from n3" in job.output()


def test_the_script_with_a_head_where_names_of_nodes_do_not_resolve(slurm: Slurm) -> None:
    """It calls workers with --master-ip and the head's NodeName; the record has the address."""
    hide = "mount -n --bind /dev/null /etc/hosts; mount -n --bind /dev/null /etc/resolv.conf"
    asks = "python -c \"import socket; socket.gethostbyname('n2')\""
    job = batch(
        slurm,
        rf"""
        real=$(command -v raycluster) && mkdir -p unresolved && cat > unresolved/raycluster <<END
#!/bin/bash
exec unshare --mount bash -c '{hide}; exec "\$@"' x $real "\$@"
END
        chmod +x unresolved/raycluster
        export PATH=$PWD/unresolved:$PATH
        cd {REPOSITORY}
        exec bash slurm/head_and_workers.sbatch sh -c {shlex.quote(f"{asks}; {driver(0)}")}
        """,
        "--chdir=/home/admin",
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert "socket.gaierror" in job.output()
    assert ALL in job.output()
    slurm.assert_nothing_left()


# -- who does not come ----------------------------------------------------------------------------


def test_missing_workers_end_the_head_in_time_and_by_name(slurm: Slurm) -> None:
    job = batch(slurm, f"raycluster head --timeout 8 -- {driver(0)}")
    job.wait_for("raycluster: ")
    assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    line = line_with("error", job.output())
    assert "2 of 2 workers did not join within 8 s" in line
    assert "n2 (never reported)" in line
    assert "n3 (never reported)" in line
    end = read(record(slurm.bed, job) / "end.json")
    head = read(record(slurm.bed, job) / "head.json")
    assert end and head and end["exit_code"] == 4
    assert end["when"] - head["started"] < 12
    slurm.assert_nothing_left()


def test_one_missing_worker_is_the_one_named(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"""
        {SRUN} --nodes=1 --ntasks=1 --nodelist=n2 raycluster worker &
        raycluster head --expected-workers 2 --timeout 12 -- {driver(0)}
        code=$?
        wait; exit $code
        """,
    )
    assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    line = line_with("error", job.output())
    assert "1 of 2 workers did not join" in line
    assert "n3 (never reported)" in line
    assert "n2" not in line
    slurm.assert_nothing_left()


WORKER = f"{SRUN} -N1 -n1 --nodelist=n2 raycluster worker --max-retries 2 --retry-delay 1"


@pytest.mark.parametrize(
    ("where", "before", "reason"),
    [
        pytest.param("10.77.0.1:20001", "", "refused", id="refused"),
        pytest.param("203.0.113.9:20001", "", "no route", id="no-route"),
        # Somebody has this address and never answers: packets go out and are lost.
        pytest.param(
            "10.77.0.99:20001",
            "ip neighbour replace 10.77.0.99 lladdr 02:00:00:00:00:99 dev {dev} nud permanent",
            "timed out",
            id="timed-out",
        ),
        pytest.param("nobody.invalid:20001", "", "name unknown", id="name-unknown"),
    ],
)
def test_a_worker_without_head_tells_each_attempt(slurm: Slurm, where: str, before: str, reason: str) -> None:
    if before:
        route = slurm.run("n2", ["ip", "-o", "route", "get", "10.77.0.1"], check=True).stdout.split()
        slurm.run("n2", before.format(dev=route[route.index("dev") + 1]).split(), check=True)
    ip, _, port = where.partition(":")
    job = batch(slurm, f"{WORKER} --master-ip {ip} --master-port {port}")
    assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    line = line_with("did not join a head", job.output())
    assert f"attempts 1 to 2 {where}: {reason}" in line
    slurm.assert_nothing_left()


def test_a_worker_whose_record_names_no_head(slurm: Slurm) -> None:
    job = batch(slurm, f"{WORKER}")
    assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    line = line_with("did not join a head", job.output())
    assert f".raycluster/bed/{job.id}: no head" in line


def test_another_jobs_head_is_not_joined(slurm: Slurm) -> None:
    """Neither one's own other job, whose token could be read, nor somebody else's."""
    shape = ("--nodes=3", "--ntasks-per-node=1", "--cpus-per-task=4", "--mem=4000")
    theirs = [
        slurm.sbatch("raycluster head --expected-workers 0 -- sleep 600", *shape, user=user)
        for user in ("alice", "bob")
    ]
    heads = [head_is_up(slurm.bed, job) for job in theirs]
    # Of her own other job alice's records tell; of bob's they do not, but a head of hers is not there.
    for head, stranger in zip(heads, ("wrong cluster", "no token"), strict=True):
        address = f"{head['address_ip']}:{head['port']}"
        lost = slurm.sbatch(
            f"srun -N1 -n1 --mem=0 raycluster worker --max-retries 2 --retry-delay 1 "
            f"--master-ip {head['address_ip']} --master-port {head['port']}",
            *shape,
            user="alice",
        )
        assert lost.wait() == JobEnd("FAILED", 4, 0), lost.output()
        line = line_with("did not join a head", lost.output())
        assert f"{address}: {stranger}" in line
        # The same with a head of its own, at another address.
        misled = slurm.sbatch(
            f"""
            raycluster head --expected-workers 1 --timeout 60 -- {driver(0)} & head=$!
            until [[ -e ~/.raycluster/bed/$SLURM_JOB_ID/head.json ]]; do sleep 0.1; done
            srun -N1 -n1 --mem=0 --nodelist=n2 raycluster worker --max-retries 1 --retry-delay 1 \
                --master-ip {head["address_ip"]} --master-port {head["port"]}
            wait $head
            """,
            *shape,
            user="alice",
        )
        assert misled.wait() == JobEnd("FAILED", 4, 0), misled.output()
        assert f"{address}: wrong cluster" in line_with("error: n2 did not join a head", misled.output())
    for job in theirs:
        assert job.state() == "RUNNING", job.output()
        job.cancel()
    for job in theirs:
        job.wait()
    slurm.assert_nothing_left()


def test_a_head_of_another_version_is_not_joined(slurm: Slurm) -> None:
    doctor = (
        "import json, ray, time; ray.init(logging_level='ERROR'); "
        "kv = ray._private.worker.global_worker.gcs_client; "
        "facts = json.loads(kv.internal_kv_get(b'CLUSTER_METADATA', b'cluster')); "
        "facts['ray_version'] = '2.41.0'; "
        "kv.internal_kv_put(b'CLUSTER_METADATA', json.dumps(facts).encode(), True, b'cluster'); "
        "print('DOCTORED', flush=True); time.sleep(600)"
    )
    job = batch(
        slurm,
        f"""
        raycluster head --expected-workers 0 -- python -c "{doctor}" > driver.out 2>&1 &
        until grep -q ^DOCTORED driver.out; do sleep 0.2; done
        {WORKER}
        code=$?
        kill %1; wait
        exit $code
        """,
        user="alice",
    )
    assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    line = line_with("did not join a head", job.output())
    assert "version mismatch" in line
    assert "The head has Ray 2.41.0" in line
    slurm.assert_nothing_left()


# -- shapes of jobs -------------------------------------------------------------------------------


def test_two_runs_one_after_the_other(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"""
        for code in 3 0; do
            {SRUN} raycluster run -- {driver("$code").replace("'", "")}
            echo "RUN $?"
        done
        for code in 4 0; do
            {SRUN} --nodes=2 --ntasks=2 --exclude=n1 raycluster worker --master-ip n1 &
            raycluster head -- {driver("$code").replace("'", "")}
            echo "HEAD $?"
            wait
        done
        """,
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    lines = job.output().splitlines()
    assert lines.count(ALL) == 4, job.output()
    assert [line for line in lines if line.startswith(("RUN", "HEAD"))] == [
        "RUN 3",
        "RUN 0",
        "HEAD 4",
        "HEAD 0",
    ]
    assert sorted(path.name for path in (record(slurm.bed, job) / "earlier").iterdir()) == ["3"]
    slurm.assert_nothing_left()


def test_two_named_clusters_in_one_job(slurm: Slurm) -> None:
    run = "srun --overlap --ntasks-per-node=1 --cpu-bind=none --mem=4000 raycluster run"
    job = batch(
        slurm,
        f"""
        {run} --name left -- {driver(0, "--sleep", 2)} & left=$!
        {run} --name right -- {driver(6, "--sleep", 2)} & right=$!
        wait $left; echo "LEFT $?"
        wait $right; echo "RIGHT $?"
        """,
        user="alice",
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert output.splitlines().count(ALL) == 2, output
    assert "LEFT 0" in output
    assert "RIGHT 6" in output
    left, right = (read(record(slurm.bed, job, name=name) / "head.json") for name in ("left", "right"))
    assert left and right
    assert left["port"] != right["port"]
    assert left["identity"] != right["identity"]
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_a_requeued_job_starts_afresh(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"""
        if [[ -z $SLURM_RESTART_COUNT ]]; then
            {SRUN} raycluster run -- bash -c 'scontrol requeue $SLURM_JOB_ID; sleep 600'
        fi
        {SRUN} raycluster run -- {driver(0)}
        """,
        "--requeue",
        "--open-mode=append",
    )

    def restarted() -> bool:
        return job.show()[0]["Restarts"] == "1"

    wait_until(restarted, timeout_s=90, what="the requeue")
    # Slurm lets a requeued job wait for two minutes; a test does not.  In the second of the requeue itself
    # the nodes would refuse it ("Job credential revoked").
    wait_until(lambda: job.state() == "PENDING", timeout_s=60, what="the job back in the queue")
    slurm.run(LOGIN, ["scontrol", "update", f"JobId={job.id}", "StartTime=now+2seconds"], check=True)
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    assert ALL in job.output()
    first, second = (read(record(slurm.bed, job, restart) / "end.json") for restart in (0, 1))
    assert first and first["exit_code"] == 143
    assert second and second["exit_code"] == 0
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_several_tasks_on_a_node_make_one_ray_node(slurm: Slurm) -> None:
    job = slurm.sbatch(
        f"srun --ntasks-per-node=3 --cpu-bind=none --mem=0 raycluster run -- {driver(0)}",
        *("--nodes=3", "--ntasks-per-node=3", "--exclusive", "--mem=0"),
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert ALL in output
    assert output.count("the first joins for the whole node, the others wait for its end") == 3
    slurm.assert_nothing_left()


@pytest.mark.parametrize("where", ["--exclude=n1", "--relative=1"])
@pytest.mark.versions
def test_a_step_smaller_than_the_job_and_not_on_its_first_node(slurm: Slurm, where: str) -> None:
    job = batch(slurm, f"{SRUN} -N2 -n2 {where} raycluster run -- {driver(5)}")
    assert job.wait() == JobEnd("FAILED", 5, 0), job.output()
    assert "NODES n2 n3\n" in job.output()
    assert "this step has 2 of the 3 nodes" in job.output()
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_the_shell_of_salloc(slurm: Slurm) -> None:
    """On this bed, as on most clusters, it runs on the login host, which is no node of the job."""
    script = f"""
        raycluster head -- {driver(0)}; echo "HEAD $?"
        raycluster worker; echo "WORKER $?"
        raycluster run -- {driver(0)}; echo "RUN $?"
        {SRUN} raycluster run -- {driver(9)}; echo "SRUN $?"
        srun -N1 -n1 --mem=4000 --nodelist=n2 raycluster head -- {driver(8)} & head=$!
        srun -N2 -n2 --mem=4000 --exclude=n2 raycluster worker
        wait $head; echo "STEPS $?"
    """
    done = slurm.run(
        LOGIN,
        ["salloc", "--nodes=3", "--ntasks-per-node=1", "--exclusive", "--mem=0", "bash", "-c", script],
        user="alice",
        timeout_s=120,
    )
    said = done.stdout + done.stderr
    assert "`raycluster head` was started on login, which is not a node of job" in said
    assert "`raycluster worker` was started on login, which is not a node of job" in said
    assert "in a batch script or shell, not in an srun task" in said
    words = [
        line
        for line in done.stdout.splitlines()
        if line.startswith(("HEAD", "WORKER", "RUN", "SRUN", "STEPS"))
    ]
    assert words == ["HEAD 2", "WORKER 2", "RUN 2", "SRUN 9", "STEPS 8"], said
    assert done.stdout.splitlines().count(ALL) == 2, said
    slurm.assert_nothing_left()


def test_a_second_head_is_refused_and_the_first_goes_on(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"""
        {SRUN} raycluster run -- {driver(0, "--sleep", 600)} & run=$!
        until grep -q NODES $HOME/second.out; do sleep 0.2; done
        raycluster head --expected-workers 0 -- {driver(0)}; echo "SECOND $?"
        squeue --noheader --steps --jobs $SLURM_JOB_ID --format="STEP %i"
        raycluster stop $SLURM_JOB_ID
        wait $run; echo "FIRST $?"
        """,
        "--output=/home/admin/second.out",
    )
    assert job.wait() == JobEnd("COMPLETED", 0, 0), job.output()
    output = job.output()
    assert "SECOND 2" in output
    assert f"STEP {job.id}.0\n" in output.partition("SECOND 2")[2]
    assert "FIRST 143" in output
    line = line_with("this job already has a head", output)
    assert "on n1" in line
    assert "--name" in line
    slurm.assert_nothing_left()


ON_THE_HEAD = """bash -c '[ $SLURM_PROCID != 0 ] || export RAYCLUSTER_TEMP_DIR=/proc; exec "$0" "$@"'"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param("raycluster run -- nopey", "the driver 'nopey' was not found in PATH", id="driver"),
        pytest.param(
            "raycluster run --master-port 6818 -- true",
            "port 6818, given as the GCS port, is in use by",
            id="port",
        ),
        pytest.param(f"{ON_THE_HEAD} raycluster run -- true", "files below /proc", id="directory"),
    ],
)
def test_a_head_that_comes_to_nothing_ends_its_workers(slurm: Slurm, command: str, message: str) -> None:
    """With srun as it comes nothing else ends the other tasks before their --timeout of 300 s."""
    job = batch(slurm, f"exec srun --mem=0 {command}")
    assert job.wait() == JobEnd("FAILED", 2, 0), job.output()
    assert message in line_with("raycluster: error", job.output())
    slurm.assert_nothing_left()


def test_a_worker_that_comes_when_all_is_over_ends_at_once(slurm: Slurm) -> None:
    end = "$HOME/.raycluster/bed/$SLURM_JOB_ID/end.json"
    late = f"""bash -c 'until [ $SLURM_PROCID != 2 ] || [ -e {end} ]; do sleep 0.2; done; exec "$0" "$@"'"""
    job = batch(slurm, f"exec srun --mem=0 {late} raycluster run --min-workers 1 --settle 0 -- true")
    assert job.wait(timeout_s=60) == JobEnd("COMPLETED", 0, 0), job.output()
    assert "starting with 1 of 2 workers" in job.output()
    assert read(record(slurm.bed, job) / "nodes/n3.json")["message"].startswith("the cluster ended")  # type: ignore[index]
    slurm.assert_nothing_left()


def test_a_worker_that_cannot_join_ends_the_cluster_with_its_reason(slurm: Slurm) -> None:
    on_a_worker = ON_THE_HEAD.replace("!= 0", "!= 1")
    job = batch(slurm, f"exec srun --mem=0 {on_a_worker} raycluster run -- true")
    assert job.wait() == JobEnd("FAILED", 4, 0), job.output()
    assert "n2: cannot keep Ray's files below /proc" in line_with("1 worker of 2 cannot join", job.output())
    slurm.assert_nothing_left()


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.versions
def test_a_task_that_ends_before_raycluster_runs_in_it_is_noticed(slurm: Slurm, rank: int) -> None:
    """Nobody there can say a word; Slurm is asked whether the silent ones are still there."""
    task = f"""bash -c '[ $SLURM_PROCID != {rank} ] || exit 127; exec "$0" "$@"'"""
    job = batch(slurm, f"exec srun --mem=0 {task} raycluster run -- true")
    assert job.wait() == JobEnd("FAILED", 127, 0), job.output()
    assert f"n{rank + 1}" in line_with("ended before raycluster ran in it", job.output())
    slurm.assert_nothing_left()


@pytest.mark.versions
def test_workers_of_their_own_step_end_when_their_head_came_to_nothing(slurm: Slurm) -> None:
    script = """
        srun --overlap --mem=0 -N2 -n2 --relative=1 raycluster worker --master-ip n1 & workers=$!
        nodes=$HOME/.raycluster/bed/$SLURM_JOB_ID/nodes
        until grep -q waiting $nodes/n2.json && grep -q waiting $nodes/n3.json; do sleep 0.2; done
        raycluster head --expected-workers 2 -- nopey; echo "HEAD $?"
        wait $workers; echo "WORKERS $?"
        """
    job = batch(slurm, script)
    job.wait()
    assert "HEAD 2" in job.output()
    assert "WORKERS 0" in job.output()
    slurm.assert_nothing_left()


def test_a_second_run_is_refused_with_all_of_its_tasks(slurm: Slurm) -> None:
    job = batch(
        slurm,
        f"""
        {SRUN} --overlap raycluster run -- {driver(0, "--sleep", 600)} & run=$!
        until grep -q NODES $HOME/second.out; do sleep 0.2; done
        {SRUN} --overlap raycluster run -- true; echo "SECOND $?"
        raycluster stop $SLURM_JOB_ID
        wait $run; echo "FIRST $?"
        """,
        "--output=/home/admin/second.out",
    )
    job.wait()
    assert "SECOND 2" in job.output()
    assert "FIRST 143" in job.output()
    assert "this job already has a head" in job.output()
    slurm.assert_nothing_left()


def test_a_cluster_without_driver_stays_until_scancel(slurm: Slurm) -> None:
    job = batch(slurm, f"exec {SRUN} raycluster run")
    job.wait_for("3 nodes ready")
    began = time.monotonic()
    job.cancel()
    job.wait()
    assert time.monotonic() - began < 20
    end = read(record(slurm.bed, job) / "end.json")
    assert end and end["exit_code"] == 143
    slurm.assert_nothing_left()
