#!/bin/sh
# block.sh LINE   prints the manual's indented block that begins with a line like
# this, without its indentation: an example for those who install a package.
set -eu
awk -v start="$1" '
    !on && index($0, start) { on = 1; match($0, /^ +/); indent = RLENGTH }
    on && /^ *$/ { exit }
    on { print substr($0, indent + 1) }' "$(dirname "$0")/man/keyring_aws-server.md"
