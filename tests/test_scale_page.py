"""What docs/scale.md shows works: commands parse, scripts are shell, files are YAML, the engine of its own converts."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tyro
from toy_converter import ToyOptions, draw_toy_source

from phiv_data.cli.convert import _parse
from phiv_data.cli.engine_options import EngineOptions, make_engine
from phiv_data.cli.validate_options import ValidateOptions
from phiv_data.convert.engine import convert
from phiv_data.engines import ArrayEngine, LocalEngine, RayEngine

PAGE = (Path(__file__).resolve().parents[1] / "docs/scale.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every call of a command that the page shows, in a block or inside a line."""
    text = PAGE.replace("$JOB_COMPLETION_INDEX", "17")
    found = re.findall(r"(?<![`\w-])(phiv-(?:convert|validate) (?:ucf101|/data)[^\n`;&]*)", text)
    return sorted({one.rstrip('"') if one.count('"') % 2 else one for one in found})


def test_the_page_shows_commands() -> None:
    assert len(commands()) == 7
    assert any("--finish" in command for command in commands())


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str) -> None:
    program, *args = shlex.split(command)
    if program == "phiv-validate":
        engine_options: EngineOptions = tyro.cli(ValidateOptions, args=args)
    else:
        engine_options = _parse(args).output
    assert isinstance(make_engine(engine_options), ArrayEngine | LocalEngine | RayEngine)


def test_every_script_is_shell(tmp_path: Path) -> None:
    scripts = blocks("sh")
    assert sum("#SBATCH" in script for script in scripts) == 1
    for script in scripts:
        (tmp_path / "script.sh").write_text(script)
        subprocess.run(["sh", "-n", str(tmp_path / "script.sh")], check=True)


def test_the_slurm_script_names_what_the_page_says() -> None:
    (script,) = (script for script in blocks("sh") if "#SBATCH" in script)
    assert script.startswith("#!/bin/sh\n#SBATCH")
    options = dict(line.removeprefix("#SBATCH --").split("=") for line in script.splitlines() if "=" in line)
    assert options["array"] == "0-255"


def test_every_file_is_yaml_with_the_parts_that_its_reader_asks_for() -> None:
    yaml = pytest.importorskip("yaml")
    files: list[dict[str, Any]] = [yaml.safe_load(text) for text in blocks("yaml")]
    job, cluster = files
    assert (job["kind"], job["apiVersion"], job["spec"]["completionMode"]) == ("Job", "batch/v1", "Indexed")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f'"$JOB_COMPLETION_INDEX/{job["spec"]["completions"]}"' in container["command"][-1]
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert cluster["max_workers"] >= cluster["available_node_types"]["worker"]["max_workers"]


def test_the_cluster_file_is_one_for_ray() -> None:
    yaml = pytest.importorskip("yaml")
    util = pytest.importorskip("ray.autoscaler._private.util")
    _, cluster = (yaml.safe_load(text) for text in blocks("yaml"))
    util.validate_config(util.prepare_config(cluster))


def test_the_engine_of_the_page_converts(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    (code,) = blocks("python")
    exec(code, names)
    source = draw_toy_source(tmp_path / "in", {"train": ["a", "b"], "val": ["c"]})
    convert(ToyOptions(source), tmp_path / "out", engine=names["Threads"]())
    convert(ToyOptions(source), tmp_path / "local", num_workers=0)
    assert (tmp_path / "out/manifest.json").read_bytes() == (tmp_path / "local/manifest.json").read_bytes()


def test_the_toml_names_the_group() -> None:
    import tomllib

    (text,) = blocks("toml")
    assert tomllib.loads(text)["project"]["entry-points"]["phiv.engines"] == {"threads": "my_package:Threads"}
