"""In what training computes."""

import torch


def autocast(device: torch.device | str) -> torch.autocast:
    """bf16 on CUDA and on CPUs with AMX; on others fp32, which their vector units multiply faster (measured)."""
    kind = torch.device(device).type
    fast = kind != "cpu" or torch.cpu.get_capabilities().get("amx_bf16", False)
    return torch.autocast(kind, torch.bfloat16, enabled=fast)
