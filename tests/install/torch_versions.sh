#!/usr/bin/env bash
# Builds, links, imports, runs and tests ts_infer against each torch that it supports, each in a
# virtual environment of its own: on CPU, with no CUDA toolkit.
#
#   tests/install/torch_versions.sh [VERSION...]      default: 2.13.0 2.14.1 2.15.0
#
# PYTHON: the interpreter. WORK: where the environments go; kept, so that a second run is quick.
# PYTEST: arguments for pytest; default: -q, the whole suite.
set -euo pipefail

source=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
work=${WORK:-${TMPDIR:-/tmp}/ts_infer_torch_versions}
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(2.13.0 2.14.1 2.15.0)

for version in "${versions[@]}"; do
  environment=$work/torch-$version
  bin=$environment/bin
  echo "== torch $version in $environment"
  SECONDS=0
  [ -x "$bin/python" ] || "$python" -m venv "$environment"
  "$bin/pip" install --quiet "torch==$version"
  echo "   torch installed: ${SECONDS} s"
  SECONDS=0
  "$bin/pip" install --quiet "$source[test]"
  echo "   ts_infer built and installed: ${SECONDS} s"
  # Each library resolves every symbol at load: -z now.
  "$bin/ts_infer" env
  cd "$work"
  "$bin/python" - <<'PYTHON'
import pathlib, tempfile, warnings
import torch
from ts_infer import runtime

warnings.simplefilter("ignore")
path = pathlib.Path(tempfile.mkdtemp()) / "linear.pt"
module = torch.nn.Linear(3, 2).eval()
torch.jit.script(module).save(str(path))
x = torch.randn(4, 3)
with torch.no_grad():
    torch.testing.assert_close(runtime.load(str(path), device="cpu")(x), module(x))
print("   runs, and computes what eager does")
PYTHON
  cd "$source"
  # shellcheck disable=SC2086
  "$bin/python" -m pytest ${PYTEST--q}
done
