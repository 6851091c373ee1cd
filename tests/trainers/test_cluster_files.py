"""The files that start training on a cluster: Kubernetes' schemas accept one, bash runs both.

No cluster is available to the tests: programs of the same names stand in for `python`, `srun` and
`scontrol`.
"""

import json
import os
import subprocess

import kubernetes_validate
import pages
import pytest
import yaml
from shared_data import REPOSITORY

from noah_tf.utils import distribute

pytestmark = pytest.mark.one_stack

JOB = REPOSITORY / "trainers" / "kubernetes_job.yaml"
SBATCH = REPOSITORY / "trainers" / "slurm.sbatch"
PAGE = "docs/cluster.md"


def resources():
    """Returns the Service and the Job."""
    return list(yaml.safe_load_all(JOB.read_text()))


def stand_in(folder, name, code):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{code}\n")
    path.chmod(0o755)


def run_bash(folder, *arguments, **environment):
    """Runs bash with the programs of a folder before all others."""
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", *arguments],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_kubernetes_accepts_the_job(version):
    for resource in resources():
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_refuse_a_wrong_job():
    _, job = resources()
    job["spec"]["completionMode"] = "Indexed"
    job["spec"]["template"]["spec"]["restartPolicies"] = "OnFailure"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def test_the_names_of_the_job_agree():
    service, job = resources()
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    workers = next(e["value"] for e in container["env"] if e["name"] == "WORKERS")
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(workers)
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    # A worker that ends with an error is started again, more often than there are workers.
    assert pod["restartPolicy"] == "OnFailure" and spec["backoffLimit"] > 10 * int(workers)
    (port,) = {p["containerPort"] for p in container["ports"]}
    assert [p["port"] for p in service["spec"]["ports"]] == [port]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("index", [0, 3])
def test_the_index_of_a_pod_makes_its_tf_config(index, tmp_path, monkeypatch):
    _, job = resources()
    (container,) = job["spec"]["template"]["spec"]["containers"]
    stand_in(tmp_path, "python", 'printf "%s\\n" "$TF_CONFIG" "$@"')
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    process = run_bash(
        tmp_path, *container["command"][1:], JOB_COMPLETION_INDEX=str(index), **environment
    )
    assert process.returncode == 0, process.stderr
    config, _, arguments = process.stdout.partition("trainers/train.py\n")
    # Kubernetes names the pods of an Indexed Job JOB-INDEX within the subdomain.
    names = [f"{job['metadata']['name']}-{i}.noah-workers:2222" for i in range(4)]
    assert json.loads(config) == {
        "cluster": {"worker": names},
        "task": {"type": "worker", "index": index},
    }
    monkeypatch.setenv("TF_CONFIG", config)
    assert distribute.workers_of_tf_config() == names
    assert "--workdir\n/runs/resnet50\n" in arguments
    recipe = arguments.split("\n")[1]
    assert (REPOSITORY / recipe.partition(":")[0]).is_file()


def sbatch(folder, status, *arguments, **environment):
    stand_in(folder, "srun", f'printf "%s\\n" $SRUN_CPUS_PER_TASK srun "$@"; exit {status}')
    stand_in(folder, "scontrol", 'echo scontrol "$@"')
    return run_bash(
        folder, str(SBATCH), *arguments, SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="64", **environment
    )


def test_sbatch_starts_one_task_on_each_node(tmp_path):
    text = SBATCH.read_text()
    assert "#SBATCH --ntasks-per-node=1\n" in text and "#SBATCH --signal=TERM@" in text
    process = sbatch(tmp_path, 0, "configs/a.py", "/runs/a b", "--config.seed=1")
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        *("64", "srun", "--ntasks-per-node=1", "python", "trainers/train.py", "--config"),
        *("configs/a.py", "--workdir", "/runs/a b", "--config.strategy=slurm", "--config.seed=1"),
    ]


@pytest.mark.parametrize(("count", "requeued"), [("0", True), ("9", True), ("10", False)])
def test_sbatch_is_requeued_after_sigterm_and_a_lost_worker(count, requeued, tmp_path):
    for status in (143, 1):
        process = sbatch(tmp_path, status, "configs/a.py", "/runs/a", SLURM_RESTART_COUNT=count)
        assert process.returncode == status
        assert ("scontrol requeue 7" in process.stdout) == requeued


def test_sbatch_without_arguments_says_what_is_missing(tmp_path):
    process = sbatch(tmp_path, 0)
    assert process.returncode > 0 and "give a recipe, such as" in process.stderr
    process = sbatch(tmp_path, 0, "configs/a.py")
    assert process.returncode > 0 and "that every node sees" in process.stderr


def test_tf_configs_of_the_page_describe_workers(monkeypatch):
    configs = [words[1] for words in pages.commands(PAGE) if words[0] == "export"]
    assert len(configs) >= 2
    for config in configs:
        name, _, value = config.partition("=")
        monkeypatch.setenv(name, value)
        assert len(distribute.workers_of_tf_config()) == 2
