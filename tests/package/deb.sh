#!/bin/sh
# deb.sh VERSION   makes the two Debian packages in build/deb from the files that
# `make deb` has built.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
version=$1
deb=$top/build/deb
work=$deb/work
export SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$top/tests/package/debian/changelog" -S Timestamp)

rm -rf "$deb"
mkdir -p "$work"
cp -r "$top/tests/package/debian" "$work/debian"
VERSION=$version DESTDIR=$work/all PREFIX=/usr PLUGIN_DIR=/usr/lib/mysql/plugin \
    "$top/tests/package/install.sh" install

plugin=$work/keyring-aws-mysql
dev=$work/libkeyring-aws-dev
for package in "$plugin" "$dev"; do
    doc=$package/usr/share/doc/$(basename "$package")
    mkdir -p "$package/DEBIAN" "$doc"
    cp "$work/debian/copyright" "$doc/copyright"
    gzip -9nc "$work/debian/changelog" > "$doc/changelog.gz"
done
cd "$work/all"
cp --parents usr/lib/mysql/plugin/keyring_aws.so "$plugin"
cp -P --parents usr/lib/mysql/plugin/component_keyring_aws.so "$plugin"
cp --parents usr/share/man/man7/*.7 "$plugin"
cp --parents usr/include/keyring_aws.h usr/share/pkgconfig/keyring_aws.pc "$dev"
gzip -9n "$plugin"/usr/share/man/man7/*.7
strip --strip-unneeded --remove-section=.comment --remove-section=.note \
    "$plugin/usr/lib/mysql/plugin/keyring_aws.so"

cp -r usr/share/doc/keyring_aws/examples "$plugin/usr/share/doc/keyring-aws-mysql"
for script in postinst postrm triggers; do
    cp "$work/debian/keyring-aws-mysql.$script" "$plugin/DEBIAN/$script"
done
chmod 755 "$plugin/DEBIAN/postinst" "$plugin/DEBIAN/postrm"

cd "$work"
dpkg-shlibdeps -Tdebian/substvars \
    -e"$plugin/usr/lib/mysql/plugin/keyring_aws.so"
for package in "$plugin" "$dev"; do
    find "$package" -type d -exec chmod 755 {} +
    find "$package/usr" -type f -exec chmod 644 {} +
    (cd "$package" && find usr -type f -print0 | LC_ALL=C sort -z |
        xargs -0 md5sum > DEBIAN/md5sums)
    dpkg-gencontrol -p"$(basename "$package")" -P"$package" \
        -v"$version" -Tdebian/substvars -fdebian/files > "$deb/log" 2>&1
    dpkg-deb --root-owner-group --build "$package" "$deb" >> "$deb/log"
done
rm -rf "$work" "$deb/log"
ls "$deb"/*.deb
