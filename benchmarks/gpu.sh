#!/usr/bin/env bash
# Runs benchmarks/gpu.py from a bare checkout, in one call.
#
#   benchmarks/gpu.sh [--wheels FOLDER] [options of gpu.py]
#
# Needs a Python with torch (CUDA) and timm: $PYTHON, by default python3. Without internet, missing
# packages are installed from wheels in FOLDER.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if [[ ${1:-} == --wheels ]]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install -q --no-index --no-deps --target "$site" "$2"/*.whl
    export PYTHONPATH="$site:${PYTHONPATH:-}"
    shift 2
fi
missing=$("$python" - <<'EOF'
from importlib.util import find_spec
needed = ("torch", "torchvision", "timm", "pydantic", "yaml", "numpy", "scipy", "PIL", "wandb")
print(*(name for name in needed if find_spec(name) is None))
EOF
)
if [[ -n $missing ]]; then
    echo "gpu.sh: $python lacks: $missing (pip install them, or use --wheels FOLDER)" >&2
    exit 2
fi
PYTHONPATH="$PWD:${PYTHONPATH:-}" "$python" benchmarks/gpu.py "$@"
