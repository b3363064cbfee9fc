# server.sh OUT: compiles the MinIO server into the file OUT. Its makers publish no programs any more, only the source, and name
# `go install` as the way to have it. Needs Go 1.26; cold about 3 minutes on 2 cores and 2 GB of Go's module and build caches.
set -euo pipefail

module=github.com/minio/minio
version=v0.0.0-20260212201848-7aac2a2c5b7c
built=2026-02-12T20:18:48Z
commit=${version##*-}

command -v go >/dev/null || { echo 'go is missing: install Go 1.26 or newer' >&2; exit 1; }
flags="-s -w"
for variable in "Version=$built" "ReleaseTag=RELEASE.${built//:/-}" "CommitID=$commit" "ShortCommitID=$commit" "CopyrightYear=2026"; do
    flags="$flags -X $module/cmd.$variable"
done
echo "compiling $module $version"
GOBIN=$WORK/bin GOFLAGS="-trimpath -buildvcs=false" GOWORK=off CGO_ENABLED=0 go install -ldflags "$flags" "$module@$version"
mv "$WORK/bin/minio" "$1"
