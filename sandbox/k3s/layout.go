package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const defaultDataDir = "/var/lib/rancher/k3s"

// layout names every place that k3s uses on a host, relative to the data directory.
type layout struct {
	data string
}

func newLayout(dataDir string) layout { return layout{data: dataDir} }

func (l layout) server(parts ...string) string {
	return filepath.Join(append([]string{l.data, "server"}, parts...)...)
}
func (l layout) tls(parts ...string) string {
	return filepath.Join(append([]string{l.data, "server", "tls"}, parts...)...)
}
func (l layout) cred(name string) string { return l.server("cred", name) }
func (l layout) agent(parts ...string) string {
	return filepath.Join(append([]string{l.data, "agent"}, parts...)...)
}
func (l layout) images() string           { return l.agent("images") }
func (l layout) manifests() string        { return l.server("manifests") }
func (l layout) bin(name string) string   { return filepath.Join(l.data, "data", "current", "bin", name) }
func (l layout) binDir() string           { return filepath.Join(l.data, "data", "current", "bin") }
func (l layout) containerdSocket() string { return "/run/k3s/containerd/containerd.sock" }
func (l layout) cniConf() string          { return l.agent("etc", "cni", "net.d") }

// makeDirs creates the directories of a role. Private ones are 0700: they hold keys.
func (l layout) makeDirs(role string) error {
	dirs := map[string]os.FileMode{
		l.data:                           0o755,
		l.agent():                        0o755,
		l.images():                       0o755,
		l.agent("containerd"):            0o711,
		l.agent("etc", "containerd"):     0o755,
		l.agent("etc", "kubelet.conf.d"): 0o755,
		l.agent("pod-manifests"):         0o700,
		l.cniConf():                      0o755,
		"/run/k3s/containerd":            0o711,
		"/var/lib/kubelet":               0o700,
		"/etc/rancher/k3s":               0o755,
		"/etc/rancher/node":              0o700,
		"/var/log/pods":                  0o755,
		"/var/log/containers":            0o755,
	}
	if role == "server" {
		dirs[l.server()] = 0o700
		dirs[l.tls()] = 0o700
		dirs[l.server("cred")] = 0o700
		dirs[l.server("db", "etcd")] = 0o700
		dirs[l.manifests()] = 0o700
	}
	for dir, mode := range dirs {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("create %s: %w", dir, err)
		}
	}
	return nil
}

// claim makes sure that one k3s runs on a host: a second one would take the first one's
// containerd away from it. The lock lasts as long as the returned file stays open.
func (l layout) claim() (*os.File, error) {
	const path = "/run/k3s/k3s.lock"
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("another k3s runs on this host (%s is locked): stop it first, e.g. systemctl stop k3s", path)
	}
	return file, nil
}

// writeFile replaces a file in one step, and only when its content or mode differs.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(content) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == mode {
			return nil
		}
		return os.Chmod(path, mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(content); err == nil {
		err = tmp.Chmod(mode)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if closed := tmp.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
