#!/usr/bin/env bash
# Makes a virtual environment and installs Flowbrush into it, editable. Usage: setup.sh PYTHON VENV run|dev
# Says plainly what is missing: the right Python, its venv module, or a system library that Qt needs.
set -euo pipefail
python=$1 venv=$2 kind=$3
started=$SECONDS

stop() {
  printf '\n%s\n' "$@" >&2
  exit 1
}

command -v "$python" >/dev/null || stop "Python is not installed." "Install Python 3.11 or newer (Debian: apt-get install python3 python3-venv)."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  stop "Flowbrush needs Python 3.11 or newer; $python is $("$python" -V 2>&1)." "Install a newer Python and run: make PYTHON=python3.12 ..."

if [ ! -x "$venv/bin/python" ]; then
  "$python" -m venv "$venv" || stop "Python's venv module is missing." "Install it (Debian: apt-get install python3-venv) and try again."
fi
echo "Installing into $venv (about a minute on a fast line) ..."
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install "$(sed -nE 's/^ *"(torch==[^"]+)".*/\1/p' pyproject.toml)"
pip install --upgrade "setuptools>=77"
if [ "$kind" = dev ]; then
  pip install --no-build-isolation -e '.[dev]'
else
  pip install --no-build-isolation -e .
fi

if ! problem=$("$venv/bin/python" -c 'import PySide6.QtGui, PySide6.QtWidgets' 2>&1); then
  library=$(sed -nE 's/.*(lib[^ :]+\.so[^ :]*).*/\1/p' <<<"$problem" | tail -n 1)
  packages="libegl1 libgl1 libxkbcommon-x11-0 libdbus-1-3 libfontconfig1 libxcb-cursor0"
  if [ -n "${CI:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null
  else
    stop "The window toolkit (Qt) cannot start: ${library:-a system library} is missing." \
      "Install it (Debian and Ubuntu: sudo apt-get install $packages) and try again." \
      "Without it generate, transform, fill and the service work: $venv/bin/flowbrush generate --help"
  fi
fi
echo "Installed in $((SECONDS - started)) s."
