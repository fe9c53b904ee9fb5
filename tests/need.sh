#!/bin/sh
# need.sh PACKAGE...   installs those Debian packages that are missing (as root,
# with apt-get), or names them. On other systems it does nothing, and the compiler
# names the header that is missing.
set -u
command -v dpkg-query >/dev/null || exit 0
exec 9<"$0" && flock 9              # make may ask for several lists at once
missing=
for package; do
    case $(dpkg-query -W -f '${db:Status-Status} ' "$package" 2>/dev/null) in
    *"installed "*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "These packages are missing:$missing" >&2
    echo "Install them, as root: apt-get install$missing" >&2
    exit 1
fi
echo "installing$missing"
log=$(mktemp)
{ apt-get update && DEBIAN_FRONTEND=noninteractive \
  apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
  $missing; } >"$log" 2>&1 \
  </dev/null || { tail -n 20 "$log" >&2
    echo "apt-get could not install$missing" >&2; rm -f "$log"; exit 1; }
rm -f "$log"
