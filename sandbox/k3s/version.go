package main

import (
	"fmt"
	"runtime"

	"k8s.io/component-base/version"
)

// sourceID is the digest of the sources, set by build.sh in place of real k3s's commit.
var sourceID = "unbuilt"

// versionText has the two lines that real k3s prints. The version comes from the linker
// (v1.36.3+k3s.sandbox), so the node's kubelet version says the same.
func versionText() string {
	return fmt.Sprintf("k3s version %s (%s)\ngo version %s\n", version.Get().GitVersion, sourceID, runtime.Version())
}
