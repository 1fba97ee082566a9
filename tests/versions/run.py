"""`make versions`: run the checks on several versions of vLLM, and write docs/compatibility-vllm.md.

python -m tests.versions.run                  # the versions of `VERSIONS`
python -m tests.versions.run 0.28.0 0.20.2    # these alone; the table keeps what is known of the others
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.real import install as real
from tests.versions import install, report

# The newest, whose wheel is for CUDA alone; the newest that `make test` tries too; the oldest that is promised; some between.
VERSIONS = ("0.33.0", real.VERSION, "0.28.0", "0.24.0", "0.20.2", "0.17.1", install.OLDEST)
RESULTS = Path("build/versions")
PAGE = Path("docs/compatibility-vllm.md")
CHECKS = Path(__file__).with_name("test_checks.py")


def main() -> int:
    """Build and check each version; a version that fails does not stop the others."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    codes = [_check(version) for version in sys.argv[1:] or VERSIONS]
    PAGE.write_text(report.page(RESULTS, VERSIONS), encoding="utf-8")
    print(f"{PAGE} is written")
    return int(any(codes))


def _check(version: str) -> int:
    results = RESULTS / f"{version}.json"
    results.unlink(missing_ok=True)
    try:
        install.install(version)
    except real.InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        results.write_text(json.dumps({report.INSTALL: {"outcome": "fails", "said": str(error)}}))
        return 1
    environment = {
        **os.environ,
        "VLLM_MAGIC_VERSION": version,
        "VLLM_MAGIC_VERSIONS": str(RESULTS.resolve()),
    }
    return subprocess.run([sys.executable, "-m", "pytest", str(CHECKS)], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
