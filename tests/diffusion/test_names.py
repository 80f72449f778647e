"""Labels of other programs resolve to ours, and only to things that exist."""

import pytest

from service.diffusion.guidance import GUIDANCE
from service.diffusion.names import SAMPLER_LABELS, SCHEDULE_LABELS, sampler_fields, schedule_fields
from service.diffusion.options import validated
from service.diffusion.samplers import SAMPLERS
from service.diffusion.schedules import SCHEDULES


@pytest.mark.parametrize("label", SAMPLER_LABELS)
def test_every_label_names_a_sampler_with_its_options(label: str) -> None:
    fields = sampler_fields(label)
    assert fields == SAMPLER_LABELS[label]
    assert set(fields) <= {"sampler", "sampler_options", "guidance_method"}
    validated(SAMPLERS[fields["sampler"]], fields.get("sampler_options", {}), "sampler_options")
    assert fields.get("guidance_method", "cfg") in GUIDANCE


@pytest.mark.parametrize("label", SCHEDULE_LABELS)
def test_every_label_names_a_schedule(label: str) -> None:
    assert schedule_fields(label)["schedule"] in SCHEDULES


@pytest.mark.parametrize(
    ("label", "fields"),
    [
        ("DPM++ 2M Karras", {"sampler": "dpmpp_2m", "schedule": "karras"}),
        ("dpm++ 2m sde sgm uniform", {"sampler": "dpmpp_2m_sde", "schedule": "trailing"}),
        ("DPM++ 3M SDE Exponential", {"sampler": "dpmpp_3m_sde", "schedule": "exponential"}),
        ("Euler a", {"sampler": "euler_ancestral"}),
        ("Euler Align Your Steps", {"sampler": "euler", "schedule": "ays"}),
        ("dpmpp_2m_sde_gpu", {"sampler": "dpmpp_2m_sde"}),
        ("EulerDiscrete", {"sampler": "euler"}),
        ("euler_cfg_pp", {"sampler": "euler", "guidance_method": "cfg_pp"}),
        ("DDIM", {"sampler": "ddim"}),
        ("PLMS", {"sampler": "PLMS"}),
        ("", {"sampler": ""}),
    ],
)
def test_labels_people_type(label: str, fields: dict[str, str]) -> None:
    assert sampler_fields(label) == fields


def test_our_own_names_stay() -> None:
    assert [sampler_fields(name) for name in SAMPLERS] == [{"sampler": name} for name in SAMPLERS]
    assert [schedule_fields(name) for name in SCHEDULES] == [{"schedule": name} for name in SCHEDULES]
    assert schedule_fields("nope") == {"schedule": "nope"}
