"""What JSON Schema cannot say about a recipe, for schemathesis: fields that must agree with each other."""

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:  # noqa: ARG001
    if isinstance(case.body, dict) and case.meta and case.meta.generation.mode.is_positive:
        agree(case.body)
        if case.operation.path == "/v1/explain" and case.body.get("deadline_ms"):
            case.body["preset"] = "auto"  # nothing else looks at it there
        if "Prefer" in case.headers or "Idempotency-Key" in case.headers:
            become_a_job(case)
    if case.query and "factor" in case.query and case.meta and case.meta.generation.mode.is_positive:
        case.query.pop("sigmas", None)  # which numbers agree depends on the model
        if case.query.get("method") == "lanczos":
            case.query = {"factor": case.query["factor"], "method": "lanczos"}
        if "Idempotency-Key" in case.headers:
            case.headers["Prefer"] = "respond-async"


def become_a_job(case: schemathesis.Case) -> None:
    """A key is for jobs only, and a job has no stream."""
    case.headers["Prefer"] = "respond-async"
    for name in ("stream", "response_format"):
        case.body.pop(name, None)


def agree(body: dict[str, Any]) -> None:
    """Make the values of a well-typed request consistent, in place."""
    for name in [name for name, value in body.items() if isinstance(value, dict | list)]:
        body.pop(name)  # which options exist, and which numbers agree, depends on other fields
    if body.get("schedule") == "explicit":
        body["sigmas"] = [1.0, 0.0]
        body.pop("num_inference_steps", None)
    if body.get("size"):
        body.pop("width", None)
    body.pop("height", None)
    if body.get("width") not in (None, 256, 384):
        body.pop("width")
    body.pop("guidance_method", None)  # some need a flow model, as do some schedules
    body |= {"guidance_interval": None, "epsilon_scaling": None}  # few steps may miss those of a preset
    if body.get("guidance_scale") == 1:
        body.pop("negative_prompt", None)
    if str(body.get("schedule")).startswith("flow"):
        body.pop("schedule")
    if body.get("stream"):
        body.pop("n", None)
    else:
        body.pop("partial_images", None)
    if body.get("deadline_ms"):
        body["deadline_ms"] = 86_400_000  # long enough for a busy machine
    if body.get("output_format") in (None, "png"):
        body.pop("output_compression", None)
    if body.get("seed"):
        body["seed"] = max(0, body["seed"] - 10)  # room for n
