package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCertificatesAreReusedUntilTheirNamesChange(t *testing.T) {
	dir := t.TempDir()
	ca, err := loadAuthority(dir, "ca")
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadAuthority(dir, "ca")
	if err != nil || !again.cert.Equal(ca.cert) {
		t.Fatalf("the CA was made anew (%v)", err)
	}
	base := filepath.Join(dir, "serving")
	issue := func(hosts ...string) string {
		t.Helper()
		if err := again.issue(base, identity{name: "x", hosts: hosts}); err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(base + ".crt")
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	first := issue("localhost", "127.0.0.1", "b")
	if issue("b", "localhost", "127.0.0.1") != first {
		t.Error("the same names in another order gave a new certificate")
	}
	if issue("b", "localhost", "127.0.0.1", "c") == first {
		t.Error("a further name did not give a new certificate")
	}
	info, err := os.Stat(base + ".key")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key has mode %v (%v), want 0600", info.Mode(), err)
	}
}

func TestBrokenAuthorityIsAnErrorNotANewOne(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadAuthority(dir, "ca"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadAuthority(dir, "ca"); err == nil {
		t.Fatal("a CA with a broken key was accepted or replaced")
	}
}

func TestTokenForms(t *testing.T) {
	for token, want := range map[string][2]string{
		"K10abc::server:secret": {"abc", "secret"},
		"K10abc::node:se:cret":  {"abc", "se:cret"},
		"server:secret":         {"", "secret"},
		"secret":                {"", "secret"},
	} {
		hash, secret := secretOf(token)
		if hash != want[0] || secret != want[1] {
			t.Errorf("%s: got %q and %q, want %q", token, hash, secret, want)
		}
	}
}
