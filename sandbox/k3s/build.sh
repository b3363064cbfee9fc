#!/bin/bash
# build.sh OUT: build the sandbox's k3s into the file OUT (or OUT/k3s if OUT is a directory).
#
# Needs Go 1.26 or newer, gcc, and the Debian packages libseccomp-dev, pkg-config, zstd
# (apt-get install -y --no-install-recommends gcc libc6-dev libseccomp-dev pkg-config zstd).
# GOCACHE and GOMODCACHE are respected; a cold build takes about 8 minutes on 2 cores, a warm one 20 s.
set -euo pipefail

out=${1:?usage: build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
if [ -d "$out" ]; then out=$out/k3s; fi
mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")

say() { printf '[k3s %3ds] %s\n' "$SECONDS" "$*"; }
fail() { printf 'k3s build: %s\n' "$*" >&2; exit 1; }

kubernetes=v1.36.3
containerd=$(awk '$1 == "github.com/containerd/containerd/v2" { print $2 }' "$here/bundle/go.mod")
plugins=$(awk '$1 == "github.com/containernetworking/plugins" { print $2 }' "$here/bundle/go.mod")
[ -n "$containerd" ] && [ -n "$plugins" ] || fail "bundle/go.mod does not name containerd and the CNI plugins"

for tool in go gcc pkg-config zstd tar sha256sum; do
    command -v "$tool" >/dev/null || fail "$tool is missing: apt-get install -y gcc libc6-dev libseccomp-dev pkg-config zstd, and Go 1.26"
done
pkg-config --exists libseccomp || fail "libseccomp-dev is missing: apt-get install -y libseccomp-dev"

work=$(mktemp -d "${TMPDIR:-/tmp}/k3s-build.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin"
export GOFLAGS="-mod=readonly -trimpath -buildvcs=false" GOWORK=off

say "containerd $containerd, ctr, shim, CNI plugins $plugins"
cd "$here/bundle"
c=github.com/containerd/containerd/v2
p=github.com/containernetworking/plugins/plugins
CGO_ENABLED=0 go build -ldflags "-s -w -X $c/version.Version=$containerd-sandbox -X $c/version.Package=$c" -o "$work/bin/" \
    "$c/cmd/containerd" "$c/cmd/containerd-shim-runc-v2" "$c/cmd/ctr"
CGO_ENABLED=0 go build -ldflags "-s -w -X $p/pkg/utils/buildversion.BuildVersion=$plugins" -o "$work/bin/" \
    "$p/main/bridge" "$p/main/loopback" "$p/ipam/host-local" "$p/meta/portmap"

# runc is the one program with C in it; linked statically, so that a blank host needs no library.
say "runc"
CGO_ENABLED=1 go build -tags "seccomp netgo osusergo" -ldflags "-s -w -linkmode external -extldflags=-static" \
    -o "$work/bin/runc" github.com/opencontainers/runc

say "packing the bundle"
tar -C "$work/bin" --sort=name --owner=0 --group=0 --numeric-owner --mode=0755 --mtime=@0 -cf "$work/bundle.tar" .
hash=$(sha256sum "$work/bundle.tar" | cut -d' ' -f1)
zstd -q -T0 -10 "$work/bundle.tar" -o "$work/bundle.tar.zst"

say "k3s with Kubernetes $kubernetes (the long step: minutes when the build cache is cold)"
cd "$here"
source=$(find . -type f -not -name '*_test.go' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-8)
v=k8s.io/component-base/version
CGO_ENABLED=0 go build -o "$work/k3s" -ldflags "-s -w \
    -X main.sourceID=$source \
    -X $v.gitVersion=$kubernetes+k3s.sandbox -X $v.gitMajor=1 -X $v.gitMinor=36 -X $v.gitTreeState=clean -X $v.buildDate=1970-01-01T00:00:00Z \
    -X k8s.io/client-go/pkg/version.gitVersion=$kubernetes+k3s.sandbox" .

# The layout of the trailer is described in bundle.go.
size=$(stat -c %s "$work/bundle.tar.zst")
bytes=$(printf '%016x' "$size" | sed 's/../\\x&/g')
{ cat "$work/k3s" "$work/bundle.tar.zst"; printf '%s' "$hash"; printf "$bytes"; printf 'K3SBUNDL'; } >"$out.new"
chmod 755 "$out.new"
mv "$out.new" "$out"
say "done: $out, $(stat -c %s "$out") bytes, $("$out" --version | head -1)"
