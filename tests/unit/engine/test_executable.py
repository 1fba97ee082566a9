"""The Python of vLLM's console script, as the installers write it."""

from __future__ import annotations

import pytest

from vllm_magic.engine import executable

SCRIPT = "import sys\nfrom vllm.entrypoints.cli.main import main\n"


@pytest.mark.parametrize("name", ["python", "python3"])  # uv 0.13.9, uv 0.4.30
def test_in_a_relocatable_environment_it_is_beside_the_script(tmp_path, name):
    python = f""""$(dirname -- "$(realpath -- "$0")")"/'{name}'"""
    script = tmp_path / "environment" / "bin" / "vllm"
    script.parent.mkdir(parents=True)
    script.write_text(f"""#!/bin/sh\n'''exec' {python} "$0" "$@"\n' '''\n{SCRIPT}""")
    link = tmp_path / "vllm"
    link.symlink_to(script)
    expected = (str(script.with_name(name)),)
    assert executable.interpreter(str(link)) == executable.shebang(str(link)) == expected
