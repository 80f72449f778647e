"""The chart rendered by the real Helm engine for the ways in which people install it."""

from functools import cache
from typing import Any

import yaml

from tests.helm import engine

IMAGE = {"repository": "registry.test/tritonserver", "tag": "25.10-py3"}
CLAIM = {"source": "pvc", "claim": "models"}

INSTALLATIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "demo": {"engine": "gaussian", "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
    "triton-sidecar": {"engine": "triton", "triton": {"image": IMAGE}, "modelRepository": CLAIM},
    "triton-separate": {
        "engine": "triton",
        "triton": {"placement": "separate", "replicas": 2, "image": IMAGE},
        "modelRepository": {"source": "image", "image": {"repository": "registry.test/models", "tag": "1"}},
        "gateway": {"replicas": 3, "settings": {"max_concurrency": 16, "drain_seconds": 45.5, "default_model": "sdxl"}},
        "autoscaling": {"kind": "keda", "maxReplicas": 8},
    },
    "jobs": {
        "jobs": {"enabled": True, "size": "20Gi", "storageClass": "fast"},
        "gateway": {"settings": {"jobs_keep_seconds": 3600, "otlp_endpoint": "http://collector.telemetry:4318/v1/traces"}},
        "networkPolicy": {"to": [{"namespaceSelector": {"matchLabels": {"name": "telemetry"}}}]},
    },
    "kept-jobs": {"jobs": {"enabled": True, "claim": "mine"}},
    "compile": {
        "engine": "triton",
        "triton": {"image": IMAGE, "nodeSelector": {"gpu": "l4"}, "tolerations": [{"operator": "Exists"}]},
        "modelRepository": CLAIM | {"path": "darkroom/v1"},
        "compile": {"enabled": True, "image": IMAGE},
    },
    "monitored": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
        "autoscaling": {"kind": "hpa"},
    },
    "public": {
        "ingress": {
            "enabled": True, "className": "nginx", "host": "pictures.test", "annotations": {"a.test/b": "c"},
            "tls": [{"hosts": ["pictures.test"], "secretName": "pictures"}],
        },
        "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}]},
        "serviceAccount": {"annotations": {"a.test/role": "pictures"}},
        "service": {"type": "LoadBalancer", "port": 8080},
        "gateway": {
            "podAnnotations": {"a.test/b": "c"}, "nodeSelector": {"disk": "ssd"}, "affinity": {"podAntiAffinity": {}},
        },
    },
}  # fmt: skip


@cache
def rendered(installation: str) -> list[dict[str, Any]]:
    """The manifests of an installation, the helm test included."""
    text = engine.there(engine.render, INSTALLATIONS[installation])
    documents = yaml.safe_load_all(text) if isinstance(text, str) else flatten(text)
    return [document for document in documents if document]


def flatten(templates: dict[str, str]) -> list[dict[str, Any]]:
    """Every document of every template."""
    return [
        document for name, text in templates.items() if name.endswith(".yaml") for document in yaml.safe_load_all(text)
    ]


def of_kind(installation: str, kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in rendered(installation) if manifest["kind"] == kind]
