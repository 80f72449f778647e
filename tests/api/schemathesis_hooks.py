"""What JSON Schema cannot say about a recipe, for schemathesis: fields that must agree with each other."""

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:  # noqa: ARG001
    if isinstance(case.body, dict) and case.meta and case.meta.generation.mode.is_positive:
        agree(case.body)


def agree(body: dict[str, Any]) -> None:
    """Make the values of a well-typed request consistent, in place."""
    for dependant in ("sampler_options", "schedule_options", "sigmas"):  # which exist depends on other fields
        body.pop(dependant, None)
    if body.get("schedule") == "explicit":
        body["sigmas"] = [1.0, 0.0]
        body.pop("num_inference_steps", None)
    if body.get("guidance_interval"):
        body["guidance_interval"] = [0.0, max(0.1, *body["guidance_interval"])]
    if body.get("size"):
        body.pop("width", None)
    body.pop("height", None)
    if body.get("width") not in (None, 256, 384):
        body.pop("width")
    if body.get("output_format") in (None, "png"):
        body.pop("output_compression", None)
    if body.get("seed"):
        body["seed"] = max(0, body["seed"] - 10)  # room for n
