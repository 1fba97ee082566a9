#!/usr/bin/env bash
# See that these are on the system: `system_packages.sh [venv] [numa] [gcc] [chromium]`.
# As root, where apt is: install what is missing. Otherwise: say what to install, and fail.
set -euo pipefail

python=${PYTHON:-python3}
missing=()
for need in "$@"; do
    case $need in
        venv) "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv) ;;
        numa) "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null || missing+=(libnuma1) ;;
        gcc) echo '#include <stdio.h>' | gcc -E - >/dev/null 2>&1 || missing+=(gcc libc6-dev) ;;
        chromium) command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core) ;;
        *) echo "unknown need: $need" >&2; exit 2 ;;
    esac
done
[ ${#missing[@]} -eq 0 ] && exit

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "MISSING: ${missing[*]} (Debian's names). Install them first: sudo apt-get install ${missing[*]}" >&2
    exit 1
fi
echo "system packages ${missing[*]}, with apt-get ..."
log=$(mktemp)
began=$SECONDS
if ! { apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}"; } \
        </dev/null >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    exit 1
fi
rm "$log"
echo "  done in $((SECONDS - began)) s"
