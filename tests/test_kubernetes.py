"""saved_models/kubernetes.yaml fits the published schemas, and the other files of its folder."""

import pytest
import yaml
from shared_data import REPOSITORY

kubernetes_validate = pytest.importorskip("kubernetes_validate")

pytestmark = pytest.mark.one_stack

FOLDER = REPOSITORY / "saved_models"


@pytest.fixture(scope="module")
def resources():
    """The resources of the file, by kind."""
    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in documents}


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
    assert set(resources) == {"Deployment", "Service", "PersistentVolumeClaim"}
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
