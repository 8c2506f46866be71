# Sourced by the other scripts. `prepare EXTRAS` makes (or reuses) a virtual environment with the project and at least
# these extras in it, and sets VENV to its folder. FLORENCE2_SAM2_VENV chooses another folder than .venv, PYTHON another interpreter.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# The embedded server's stubs exist for many versions, but need numpy 1, which ends with Python 3.12.
find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3 python3.12 python3.11; do
    [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "Python 3.11 or 3.12 is needed and was not found. Name one with PYTHON=…"
  return 1
}

# Install system packages where that is allowed; otherwise print the line to type.
install_packages() {
  local command="apt-get install -y --no-install-recommends $*"
  if ! command -v apt-get >/dev/null; then
    say "Please install with your system's package manager what Debian calls: $*"
    return 1
  elif [ "$(id -u)" = 0 ]; then
    say "Installing $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $command -qq >/dev/null
  elif sudo -n true 2>/dev/null; then
    say "Installing $*"
    sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $command -qq >/dev/null
  else
    say "This needs an administrator. Please type, and start again:"
    say "  sudo apt-get update && sudo $command"
    return 1
  fi
}

system_packages() {
  local python=$1 version missing=()
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=("python$version-venv")
  # Triton's python stub is linked against this library, whoever built the interpreter.
  "$python" -c "import ctypes; ctypes.CDLL('libpython$version.so.1.0')" 2>/dev/null || missing+=("libpython$version")
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
}

# A Chromium for the playground's tests. Debian has it; what Ubuntu calls so is a snap, which does not run everywhere.
browser() {
  local name
  for name in chromium google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && return
  done
  if grep -qx 'ID=debian' /etc/os-release 2>/dev/null; then
    install_packages chromium
  else
    "$VENV/bin/playwright" install --only-shell chromium
  fi || say "Without a browser the playground's tests are skipped"
}

# An nginx for the tests of deploy/nginx, and a Prometheus for those of deploy/monitoring.
proxy() { unpack nginx usr/sbin/nginx "the tests of the proxy are skipped"; }
monitoring() { unpack prometheus usr/bin/promtool "most tests of rules and dashboard are skipped"; }

# `unpack PACKAGE PROGRAM WHAT`: fetch one of Debian's packages for its PROGRAM, unless the machine has it. It is only unpacked:
# installed, it would start a service on this machine. WHAT happens without it.
unpack() {
  local package=$1 program=$2 folder update="apt-get update -qq"
  [ -x "$VENV/$package/$program" ] && return
  (PATH=$PATH:/usr/sbin:/usr/local/sbin && command -v "${program##*/}" >/dev/null) && return
  say "Fetching $package into $VENV (once)"
  [ "$(id -u)" = 0 ] || update="sudo -n $update"
  folder=$(mktemp -d)
  # A fresh container has no lists of packages yet; to fetch them is an administrator's.
  (
    cd "$folder" && { apt-get download -qq "$package" || { $update && apt-get download -qq "$package"; }; } &&
      dpkg-deb -x "$package"_*.deb unpacked && rm -rf "${VENV:?}/$package" && mv unpacked "$VENV/$package"
  ) >"$folder/log" 2>&1 || { tail -n 3 "$folder/log" >&2 && say "Without $package $3"; }
  rm -rf "$folder"
}

prepare() {
  local extras=$1 extra python state stamp installed="" missing=""
  python=$(find_python) || return 1
  system_packages "$python" || return 1
  VENV=$(realpath -m "${FLORENCE2_SAM2_VENV:-.venv}")
  state=$(printf '%s ' "$PWD"; cat pyproject.toml constraints.txt | sha256sum)
  stamp="$VENV/florence2-sam2.installed" # what it was made from, and the extras
  [ "$(sed -n 1p "$stamp" 2>/dev/null)" = "$state" ] && installed=$(sed -n 2p "$stamp")
  for extra in ${extras//,/ }; do
    [[ ",$installed," == *",$extra,"* ]] || missing+=",$extra"
  done
  if [ -n "$missing" ]; then
    extras=$installed$missing
    extras=${extras#,}
    say "Setting up the environment in $VENV (once)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV" || return 1
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
      --constraint constraints.txt --editable ".[$extras]" || return 1
    printf '%s\n' "$state" "$extras" >"$stamp"
  fi
}
