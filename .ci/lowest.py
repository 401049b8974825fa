"""The oldest versions that pyproject.toml promises to work with, as pip's constraints: `python .ci/lowest.py`.

Not those of a developer's tools (extras dev and docs), nor of ray, whose tests are left out where it is missing.
"""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [needs for extra, needs in project["optional-dependencies"].items() if extra not in {"dev", "docs", "ray"}]
for needs in (project["dependencies"], *extras):
    for need in needs:
        if bound := re.fullmatch(r"([\w.-]+)>=([\d.]+)", need):
            print(f"{bound[1]}=={bound[2]}")
