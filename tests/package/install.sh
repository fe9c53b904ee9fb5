#!/bin/sh
# install.sh install|uninstall   installs the built files, or removes them. DESTDIR,
# PREFIX and PLUGIN_DIR in the environment say where. A path that may be a mistake
# is refused before anything is written.
set -eu
cd "$(dirname "$0")/../.."

refuse() {
    echo "$1: nothing was changed" >&2
    exit 2
}

for name in PREFIX PLUGIN_DIR; do
    eval "place=\$$name"
    case $place in
    /*) ;;
    *) refuse "$name='$place' has to begin with '/'" ;;
    esac
done
line='
'
case $PREFIX in                     # it is written into a file for pkg-config
*[\"\'\\\$\#\`]* | *"$line"*)
    refuse "PREFIX='$PREFIX' has a character that pkg-config cannot read" ;;
esac

# What is laid where: each line is one file, and the name that it gets.
included=$DESTDIR$PREFIX/include/keyring_aws.h
found=$DESTDIR$PREFIX/share/pkgconfig/keyring_aws.pc
shown=$DESTDIR$PREFIX/share/doc/keyring_aws/examples
loaded=$DESTDIR$PLUGIN_DIR/keyring_aws.so
linked=$DESTDIR$PLUGIN_DIR/component_keyring_aws.so     # to the one above
set -- "$1" "$included" "$found" "$loaded" "$linked"
for page in tests/package/man/*.md; do
    page=${page##*/}
    set -- "$@" "$DESTDIR$PREFIX/share/man/man7/${page%.md}.7"
done
for example in tests/package/examples/*; do
    set -- "$@" "$shown/${example##*/}"
done
verb=$1
shift
for place; do
    [ ! -d "$place" ] || refuse "'$place' is a folder"
done

if [ "$verb" = uninstall ]; then
    rm -f -- "$@"
    rmdir -- "$shown" "${shown%/*}" 2> /dev/null || :   # others may have files there
    exit
fi
awk '{ if (at = index($0, "@PREFIX@"))
           $0 = substr($0, 1, at - 1) ENVIRON["PREFIX"] substr($0, at + 8)
       sub(/@VERSION@/, ENVIRON["VERSION"]); print }' \
    tests/package/keyring_aws.pc.in > build/keyring_aws.pc
lay="install -D -m 644 --"
$lay keyring_aws.h "$included"
$lay build/keyring_aws.pc "$found"
for place; do
    case $place in
    *.7) $lay "build/man/${place##*/}" "$place" ;;
    "$shown"/*) $lay "tests/package/examples/${place##*/}" "$place" ;;
    esac
done
$lay build/keyring_aws.so "$loaded"
ln -sf keyring_aws.so "$linked"
