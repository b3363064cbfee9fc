# client.sh OUT: compiles MinIO's client into the file OUT, from source as the server (see ../minio/server.sh).
set -euo pipefail

module=github.com/minio/mc
version=v0.0.0-20250313080218-cf909e1063a9
built=2025-03-13T08:02:18Z
commit=${version##*-}

command -v go >/dev/null || { echo 'go is missing: install Go 1.26 or newer' >&2; exit 1; }
flags="-s -w"
for variable in "Version=$built" "ReleaseTag=RELEASE.${built//:/-}" "CommitID=$commit" "ShortCommitID=$commit" "CopyrightYear=2025"; do
    flags="$flags -X $module/cmd.$variable"
done
echo "compiling $module $version"
GOBIN=$WORK/bin GOFLAGS="-trimpath -buildvcs=false" GOWORK=off CGO_ENABLED=0 go install -ldflags "$flags" "$module@$version"
mv "$WORK/bin/mc" "$1"
