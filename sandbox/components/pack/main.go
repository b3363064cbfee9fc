// Command pack writes one OCI layout tar with the images of k3s's packaged components, each a
// scratch image of one layer: pack DIR OUT, where DIR holds the binaries.
// The same binaries give the same archive, byte for byte.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"time"
)

// image is one component: where its binary goes and how it starts.
type image struct {
	name       string
	binary     string // file name in DIR
	target     string // path in the image
	entrypoint []string
	command    []string
	user       string
	source     string // what it really is, kept as a label
	links      []string
	libraries  []string // file names in DIR/lib, for the one program that is not static
}

// The names are those of k3s v1.36.4's archive, so that manifests and tools meet the same ones.
// What is inside is said by the label org.opencontainers.image.description.
func images(applets, libraries []string) []image {
	return []image{
		{name: "docker.io/rancher/mirrored-pause:3.10.2", binary: "pause", target: "pause",
			entrypoint: []string{"/pause"}, user: "65535:65535", source: "sandbox/components/pause/pause.c"},
		{name: "docker.io/rancher/mirrored-coredns-coredns:1.14.6", binary: "coredns", target: "coredns",
			entrypoint: []string{"/coredns"}, source: "github.com/coredns/coredns v1.14.6"},
		{name: "docker.io/rancher/local-path-provisioner:v0.0.36", binary: "local-path-provisioner", target: "usr/bin/local-path-provisioner",
			entrypoint: []string{"local-path-provisioner"}, source: "github.com/rancher/local-path-provisioner v0.0.30 (not v0.0.36)"},
		{name: "docker.io/rancher/mirrored-metrics-server:v0.9.0", binary: "metrics-server", target: "metrics-server",
			entrypoint: []string{"/metrics-server"}, user: "65534", source: "sigs.k8s.io/metrics-server v0.9.0"},
		{name: "docker.io/rancher/mirrored-library-busybox:1.37.0", binary: "busybox", target: "bin/busybox",
			command: []string{"sh"}, source: "Debian's busybox (not 1.37)", links: applets, libraries: libraries},
	}
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack DIR OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		os.Exit(1)
	}
}

func run(dir, out string) error {
	list, err := os.ReadFile(filepath.Join(dir, "busybox.applets"))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(dir, "lib"))
	if err != nil {
		return err
	}
	var libraries []string
	for _, entry := range entries {
		libraries = append(libraries, entry.Name())
	}
	layout := archive{blobs: map[string][]byte{}}
	for _, one := range images(strings.Fields(string(list)), libraries) {
		if err := layout.add(dir, one); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return layout.write(out)
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type archive struct {
	blobs     map[string][]byte
	manifests []descriptor
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	name := hex.EncodeToString(sum[:])
	a.blobs[name] = content
	return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(content)}
}

func (a *archive) jsonBlob(mediaType string, value any) (descriptor, error) {
	content, err := json.Marshal(value)
	return a.blob(mediaType, content), err
}

func (a *archive) add(dir string, one image) error {
	content, err := os.ReadFile(filepath.Join(dir, one.binary))
	if err != nil {
		return err
	}
	layer, err := layerOf(dir, one, content)
	if err != nil {
		return err
	}
	// Uncompressed: the archive is compressed as a whole, and import is the faster for it.
	layerBlob := a.blob("application/vnd.oci.image.layer.v1.tar", layer)
	config := map[string]any{
		"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		"Labels": map[string]string{
			"org.opencontainers.image.description": "sandbox build: " + one.source,
		},
	}
	if len(one.entrypoint) > 0 {
		config["Entrypoint"] = one.entrypoint
	}
	if len(one.command) > 0 {
		config["Cmd"] = one.command
	}
	if one.user != "" {
		config["User"] = one.user
	}
	configBlob, err := a.jsonBlob("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := a.jsonBlob("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": configBlob, "layers": []descriptor{layerBlob},
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{
		"io.containerd.image.name":          one.name,
		"org.opencontainers.image.ref.name": one.name[strings.LastIndexByte(one.name, ':')+1:],
	}
	a.manifests = append(a.manifests, manifest)
	return nil
}

// layerOf makes the file tree: the binary, its links, and the little that programs expect.
func layerOf(dir string, one image, content []byte) ([]byte, error) {
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	directories := map[string]int64{"etc/": 0o755, "tmp/": 0o1777}
	for parent := filepath.Dir(one.target); parent != "."; parent = filepath.Dir(parent) {
		directories[parent+"/"] = 0o755
	}
	if len(one.libraries) > 0 {
		directories["lib/"], directories["lib64/"] = 0o755, 0o755
	}
	var names []string
	for name := range directories {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := put(writer, tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: directories[name]}, nil); err != nil {
			return nil, err
		}
	}
	files := []struct {
		name, text string
	}{
		{"etc/group", "root:x:0:\nnogroup:x:65534:\n"},
		{"etc/nsswitch.conf", "hosts: files dns\n"},
		{"etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
	}
	for _, file := range files {
		if err := put(writer, tar.Header{Typeflag: tar.TypeReg, Name: file.name, Mode: 0o644}, []byte(file.text)); err != nil {
			return nil, err
		}
	}
	if err := put(writer, tar.Header{Typeflag: tar.TypeReg, Name: one.target, Mode: 0o755}, content); err != nil {
		return nil, err
	}
	// The loader is named by the program as /lib64/ld-...; it looks for the libraries in /lib.
	for _, library := range one.libraries {
		text, err := os.ReadFile(filepath.Join(dir, "lib", library))
		if err != nil {
			return nil, err
		}
		directory := "lib/"
		if strings.HasPrefix(library, "ld-") {
			directory = "lib64/"
		}
		if err := put(writer, tar.Header{Typeflag: tar.TypeReg, Name: directory + library, Mode: 0o755}, text); err != nil {
			return nil, err
		}
	}
	for _, link := range one.links {
		if link == filepath.Base(one.target) {
			continue
		}
		header := tar.Header{Typeflag: tar.TypeSymlink, Name: filepath.Dir(one.target) + "/" + link, Linkname: filepath.Base(one.target), Mode: 0o777}
		if err := put(writer, header, nil); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func put(writer *tar.Writer, header tar.Header, content []byte) error {
	header.Size = int64(len(content))
	header.ModTime = time.Unix(0, 0)
	header.Format = tar.FormatUSTAR
	if err := writer.WriteHeader(&header); err != nil {
		return err
	}
	_, err := writer.Write(content)
	return err
}

// write puts index.json first, so that a reader knows the names before the layers.
func (a *archive) write(path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	writer := tar.NewWriter(file)
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": a.manifests,
	})
	if err != nil {
		return err
	}
	if err := put(writer, tar.Header{Typeflag: tar.TypeReg, Name: "oci-layout", Mode: 0o644}, []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := put(writer, tar.Header{Typeflag: tar.TypeReg, Name: "index.json", Mode: 0o644}, index); err != nil {
		return err
	}
	for _, name := range []string{"blobs/", "blobs/sha256/"} {
		if err := put(writer, tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, nil); err != nil {
			return err
		}
	}
	var names []string
	for name := range a.blobs {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := put(writer, tar.Header{Typeflag: tar.TypeReg, Name: "blobs/sha256/" + name, Mode: 0o644}, a.blobs[name]); err != nil {
			return err
		}
	}
	if err := writer.Close(); err != nil {
		return err
	}
	return file.Close()
}
