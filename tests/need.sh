#!/bin/sh
# need.sh PACKAGE...   installs those Debian packages that are missing (as root,
# with apt-get), or names them. On other systems it does nothing, and the compiler
# names the header that is missing; but where BearSSL is no package, it says what
# else will do.
set -u
if ! command -v dpkg-query >/dev/null; then
    case " $* " in *" libbearssl-dev "*) ;; *) exit 0 ;; esac
    echo '#include <bearssl.h>' | ${CC:-cc} ${CFLAGS:-} -E - >/dev/null 2>&1 && exit
    echo "bearssl.h is missing, and only Debian and its like have a package of it:" \
        "on RHEL, Rocky, Oracle and Amazon Linux compile the standalone file" \
        "(dnf install gcc libcurl-devel make; keyring_aws-server(7) says how)." >&2
    exit 1
fi
exec 9<"$0" && flock 9              # make may ask for several lists at once
missing=
for package; do
    case " $(dpkg-query -W -f '${db:Status-Status} ' "$package" 2>/dev/null)" in
    *" installed "*) ;;                 # and not: not-installed
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
