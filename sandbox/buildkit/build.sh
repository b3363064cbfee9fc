#!/bin/bash
# build.sh OUT: buildkitd and buildctl from their Go module, packed as upstream packs them (bin/buildkitd, bin/buildctl). runc is not
# in it: the containers of builds run in k3s's containerd.
#
# Needs Go 1.26 or newer. GOCACHE and GOMODCACHE are respected; about two minutes cold on 2 cores.
set -euo pipefail

out=${1:?usage: build.sh OUT}
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
command -v go >/dev/null || { echo "buildkit build: go is missing: install Go 1.26" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/buildkit.XXXXXX")
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-mod=readonly -trimpath -buildvcs=false"
mkdir "$work/bin"
version=$(cd "$here" && go list -m -f '{{.Version}}' github.com/moby/buildkit)
for program in buildkitd buildctl; do
    printf '[buildkit %3ds] %s %s\n' "$SECONDS" "$program" "$version"
    (cd "$here" && go build -ldflags "-s -w -X github.com/moby/buildkit/version.Version=$version" \
        -o "$work/bin/$program" "github.com/moby/buildkit/cmd/$program")
done
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work" -cf - bin | gzip -n >"$out"
