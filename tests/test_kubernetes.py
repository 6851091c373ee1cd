"""saved_models/kubernetes*.yaml fit the published schemas, and the other files of their folder."""

import pages
import pytest
import yaml
from shared_data import REPOSITORY

kubernetes_validate = pytest.importorskip("kubernetes_validate")

pytestmark = pytest.mark.one_stack

FOLDER = REPOSITORY / "saved_models"


@pytest.fixture(scope="module")
def resources():
    """The resources of the files, by kind."""
    text = "\n---\n".join(path.read_text() for path in sorted(FOLDER.glob("kubernetes*.yaml")))
    documents = list(yaml.safe_load_all(text))
    resources = {document["kind"]: document for document in documents}
    assert len(resources) == len(documents)
    return resources


@pytest.fixture(scope="module")
def pod(resources):
    return resources["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["containers"]
    return container


# An older version, and the newest that the package has.
@pytest.mark.parametrize("version", ["1.33", kubernetes_validate.latest_version()])
def test_each_resource_has_the_published_schema(resources, version):
    assert set(resources) == {"Deployment", "Service", "PersistentVolumeClaim", "Pod"}
    for resource in resources.values():
        # Strict: unknown fields are errors.
        kubernetes_validate.validate(resource, version, strict=True)


def test_a_wrong_field_is_an_error(resources):
    service = {**resources["Service"], "spec": {"selektor": {}}}
    with pytest.raises(kubernetes_validate.ValidationError, match="selektor"):
        kubernetes_validate.validate(service, kubernetes_validate.latest_version(), strict=True)


def test_the_server_has_the_options_of_compose(container):
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    assert container["args"] == compose["services"]["serving"]["command"]
    assert container["image"].startswith("tensorflow/serving:")


def test_the_service_leads_to_the_pods(resources, container):
    deployment = resources["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert resources["Service"]["spec"]["selector"] == labels
    # Only the cluster reaches a server without passwords.
    assert resources["Service"]["spec"].get("type", "ClusterIP") == "ClusterIP"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": 8500, "rest": 8501}
    for port in resources["Service"]["spec"]["ports"]:
        assert port["port"] == ports[port["targetPort"]]


def test_the_probes_ask_for_the_state_of_the_model(container):
    config = (FOLDER / "models.config").read_text()
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = container[name]["httpGet"]
        assert request == {"path": "/v1/models/digits", "port": "rest"}
        assert 'name: "digits"' in config
    # A replica is taken out of service long before it is restarted.
    seconds = {
        name: container[name]["periodSeconds"] * container[name]["failureThreshold"]
        for name in ("readinessProbe", "livenessProbe", "startupProbe")
    }
    assert seconds["readinessProbe"] < seconds["livenessProbe"] < seconds["startupProbe"]


def test_requests_under_way_are_answered_before_the_end(pod, container):
    command, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    # The client's default timeout, and that of the front, is a minute.
    assert 60 < int(seconds) < pod["terminationGracePeriodSeconds"]


def test_the_models_are_on_a_volume_for_reading(resources, pod, container):
    (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
    assert mount == {"name": volume["name"], "mountPath": "/models", "readOnly": True}
    claim = volume["persistentVolumeClaim"]["claimName"]
    assert claim == resources["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_memory_is_what_the_page_documents(container):
    # 2^27 pixels are decoded at the same time, with up to 11 bytes each.
    largest_request = 2**27 * 11
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert limit >= 2 * largest_request + 2**30


def test_one_pod_writes_to_the_volume(resources):
    pod = resources["Pod"]["spec"]
    (container,), (volume,) = pod["containers"], pod["volumes"]
    # The paths are those that the servers see.
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/models"}]
    claim = resources["PersistentVolumeClaim"]
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    # The pod and the replicas may be on different nodes.
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    # The Service does not lead to it.
    labels = resources["Pod"]["metadata"].get("labels", {})
    assert not resources["Service"]["spec"]["selector"].items() <= labels.items()


def test_the_commands_of_the_page_name_what_the_files_have(resources):
    commands = [words[1:] for words in pages.commands("docs/serving.md") if words[0] == "kubectl"]
    names = {
        f"{kind.lower()}/{resource['metadata']['name']}" for kind, resource in resources.items()
    }
    pod = resources["Pod"]["metadata"]["name"]
    for words in commands:
        if words[0] == "cp":
            source, target = words[1:]
            # The example's second version is not here.
            assert source == "saved_models/digits/2" or (REPOSITORY / source).exists()
            assert target.startswith((f"{pod}:/models", f"{pod}:/tmp/"))
        elif words[0] == "exec":
            assert words[1:3] == [pod, "--"]
        elif words[0] in ("wait", "rollout"):
            assert words[-1] in names
    # The volume is filled before the servers start.
    assert [words[0] for words in commands[:5]] == ["apply", "wait", "cp", "apply", "rollout"]
    applied = [words[-1] for words in commands if words[0] == "apply"]
    assert applied == ["saved_models/kubernetes_volume.yaml", "saved_models/kubernetes.yaml"]
    (rollout,) = (words for words in commands if "noah_tf.serving" in words)
    assert rollout[rollout.index("--config") + 1] == "/models/models.config"
    ((label, value),) = resources["Service"]["spec"]["selector"].items()
    assert rollout[rollout.index("--selector") + 1] == f"{label}={value}"
