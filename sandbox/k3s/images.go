package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/zstd"
)

// imageImporter brings every archive in agent/images into containerd's k8s.io namespace, and
// pins what it brought, so that the kubelet's image collection leaves it alone.
type imageImporter struct {
	layout layout
	seen   map[string]string // path -> size and time at the last look
	done   map[string]importRecord
}

// importRecord remembers an import over restarts: a file that is the same, and whose images are
// all still there, need not be read again.
type importRecord struct {
	Stamp string   `json:"stamp"`
	Refs  []string `json:"refs"`
}

func newImageImporter(l layout) *imageImporter {
	i := &imageImporter{layout: l, seen: map[string]string{}, done: map[string]importRecord{}}
	// A missing or torn record only costs one more import.
	if content, err := os.ReadFile(i.recordPath()); err == nil {
		_ = json.Unmarshal(content, &i.done)
	}
	return i
}

func (i *imageImporter) recordPath() string { return i.layout.agent("containerd", "imported.json") }

// importAll handles the archives there are. With settle, a file counts only when it has not
// changed since the last call: it may still be being copied.
func (i *imageImporter) importAll(ctx context.Context, settle bool) {
	entries, err := os.ReadDir(i.layout.images())
	if err != nil {
		log.Printf("warning: %v", err)
		return
	}
	var present []string // asked of containerd at most once a round
	for _, entry := range entries {
		path := filepath.Join(i.layout.images(), entry.Name())
		if !isArchive(path) {
			continue
		}
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		stamp := fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
		before := i.seen[path]
		i.seen[path] = stamp
		if settle && (before == stamp) == (i.done[path].Stamp == stamp) {
			continue // known and done, or new and perhaps unfinished
		}
		if settle && before != stamp {
			continue
		}
		if i.done[path].Stamp == stamp {
			if present == nil {
				present = i.presentRefs(ctx)
			}
			if len(present) > 0 && containsAll(present, i.done[path].Refs) {
				continue
			}
		}
		start := time.Now()
		refs, err := i.importFile(ctx, path)
		if err != nil {
			log.Printf("error: import of %s: %v", path, err)
			// Not tried again until the file changes.
			i.done[path] = importRecord{Stamp: stamp}
			continue
		}
		log.Printf("imported %d images from %s in %.1f s", len(refs), path, time.Since(start).Seconds())
		i.done[path] = importRecord{stamp, refs}
		if content, err := json.Marshal(i.done); err == nil {
			if err := writeFile(i.recordPath(), content, 0o600); err != nil {
				log.Printf("warning: %v", err)
			}
		}
	}
}

// watch looks for new and changed archives until the end.
func (i *imageImporter) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(2 * time.Second):
			i.importAll(ctx, true)
		}
	}
}

func isArchive(path string) bool {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"} {
		if strings.HasSuffix(path, suffix) {
			return true
		}
	}
	return false
}

func containsAll(have, want []string) bool {
	for _, ref := range want {
		if !slices.Contains(have, ref) {
			return false
		}
	}
	return true
}

func (i *imageImporter) ctr(ctx context.Context, args ...string) ([]byte, error) {
	return i.ctrReading(ctx, nil, args...)
}

func (i *imageImporter) ctrReading(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	base := []string{"--address", i.layout.containerdSocket(), "--namespace", "k8s.io", "images"}
	cmd := exec.CommandContext(ctx, i.layout.bin("ctr"), append(base, args...)...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("ctr images %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return out, nil
}

func (i *imageImporter) presentRefs(ctx context.Context) []string {
	out, err := i.ctr(ctx, "list", "--quiet")
	if err != nil {
		log.Printf("warning: %v", err)
		return nil
	}
	return strings.Fields(string(out))
}

func (i *imageImporter) importFile(ctx context.Context, path string) ([]string, error) {
	refs, err := archiveRefs(path)
	if err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, errors.New("no named image in it (neither io.containerd.image.name in index.json nor RepoTags in manifest.json)")
	}
	// A local import does not decompress.
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := decompress(file)
	if err != nil {
		return nil, err
	}
	if _, err := i.ctrReading(ctx, content, "import", "--local", "-"); err != nil {
		return nil, err
	}
	for _, ref := range refs {
		if _, err := i.ctr(ctx, "label", ref, "io.cri-containerd.pinned=pinned"); err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// archiveRefs reads the image names out of an OCI layout or a docker archive.
func archiveRefs(path string) ([]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := decompress(file)
	if err != nil {
		return nil, err
	}
	var refs []string
	archive := tar.NewReader(content)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch strings.TrimPrefix(header.Name, "./") {
		case "index.json":
			var index struct {
				Manifests []struct {
					Annotations map[string]string `json:"annotations"`
				} `json:"manifests"`
			}
			if err := json.NewDecoder(archive).Decode(&index); err != nil {
				return nil, fmt.Errorf("index.json: %w", err)
			}
			for _, manifest := range index.Manifests {
				if name := manifest.Annotations["io.containerd.image.name"]; name != "" {
					refs = append(refs, name)
				}
			}
		case "manifest.json":
			var images []struct{ RepoTags []string }
			if err := json.NewDecoder(archive).Decode(&images); err != nil {
				return nil, fmt.Errorf("manifest.json: %w", err)
			}
			for _, image := range images {
				for _, tag := range image.RepoTags {
					named, err := reference.ParseDockerRef(tag)
					if err != nil {
						return nil, fmt.Errorf("manifest.json: image name %q: %w", tag, err)
					}
					refs = append(refs, named.String())
				}
			}
		}
	}
	slices.Sort(refs)
	return slices.Compact(refs), nil
}

func decompress(file *os.File) (io.Reader, error) {
	buffered := bufio.NewReaderSize(file, 1<<20)
	magic, err := buffered.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("not an archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(buffered)
	default:
		// A plain tar can skip over the layers by seeking.
		_, err := file.Seek(0, io.SeekStart)
		return file, err
	}
}
