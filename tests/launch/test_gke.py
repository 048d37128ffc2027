"""launch/gke.sh against a kubectl that answers as a cluster does, and its manifest as JobSet's v1alpha2 has it."""

import re

import pytest
import yaml

from tests.support.launch_fakes import PROGRAM

FLAGS = ("--name=mmkp", "--image=example.com/mmkp:1", "--poll=0")
ASKED = (*FLAGS, "--accelerator=v5litepod-16")

KUBECTL = """
if words[0] == "apply":
    (folder / "applied.yaml").write_text(sys.stdin.read())
elif words[0] == "get":
    state = answer("states")
    sys.exit("Unable to connect to the server") if state == "unreachable" else print(state, end="")
"""

JOB_SET = {
    "apiVersion", "kind", "metadata.name", "metadata.annotations",
    "spec.failurePolicy.maxRestarts", "spec.failurePolicy.rules.name", "spec.failurePolicy.rules.action",
    "spec.failurePolicy.rules.onJobFailureReasons", "spec.failurePolicy.rules.onJobFailureMessagePatterns",
    "spec.replicatedJobs.name", "spec.replicatedJobs.replicas", "spec.replicatedJobs.template.spec",
}  # fmt: skip
"""Fields of a JobSet, as far as ours go (api/jobset/v1alpha2/jobset_types.go)."""

JOB = {
    "parallelism", "completions", "completionMode", "backoffLimit",
    "podFailurePolicy.rules.action", "podFailurePolicy.rules.onPodConditions",
    "podFailurePolicy.rules.onExitCodes.containerName",
    "podFailurePolicy.rules.onExitCodes.operator", "podFailurePolicy.rules.onExitCodes.values", "template.spec",
}  # fmt: skip
"""Fields of a batch/v1 Job."""

POD = {
    "restartPolicy", "terminationGracePeriodSeconds", "hostNetwork", "dnsPolicy", "nodeSelector",
    "containers.name", "containers.image", "containers.command", "containers.args", "containers.env.name",
    "containers.env.value", "containers.ports.containerPort",
    "containers.resources.requests", "containers.resources.limits", "containers.volumeMounts.name",
    "containers.volumeMounts.mountPath", "volumes.name", "volumes.persistentVolumeClaim.claimName",
    "volumes.emptyDir.medium",
}  # fmt: skip
"""Fields of a core/v1 PodSpec."""

WHOLE = {"metadata.annotations", "spec.replicatedJobs.template.spec", "template.spec", "nodeSelector",
         "containers.resources.requests", "containers.resources.limits"}  # fmt: skip
"""Of these, fields whose inside is free, or looked at apart."""


def fields(value, path=""):
    """The dotted names of the fields inside; items of a list share a name."""
    if isinstance(value, dict) and path not in WHOLE:
        for key, inner in value.items():
            yield from fields(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from fields(inner, path)
    else:
        yield path


def manifest(fakes, *flags: str, program=PROGRAM) -> dict:
    done = fakes.run("gke.sh", "manifest", *FLAGS, *flags, "--", *program)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def job_of(job_set: dict) -> dict:
    (replicated,) = job_set["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def test_the_manifest_has_only_fields_that_the_cluster_knows(fakes):
    job_set = manifest(fakes, "--accelerator=v5litepod-16")
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(fields(job_set)) <= JOB_SET
    assert set(fields(job_of(job_set))) <= JOB
    assert set(fields(job_of(job_set)["template"]["spec"])) <= POD
    assert "${" not in yaml.safe_dump(job_set)


def test_every_restart_counts_and_a_mistake_ends_the_run(fakes):
    """A Job's message on its failed pod ends in the rule's index; JobSet takes its own first rule that matches."""
    job_set = manifest(fakes, "--accelerator=v5litepod-16", "--restarts=3")
    job, policy = job_of(job_set), job_set["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 3 and job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # the pod failure policy needs it
    names = {container["name"] for container in job["template"]["spec"]["containers"]}

    def action(status):
        for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
            codes = rule["onExitCodes"]
            assert rule["action"] == "FailJob" and codes["operator"] == "In" and codes["containerName"] in names
            if status in codes["values"]:
                reason = "PodFailurePolicy"
                message = (
                    f"Container main for pod a/b failed with exit code {status} matching FailJob rule at index {index}"
                )
                break
        else:
            reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        for rule in policy["rules"]:
            assert re.fullmatch("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
            patterns = rule["onJobFailureMessagePatterns"]
            if reason in rule["onJobFailureReasons"] and any(re.search(each, message) for each in patterns):
                return rule["action"]
        return "RestartJobSet"

    assert action(2) == "FailJobSet"
    assert {action(status) for status in (1, 75, 76, 134, 137, 143)} == {"RestartJobSet"}
    assert manifest(fakes, "--accelerator=v5litepod-16")["spec"]["failurePolicy"]["maxRestarts"] == 50


@pytest.mark.parametrize(
    "accelerator, node, topology, hosts, chips",
    [
        ("v5litepod-16", "tpu-v5-lite-podslice", "4x4", 4, 4),
        ("v5litepod-256", "tpu-v5-lite-podslice", "16x16", 64, 4),
        ("v6e-16", "tpu-v6e-slice", "4x4", 4, 4),
        ("v5p-128", "tpu-v5p-slice", "4x4x4", 16, 4),  # named by its cores, two a chip
    ],
)
@pytest.mark.parametrize("slices", [1, 3])
def test_a_slice_has_its_hosts_and_chips(fakes, accelerator, node, topology, hosts, chips, slices):
    job_set = manifest(fakes, f"--accelerator={accelerator}", f"--slices={slices}")
    job = job_of(job_set)
    pod = job["template"]["spec"]
    assert job_set["spec"]["replicatedJobs"][0]["replicas"] == slices
    assert job["parallelism"] == job["completions"] == hosts and job["completionMode"] == "Indexed"
    selector = {"cloud.google.com/gke-tpu-accelerator": node, "cloud.google.com/gke-tpu-topology": topology}
    assert pod["nodeSelector"] == selector
    resources = pod["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"] == {"google.com/tpu": chips}
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes


@pytest.mark.parametrize("accelerator", ["v5litepod-8", "v6e-8"])
def test_eight_chips_are_one_host(fakes, accelerator):
    job = job_of(manifest(fakes, f"--accelerator={accelerator}"))
    pod = job["template"]["spec"]
    assert job["completions"] == 1 and pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x4"
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 8}


def test_the_program_gets_its_flags_as_they_were_given(fakes):
    flags = [
        "--config=configs/sft.py",
        "--workdir=/mnt/shared/my runs",
        "--config.make=\\\"&$HOME' \\1",
        "--config.x=π: #",
    ]
    (container,) = job_of(manifest(fakes, "--accelerator=v6e-16", program=flags))["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "mmkp_jax.main"] and container["args"] == flags


@pytest.mark.parametrize("ended, status", [("Completed", 0), ("Failed", 1)])
def test_babysit_waits_for_the_end_and_removes_the_job_where_asked(fakes, ended, status):
    fakes.make("kubectl", KUBECTL)
    fakes.answers("states", "", "unreachable", "", ended)
    done = fakes.run("gke.sh", "babysit", *ASKED, "--delete", "--", *PROGRAM)
    assert done.returncode == status, done.stderr
    look = ["kubectl", "get", "jobset", "mmkp", "--output=jsonpath={.status.terminalState}"]
    apply, delete = ["kubectl", "apply", "--filename=-"], ["kubectl", "delete", "jobset", "mmkp"]
    assert fakes.calls() == [apply, look, look, look, look, delete]
    applied = yaml.safe_load((fakes.folder / "applied.yaml").read_text())
    assert applied == manifest(fakes, "--accelerator=v5litepod-16")


def test_the_dry_run_prints_what_a_shell_can_run(fakes, tmp_path):
    done = fakes.run("gke.sh", "create", *ASKED, "--dry_run", "--", *PROGRAM)
    text = re.fullmatch(r"kubectl apply --filename=- <<'EOF'\n(.*)\nEOF\n", done.stdout, re.DOTALL)[1]
    assert yaml.safe_load(text) == manifest(fakes, "--accelerator=v5litepod-16")
