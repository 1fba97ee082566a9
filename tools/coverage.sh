#!/usr/bin/env bash
# Run tests and write which lines and branches of the package they ran: `coverage.sh PYTHON -m pytest OPTION...`.
#
# Kernels, servers and guards are other processes. coverage's own .pth file starts it in those; the guards and the other
# processes that run with `-I -S` read none, so a copy of the package begins with it in each of them, without a change of
# the numbers of lines. What SIGKILL ends writes nothing.
set -euo pipefail

python=$1
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/coverage
copy=$out/tree
rm -rf "$out"
mkdir -p "$copy" "$out/data"
git -C "$root" ls-files -z --cached --others --exclude-standard | (cd "$root" && xargs -0 cp --parents --target-directory "$copy")
ln -s "$root/.venv" "$copy/.venv"

cat >"$out/coveragerc" <<EOF
[run]
branch = true
parallel = true
include =
    $root/vllm_magic/*
    $copy/vllm_magic/*
data_file = $out/data/c
patch = _exit
disable_warnings = no-data-collected, module-not-imported, couldnt-parse
[paths]
package =
    $root/vllm_magic
    $copy/vllm_magic
EOF
site=$("$root/$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cat >"$out/begin.py" <<EOF
import os
import sys

sys.path.append("$site")
import coverage

os.environ["COVERAGE_PROCESS_START"] = "$out/coveragerc"
coverage.process_startup()
del os.environ["COVERAGE_PROCESS_START"]
sys.path.pop()
EOF
begin="exec(open('$out/begin.py').read()) if __name__ == '__main__' else None"
sed -i "s|^import os$|import os; $begin|" "$copy/vllm_magic/guard/run.py"
for child in children/flag_watch children/watchdog gpu/nvml_child linux/disk_child; do
    sed -i "s|^from __future__ import annotations$|&; $begin|" "$copy/vllm_magic/$child.py"
done
test "$(grep -rl "$out/begin.py" "$copy/vllm_magic" | wc -l)" = 5
mkdir -p "$copy/build"
ln -s "$root/build/environments" "$copy/build/environments"

cd "$copy"
export COVERAGE_PROCESS_START=$out/coveragerc PYTHONPATH=$copy
status=0
"$root/$python" "$@" || status=$?
unset COVERAGE_PROCESS_START
cd "$root"
# The file of a process that was killed while it wrote cannot be read; the others can.
"$python" -m coverage combine --quiet --rcfile "$out/coveragerc" || true
"$python" -m coverage json --quiet --rcfile "$out/coveragerc" -o "$out/coverage.json"
"$python" -m coverage report --rcfile "$out/coveragerc" --skip-covered --sort=cover | tee "$out/report.txt"
exit "$status"
