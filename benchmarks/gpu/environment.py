"""An environment for Triton's stub that has torch: numpy < 2 and Triton's wheel, and for the rest what runs this."""

import os
import shlex
import subprocess
import sys
import venv
from pathlib import Path

from service.errors import Unavailable

WANTED = ("numpy==1.26.4", "nvidia-pytriton==0.7.0")  # the stub corrupts arrays of numpy 2


def prepare(folder: Path) -> Path:
    """The environment, made once; PIP_ARGS are further options of pip, such as where it finds wheels."""
    ready = folder / ".ready"
    if ready.exists() and ready.read_text() == sys.executable:
        return folder
    venv.create(folder, clear=True, symlinks=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    given = shlex.split(os.environ.get("PIP_ARGS", ""))
    try:
        subprocess.run([*pip, *given, *WANTED], check=True)
    except subprocess.CalledProcessError as error:
        wheels = " and ".join(WANTED)
        raise Unavailable(f"pip cannot install {wheels}; give it their wheels by PIP_ARGS") from error
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "torch.pth").write_text("\n".join(packages) + "\n")
    ready.write_text(sys.executable)
    return folder
