"""The chart: valid manifests whose ports, labels, selectors and environment agree, and values that cannot be wrong."""

from typing import Any

import kubernetes_validate
import pytest
import yaml

from helm.generate import SCHEMA, schema
from service.settings import Settings
from tests.helm import engine
from tests.helm.chart import CLAIM, IMAGE, INSTALLATIONS, of_kind, rendered

KUBERNETES = "1.32"
CUSTOM = {"ScaledObject", "ServiceMonitor", "PrometheusRule"}  # of operators; Kubernetes has no schema of them

every_installation = pytest.mark.parametrize("installation", INSTALLATIONS)


def pods(installation: str) -> list[dict[str, Any]]:
    """Every pod template: labels and spec."""
    templates = [d["spec"]["template"] for kind in ("Deployment", "Job") for d in of_kind(installation, kind)]
    return templates + of_kind(installation, "Pod")


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def gateway(installation: str) -> dict[str, Any]:
    (found,) = [d for d in of_kind(installation, "Deployment") if d["metadata"]["name"] == "pictures-darkroom"]
    return found


def environment(installation: str) -> dict[str, str]:
    """What the gateway's settings will read."""
    (container,) = [
        c for c in gateway(installation)["spec"]["template"]["spec"]["containers"] if c["name"] == "gateway"
    ]
    return {entry["name"]: entry["value"] for entry in container["env"]}


def selected(installation: str, selector: dict[str, str]) -> list[dict[str, Any]]:
    return [pod for pod in pods(installation) if selector.items() <= pod["metadata"]["labels"].items()]


def port_names(found: list[dict[str, Any]]) -> set[str]:
    return {port["name"] for pod in found for c in containers(pod) for port in c.get("ports", [])}


@every_installation
def test_helm_lints(installation: str) -> None:
    report = engine.there(engine.lint, INSTALLATIONS[installation])
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@every_installation
def test_every_manifest_is_valid(installation: str) -> None:
    for manifest in rendered(installation):
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@every_installation
def test_selectors_find_pods_and_ports(installation: str) -> None:
    for service in of_kind(installation, "Service"):
        found = selected(installation, service["spec"]["selector"])
        assert len(found) == 1
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= port_names(found)
    for policy in of_kind(installation, "NetworkPolicy"):
        found = selected(installation, policy["spec"]["podSelector"]["matchLabels"])
        assert len(found) == 1
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= port_names(found)
    for budget in of_kind(installation, "PodDisruptionBudget"):
        assert len(selected(installation, budget["spec"]["selector"]["matchLabels"])) == 1
    for monitor in of_kind(installation, "ServiceMonitor"):
        services = [
            s
            for s in of_kind(installation, "Service")
            if monitor["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
        ]
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= {
            p["name"] for s in services for p in s["spec"]["ports"]
        }
    for deployment in of_kind(installation, "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()


@every_installation
def test_what_is_scaled_exists_and_sets_no_replicas_itself(installation: str) -> None:
    scalers = of_kind(installation, "HorizontalPodAutoscaler") + of_kind(installation, "ScaledObject")
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"]["name"] == gateway(installation)["metadata"]["name"]
    assert ("replicas" in gateway(installation)["spec"]) == (not scalers)


@every_installation
def test_the_environment_makes_settings(installation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = environment(installation)
    assert {name.removeprefix("DARKROOM_").lower() for name in variables} <= set(Settings.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.engine == INSTALLATIONS[installation].get("engine", "embedded")
    mounts = {
        m["mountPath"]
        for pod in [gateway(installation)["spec"]["template"]]
        for m in pod["spec"]["containers"][0]["volumeMounts"]
    }
    assert str(settings.cache_dir) in mounts
    assert ("/models" in mounts) == (str(settings.model_repository) == "/models")


@every_installation
def test_a_pod_outlives_its_drain(installation: str) -> None:
    drain = float(
        environment(installation).get("DARKROOM_DRAIN_SECONDS", Settings.model_fields["drain_seconds"].default)
    )
    spec = gateway(installation)["spec"]["template"]["spec"]
    pause = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > pause + drain


@every_installation
def test_no_container_is_root_or_writes_to_its_image(installation: str) -> None:
    for pod in pods(installation):
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["automountServiceAccountToken"] is False
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes


def test_a_sidecar_shares_memory_and_a_separate_triton_does_not() -> None:
    def shares(installation: str) -> list[bool]:
        spec = gateway(installation)["spec"]["template"]["spec"]
        return ["/dev/shm" in {m["mountPath"] for m in c["volumeMounts"]} for c in spec["containers"]]

    assert shares("triton-sidecar") == [True, True]
    assert shares("triton-separate") == [False]
    assert environment("triton-sidecar")["DARKROOM_TRITON_URL"] == "127.0.0.1:8001"
    (service,) = [s for s in of_kind("triton-separate", "Service") if s["metadata"]["name"].endswith("-triton")]
    port = next(p["port"] for p in service["spec"]["ports"] if p["name"] == "grpc")
    assert environment("triton-separate")["DARKROOM_TRITON_URL"] == f"{service['metadata']['name']}:{port}"


def test_jobs_outlive_the_pod_and_have_one_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_JOBS_DIR", environment("jobs")["DARKROOM_JOBS_DIR"])
    deployment = gateway("jobs")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    pod = deployment["template"]["spec"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["mountPath"] == str(Settings().jobs_dir)]
    (volume,) = [v for v in pod["volumes"] if v["name"] == mount["name"]]
    (claim,) = of_kind("jobs", "PersistentVolumeClaim")
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not of_kind("kept-jobs", "PersistentVolumeClaim")
    (kept,) = [v for v in gateway("kept-jobs")["spec"]["template"]["spec"]["volumes"] if v["name"] == "jobs"]
    assert kept["persistentVolumeClaim"] == {"claimName": "mine"}
    assert "DARKROOM_JOBS_DIR" not in environment("default")


def test_the_schema_knows_every_setting() -> None:
    assert SCHEMA.read_text() == schema(), "run python -m helm.generate"


def test_the_chart_is_of_this_version() -> None:
    import service

    assert yaml.safe_load((engine.CHART / "Chart.yaml").read_text())["appVersion"] == service.__version__


@pytest.mark.parametrize(
    "values",
    [
        {"engine": "tensorrt"},
        {"gateway": {"replicas": 0}},
        {"gateway": {"settings": {"max_concurency": 4}}},
        {"gateway": {"settings": {"max_concurrency": 0}}},
        {"gateway": {"settings": {"engine": "triton"}}},
        {"gatway": {}},
        {"engine": "triton"},
        {"engine": "triton", "triton": {"image": IMAGE | {"tag": ""}}},
        {"triton": {"sharedMemory": "lots"}},
        {"modelRepository": {"source": "pvc"}},
        {"modelRepository": {"source": "image"}},
        {"modelRepository": CLAIM | {"path": "../other"}},
        {"compile": {"enabled": True, "image": IMAGE}},
        {"autoscaling": {"kind": "hpa", "queuedSeconds": 0}},
        {"ingress": {"enabled": True, "host": ""}},
        {"service": {"port": 70000}},
        {"jobs": {"enabled": True}, "gateway": {"replicas": 2}},
        {"jobs": {"enabled": True}, "autoscaling": {"kind": "hpa"}},
        {"jobs": {"enabled": True, "size": "much"}},
        {"gateway": {"settings": {"jobs_dir": "/jobs"}}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"values"):
        engine.there(engine.render, values)
