//! Artifacts from outside: lock, cache, download, build.
