#!/bin/bash
# build.sh OUT: build the images of k3s's packaged components into one archive.
# OUT is a file (.tar, or .tar.zst to have it compressed) or a directory, which then gets
# k3s-airgap-images-amd64.tar.
#
# Needs Go 1.26 or newer and gcc (and zstd for .tar.zst):
# apt-get install -y --no-install-recommends gcc libc6-dev zstd
# and Debian's package lists (apt-get update): the package busybox is fetched, not installed.
# GOCACHE and GOMODCACHE are respected; cold about 6 minutes on 2 cores, warm a few seconds.
set -euo pipefail

out=${1:?usage: build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
if [ -d "$out" ]; then out=$out/k3s-airgap-images-amd64.tar; fi
mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")

say() { printf '[images %3ds] %s\n' "$SECONDS" "$*"; }
fail() { printf 'images build: %s\n' "$*" >&2; exit 1; }

for tool in go gcc apt-get dpkg-deb; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install -y gcc libc6-dev, and Go 1.26"
done

work=$(mktemp -d "${TMPDIR:-/tmp}/k3s-images.XXXXXX")
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-mod=readonly -trimpath -buildvcs=false"

# program MODULE_DIR PACKAGE FILE [LDFLAGS]
program() {
    say "$3: $2"
    (cd "$here/$1" && go build -ldflags "-s -w ${4:-}" -o "$work/$3" "$2")
}
program coredns github.com/coredns/coredns coredns
program metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server metrics-server \
    "-X k8s.io/client-go/pkg/version.gitVersion=v0.9.0 -X k8s.io/component-base/version.gitVersion=v0.9.0"
program local-path github.com/rancher/local-path-provisioner local-path-provisioner "-X main.VERSION=v0.0.30"

say "pause and busybox"
gcc -Os -static -s -o "$work/pause" "$here/pause/pause.c"
# Debian's static busybox crashes in name look-ups, so the dynamic one goes in with its libraries.
(cd "$work" && apt-get download -q busybox >/dev/null 2>&1) || fail "cannot fetch the package busybox: run apt-get update"
dpkg-deb -x "$work"/busybox_*.deb "$work/deb"
cp "$work/deb/bin/busybox" "$work/busybox" 2>/dev/null || cp "$work/deb/usr/bin/busybox" "$work/busybox"
mkdir "$work/lib"
LC_ALL=C ldd "$work/busybox" | awk '/=> \// { print $3 } /^[ \t]*\/lib/ { print $1 }' | while read -r library; do
    cp -L "$library" "$work/lib/"
done
[ -e "$work/lib/libc.so.6" ] || fail "busybox does not run here: its libraries were not found"
"$work/busybox" --list >"$work/busybox.applets"

say "packing"
(cd "$here/pack" && go build -o "$work/packer" .)
case $out in
*.zst)
    command -v zstd >/dev/null || fail "zstd is missing: apt-get install -y zstd"
    "$work/packer" "$work" "$work/images.tar"
    zstd -q -T0 -10 -f "$work/images.tar" -o "$out.new"
    ;;
*) "$work/packer" "$work" "$out.new" ;;
esac
mv "$out.new" "$out"
say "done: $out, $(stat -c %s "$out") bytes"
