package main

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// build.sh appends containerd, its shim, ctr, runc and the CNI plugins to this very file:
// [ELF][tar.zst][64 hex digits: the tar's SHA-256][8 bytes: length of tar.zst][bundleMagic].
// Appending instead of go:embed lets `go vet` and `go test` run without the bundle.
const bundleMagic = "K3SBUNDL"

const bundleTrailer = 64 + 8 + len(bundleMagic)

// extractBundle unpacks the bundle to data/<sha256>/bin once and points data/current there,
// as real k3s does.
func (l layout) extractBundle() error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	info, err := self.Stat()
	if err != nil {
		return err
	}
	trailer := make([]byte, bundleTrailer)
	if _, err := self.ReadAt(trailer, info.Size()-int64(bundleTrailer)); err != nil {
		return err
	}
	if string(trailer[72:]) != bundleMagic {
		return errors.New("this k3s was built without its bundle (containerd, runc, CNI): build it with sandbox/k3s/build.sh")
	}
	hash := string(trailer[:64])
	length := int64(binary.BigEndian.Uint64(trailer[64:72]))
	base := filepath.Join(l.data, "data")
	home := filepath.Join(base, hash)
	if _, err := os.Stat(filepath.Join(home, "bin")); err != nil {
		log.Printf("unpacking the bundled binaries to %s", home)
		if err := os.MkdirAll(base, 0o755); err != nil {
			return err
		}
		tmp, err := os.MkdirTemp(base, ".unpack-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		section := io.NewSectionReader(self, info.Size()-int64(bundleTrailer)-length, length)
		if err := untar(section, filepath.Join(tmp, "bin")); err != nil {
			return fmt.Errorf("unpack the bundled binaries: %w", err)
		}
		if err := os.Chmod(tmp, 0o755); err != nil {
			return err
		}
		// Two k3s processes may unpack at once: whoever comes second finds the work done.
		if err := os.Rename(tmp, home); err != nil {
			if _, missing := os.Stat(filepath.Join(home, "bin")); missing != nil {
				return err
			}
		}
	}
	link := filepath.Join(base, "current")
	if target, err := os.Readlink(link); err == nil && target == hash {
		return nil
	}
	tmpLink := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := os.Symlink(hash, tmpLink); err != nil {
		return err
	}
	return os.Rename(tmpLink, link)
}

// untar writes the plain files of a zstd-compressed tar into one flat directory.
func untar(source io.Reader, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	decoder, err := zstd.NewReader(source)
	if err != nil {
		return err
	}
	defer decoder.Close()
	archive := tar.NewReader(decoder)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(header.Name, "./")
		if header.Typeflag != tar.TypeReg || name == "" || strings.Contains(name, "/") {
			continue
		}
		file, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, archive)
		if closed := file.Close(); err == nil {
			err = closed
		}
		if err != nil {
			return err
		}
	}
}
