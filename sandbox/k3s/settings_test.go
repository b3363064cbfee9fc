package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func load(t *testing.T, role string, files map[string]string, args ...string) (*settings, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return loadSettings(role, append([]string{"--config", filepath.Join(dir, "config.yaml")}, args...), nil)
}

func TestLaterFilesAndFlagsWin(t *testing.T) {
	s, err := load(t, "server", map[string]string{
		"config.yaml":           "node-name: one\ntls-san: [a]\nwrite-kubeconfig-mode: \"0600\"\nkubelet-arg:\n- max-pods=50\n",
		"config.yaml.d/20.yaml": "node-name: three\n",
		"config.yaml.d/10.yaml": "node-name: two\ntls-san+: b\nkubelet-arg+: [\"system-reserved=cpu=500m,memory=1500Mi\"]\n",
	}, "--write-kubeconfig-mode=0644")
	if err != nil {
		t.Fatal(err)
	}
	if got := s.get("node-name", ""); got != "three" {
		t.Errorf("node-name %q, want the last drop-in's", got)
	}
	if got := s.all("tls-san", ""); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("tls-san %q, want the drop-in's value appended", got)
	}
	if got := s.get("write-kubeconfig-mode", ""); got != "0644" {
		t.Errorf("write-kubeconfig-mode %q, want the flag's", got)
	}
	want := []string{"max-pods=50", "system-reserved=cpu=500m,memory=1500Mi"}
	if got := s.arguments("kubelet-arg"); !slices.Equal(got, want) {
		t.Errorf("kubelet-arg %q, want %q: its commas are part of the value", got, want)
	}
}

func TestSettingsThatWouldMeanSomethingElseAreRefused(t *testing.T) {
	for text, reason := range map[string]string{
		"datastore-endpoint: mysql://x\n":                "datastore-endpoint",
		"flannel-backend: wireguard-native\n":            "wireguard-native",
		"cluster-cidr: [10.42.0.0/16, fd00::/56]\n":      "dual stack",
		"service-cidr: nonsense\n":                       "service-cidr",
		"docker: true\n":                                 "docker",
		"secrets-encryption: perhaps\n":                  "neither true nor false",
		"node-name: {a: b}\n":                            "mapping",
		"node-name: [a, b]\n":                            "one value",
		"server: https://other:6443\ntoken: x\n":         "second server",
		"disable-agent: true\ndisable-scheduler: true\n": "disable-scheduler",
	} {
		_, err := load(t, "server", map[string]string{"config.yaml": text})
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: got %v, want an error that names %q", text, err, reason)
		}
	}
}

func TestHarmlessSettingsAreAccepted(t *testing.T) {
	_, err := load(t, "server", map[string]string{
		"config.yaml": "disable: [traefik, servicelb]\ndisable-network-policy: true\nembedded-registry: true\ndocker: false\nno-such-key: 1\nflannel-backend: host-gw\n",
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnknownFlagIsRefused(t *testing.T) {
	if _, err := load(t, "server", nil, "--no-such-flag"); err == nil {
		t.Fatal("an unknown flag was accepted")
	}
	if _, err := loadSettings("server", []string{"--config", "/no/such/file"}, nil); err == nil {
		t.Fatal("a named file that is not there was accepted")
	}
	if _, err := load(t, "server", nil, "--node-name"); err == nil {
		t.Fatal("a flag without its value was accepted")
	}
}

func TestAgentNeedsServerAndToken(t *testing.T) {
	_, err := load(t, "agent", nil)
	if err == nil || !strings.Contains(err.Error(), "`server`") || !strings.Contains(err.Error(), "`token`") {
		t.Fatalf("got %v, want both missing settings named", err)
	}
	if _, err := load(t, "agent", nil, "-s", "https://a:6443", "-t", "secret"); err != nil {
		t.Fatal(err)
	}
}

func TestUserArgumentsReplaceDefaults(t *testing.T) {
	got := arguments(map[string]string{"a": "1", "b": "2", "c": "3"}, []string{"b=x", "--d=4", "c-", "e=1", "e=2", "f"})
	want := []string{"--a=1", "--b=x", "--d=4", "--e=1", "--e=2", "--f=true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
