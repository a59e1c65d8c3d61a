# shellcheck shell=bash
# A Python with what a list of requirements names, for tests that are written in Python. Sourced after lib.sh, never run.
# Always holds: every package is pinned, comes by name from the registry that pip is set to, is installed into the
# cache and only once.

find_python() {
  for python in python3 /usr/bin/python3; do
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && return
  done
  die "Python 3.10 or newer with its venv module is missing; on Debian: apt-get install python3-venv."
}

# Prints what it says only when it fails.
# shellcheck disable=SC2154 # the folder of whoever sources this
quietly() {
  "$@" >"$scratch/log" 2>&1 </dev/null || { tail -n 20 "$scratch/log" >&2; die "\`$*\` failed, its last lines are above."; }
}

install_python() { # FOLDER REQUIREMENTS WHAT-FOR
  [[ ! -e $1/ready ]] || return 0
  say "installing what $3 need"
  rm -rf "$1"
  quietly "$python" -m venv "$1"
  quietly "$1/bin/python" -m pip install --quiet --no-deps -r "$2"
  touch "$1/ready"
}

# Sets `python` to one that has everything of a requirements file. Needs the folder `scratch`.
python_with() { # NAME REQUIREMENTS WHAT-FOR
  find_python
  local folder
  folder=$CACHE_DIR/python/$1-$({ "$python" -VV; cat "$2"; } | key_of -)
  with_lock "python-$1" install_python "$folder" "$2" "$3"
  python=$folder/bin/python
  export PYTHONDONTWRITEBYTECODE=1
}
