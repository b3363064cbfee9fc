#!/bin/bash
# build.sh OUT: build a tool from its Go module and pack it as its publisher does.
# The name of OUT says which one and which version, as the publisher's own file does: helm-v4.3.1-linux-amd64.tar.gz,
# kustomize_v5.8.1_linux_amd64.tar.gz, krew-v0.5.0-linux_amd64.tar.gz, kubectx-v0.11.0.tar.gz.
#
# Needs Go 1.26 or newer. GOCACHE and GOMODCACHE are respected; each takes one to two minutes cold on 2 cores.
set -euo pipefail

out=${1:?usage: build.sh OUT}
mkdir -p "$(dirname "$out")"
out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")

say() { printf '[tools %3ds] %s\n' "$SECONDS" "$*"; }
fail() { printf 'tools build: %s\n' "$*" >&2; exit 1; }

command -v go >/dev/null || fail "go is missing: install Go 1.26"

# Module, its content's hash (as in go.sum), package, the variable that holds its version, and the program's place in
# the archive. A new version is a new line here.
name=$(basename "$out")
case $name in
helm-v4.3.1-linux-amd64.tar.gz)
    module=helm.sh/helm/v4@v4.3.1 sum=h1:UndCoLe9UPmNoL7IvWzaUXveL7T5t/ijoorEmgJdI9g=
    package=./cmd/helm variable=helm.sh/helm/v4/internal/version.version place=linux-amd64/helm
    ;;
helm-v3.22.0-linux-amd64.tar.gz)
    module=helm.sh/helm/v3@v3.22.0 sum=h1:n1if5iQgHYsujPAcO5oonH/KiSNUmqmUF0iGVjSF3AU=
    package=./cmd/helm variable=helm.sh/helm/v3/internal/version.version place=linux-amd64/helm
    ;;
kustomize_v5.8.1_linux_amd64.tar.gz)
    module=sigs.k8s.io/kustomize/kustomize/v5@v5.8.1 sum=h1:Pgsg5psubpVEy7Nf6S89PARg5VmmWUC1l9dC6Dl4PG0=
    package=. variable=sigs.k8s.io/kustomize/api/provenance.version place=kustomize
    ;;
krew-v0.5.0-linux_amd64.tar.gz)
    module=sigs.k8s.io/krew@v0.5.0 sum=h1:60yffZy8Mkif5ty13uLxxr5wzu8eY860AkeyaFyp4PY=
    package=./cmd/krew variable=sigs.k8s.io/krew/internal/version.gitTag place=krew-linux_amd64
    ;;
kubectx-v0.11.0.tar.gz)
    # Its release is its source: two shell scripts, nothing to compile.
    module=github.com/ahmetb/kubectx@v0.11.0 sum=h1:+a/jH0hrvGnOTgI8gIqyjvNxHgpv2m5cxJli/YVm6GY=
    package='' variable='' place=kubectx-0.11.0
    ;;
*) fail "$name: no such tool and version here; add it to $0" ;;
esac
version=${module#*@}

work=$(mktemp -d "${TMPDIR:-/tmp}/tools.XXXXXX")
trap 'rm -rf "$work"' EXIT
export CGO_ENABLED=0 GOWORK=off GOFLAGS="-mod=readonly -trimpath -buildvcs=false"

say "module $module"
cd "$work"
described=$(go mod download -json "$module")
field() { sed -n "s/^\t\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p" <<<"$described"; }
[ "$(field Sum)" = "$sum" ] || fail "$module has the hash $(field Sum), not $sum"
# A copy: the module cache cannot be written. The module's own go.sum fixes everything that it needs.
cp -r "$(field Dir)" "$work/source"
chmod -R u+w "$work/source"

mkdir -p "$work/tree"
if [ -n "$package" ]; then
    say "$name: $package"
    mkdir -p "$work/tree/$(dirname "$place")"
    (cd "$work/source" && go build -ldflags "-s -w -X $variable=$version" -o "$work/tree/$place" "$package")
else
    mkdir -p "$work/tree/$place"
    install -m 0755 "$work/source/kubectx" "$work/source/kubens" "$work/tree/$place/"
fi

say "packing"
# The same content gives the same archive.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$work/tree" -cf - . | gzip -n >"$out.new"
mv "$out.new" "$out"
say "done: $out, $(stat -c %s "$out") bytes"
