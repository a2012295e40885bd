# Shared by scripts/bothends, scripts/test and .ci/run; read with `source`, never run.
#
# Makes and finds the Python environment of this checkout. The strategy:
# - An environment is good when the stamp in it, which is written last, equals the stamp wanted
#   now: the path of the checkout and the whole of pyproject.toml. So an interrupted set-up, a
#   moved checkout and a changed dependency all show, and looking costs no process. A new Python
#   shows by itself: bin/python points to the versioned interpreter, which an upgrade removes.
# - One set-up at a time: whoever finds no good environment takes a lock in it and looks again.
# - `run` is what bothends needs, `dev` is that and what the tests and checks need.
#
# Callers set `name`, for messages, and use `root`, `environment` and the functions
# use_environment, create_environment, apt_install, say and fail.

# shellcheck shell=bash disable=SC2034,SC2154 # `environment` is for the caller, `name` is its own
readonly python_minimum=3.11

script=${BASH_SOURCE[1]}
[[ -L $script ]] && script=$(readlink -f -- "$script")
[[ $script == */* ]] || script=./$script
root=$(CDPATH='' cd -P -- "${script%/*}/.." && printf '%s' "$PWD")
stamp="$root"$'\n'"$(<"$root/pyproject.toml")"
environment=

# Where an environment may be: in the checkout, or in the user's cache if that may not be written.
places=("$root/.venv")
cache=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
[[ $cache == /* ]] && places+=("$cache/bothends/environment${root//\//_}")

say() {
  printf '%s: %s\n' "$name" "$*" >&2
}

fail() {
  say "$@"
  exit 1
}

# use_environment run|dev: sets `environment`, making one where none is good.
use_environment() {
  local place
  for place in "${places[@]}"; do
    if is_good "$place" "$1"; then
      environment=$place
      return
    fi
  done
  for place in "${places[@]}"; do
    if mkdir -p -- "$place" 2>/dev/null && [[ -w $place ]]; then
      make_environment "$place" "$1"
      is_good "$place" "$1" || fail "could not finish its Python environment in $place (disk full?)"
      environment=$place
      return
    fi
  done
  fail "may write neither in $root nor in a cache directory of this user, so it has no place for" \
    "its Python environment; set XDG_CACHE_HOME to a directory that may be written."
}

# is_good PLACE run|dev
is_good() {
  [[ -x $1/bin/python && -r $1/stamp-$2 && $(<"$1/stamp-$2") == "$stamp" ]]
}

# make_environment PLACE run|dev: under the lock; another set-up may have done it meanwhile.
make_environment() {
  local place=$1 want=$2 lock
  exec {lock}>>"$place/lock"
  if ! flock --nonblock "$lock"; then
    say "waits for another set-up of $place to end"
    flock "$lock"
  fi
  if ! is_good "$place" "$want"; then
    # The umask lets other users run what root made; the rest keeps a user's Python settings out.
    (
      umask 022
      unset PYTHONHOME PYTHONPATH
      export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1
      fill_environment "$place" "$want"
    ) </dev/null || exit 1
  fi
  exec {lock}>&-
}

# fill_environment PLACE run|dev: leaves a stamped environment, or says why not and exits.
fill_environment() {
  local place=$1 want=$2 log=$1/set-up.log extras='' made_here=
  [[ $want == dev ]] && extras='[dev]'
  [[ -r $place/stamp-run ]] && read -r made_here <"$place/stamp-run"
  rm -f -- "$place"/stamp-*
  : >"$log"
  # One that was whole, of this very checkout, is brought up to date in place: that is quicker,
  # and agents that run in it go on.
  [[ $made_here != "$root" ]] || say "brings its Python environment in $place up to date"
  if [[ $made_here != "$root" ]] ||
    ! install_packages "$place" --editable "$root$extras" >>"$log" 2>&1; then
    say "makes its Python environment in $place (once; well under a minute as a rule)"
    create_environment "$place" "$log"
    install_packages "$place" --editable "$root$extras" >>"$log" 2>&1 ||
      fail "could not install the Python packages it needs; is the network up?" \
        "pip says \"$(grep -o 'ERROR: .*' "$log" | tail -n 1)\", and more in $log."
  fi
  for want in run ${extras:+dev}; do
    printf '%s\n' "$stamp" >"$place/stamp-$want"
  done
}

# create_environment PLACE LOG: makes an environment without packages, by whatever way this
# machine has, in the place of what was there; says what to install and exits where there is none.
create_environment() {
  local place=$1 log=$2 reach python found=() open=()
  while read -r reach python; do
    found+=("$python")
    [[ $reach == all ]] && open+=("$python")
  done < <(interpreters)
  # An interpreter that only this user can reach comes last, after asking apt-get for more.
  try_interpreters "$place" "$log" "${open[@]}" && return
  if ((EUID == 0)) && command -v apt-get >/dev/null &&
    { [[ ! -e /usr/bin/python3 ]] || [[ " ${open[*]} " == *' /usr/bin/python3'* ]]; }; then
    say 'installs the Debian package python3-venv'
    apt_install python3-venv >>"$log" 2>&1 || true
    while read -r _ python; do
      try_interpreters "$place" "$log" "$python" && return
    done < <(interpreters)
  fi
  try_interpreters "$place" "$log" "${found[@]}" && return
  ((${#found[@]})) ||
    fail "needs Python $python_minimum or newer, and this machine has none: install it" \
      "(on Debian 12 or newer, as root: apt-get install python3-venv), then run this again."
  fail "can make no Python environment here, because Python's ensurepip is missing and there is" \
    "neither pip (22.3 or newer) nor uv: as root run 'apt-get install python3-venv', then this again."
}

# interpreters: one line for each Python that is new enough: `all` or `some`, whether every user
# can reach it or not, and its real path. Debian's own comes first.
interpreters() {
  local candidate
  {
    printf '%s\n' /usr/bin/python3 /usr/local/bin/python3
    compgen -G '/usr/bin/python3.[0-9][0-9]' || true
    compgen -G '/usr/local/bin/python3.[0-9][0-9]' || true
    type -aP python3 || true
  } | while read -r candidate; do
    [[ -x $candidate ]] && "$candidate" -I -c "$describe_interpreter" "$python_minimum" 2>/dev/null
  done | awk '!seen[$0]++'
}

readonly describe_interpreter='
import os, sys
minimum = tuple(map(int, sys.argv[1].split(".")))
path = folder = os.path.realpath(sys.executable)
everyone = True
while folder != "/":
    everyone = everyone and bool(os.stat(folder).st_mode & 1)
    folder = os.path.dirname(folder)
if sys.version_info >= minimum:
    print("all" if everyone else "some", path)
'

# try_interpreters PLACE LOG PYTHON...: an environment with pip in it by the first Python that can,
# else one without, if there is a pip or uv outside that can fill it.
try_interpreters() {
  local place=$1 log=$2 python
  shift 2
  for python in "$@"; do
    clear_place "$place"
    "$python" -I -m venv "$place" >>"$log" 2>&1 && return
  done
  for python in "$@"; do
    clear_place "$place"
    "$python" -I -m venv --without-pip "$place" >>"$log" 2>&1 &&
      outside_installer "$place" >/dev/null && return
  done
  clear_place "$place"
  return 1
}

# clear_place PLACE: empties it but for the lock, which is held, and the log.
clear_place() {
  find "$1" -mindepth 1 -maxdepth 1 ! -name lock ! -name set-up.log -exec rm -rf -- {} +
}

# install_packages PLACE PIP-INSTALL-ARGUMENTS...
install_packages() {
  local place=$1 installer
  shift
  if [[ -x $place/bin/pip ]]; then
    "$place/bin/python" -I -m pip --quiet install "$@"
  else
    mapfile -t installer < <(outside_installer "$place")
    ((${#installer[@]})) && "${installer[@]}" "$@"
  fi
}

# outside_installer PLACE: the command, a word a line, that installs into an environment without
# pip: a pip that knows --python (22.3 or newer), or uv.
outside_installer() {
  local pip python=$1/bin/python
  while read -r pip; do
    if "$pip" --python "$python" --version >/dev/null 2>&1; then
      printf '%s\n' "$pip" --python "$python" --quiet install
      return
    fi
  done < <(compgen -G '/usr/bin/pip3' || true; type -aP pip pip3 || true)
  command -v uv >/dev/null && printf '%s\n' uv --quiet pip install --python "$python"
}

# apt_install PACKAGE...: the lists are fetched only where the install fails without.
apt_install() {
  local -a install=(
    apt-get --yes --quiet --no-install-recommends
    -o DPkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 install "$@"
  )
  export DEBIAN_FRONTEND=noninteractive
  "${install[@]}" </dev/null || { apt-get --quiet update </dev/null && "${install[@]}" </dev/null; }
}
