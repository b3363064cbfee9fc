package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	certLife = 365 * 24 * time.Hour
	renewAt  = 90 * 24 * time.Hour
)

// authority signs certificates. Its files are made once and reused at every start.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	file string
}

// loadAuthority reads NAME.crt and NAME.key, or makes them. An unreadable pair is an error,
// never a reason for a new CA: that would cut off every node.
func loadAuthority(dir, name string) (*authority, error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if _, err := os.Stat(certFile); errors.Is(err, os.ErrNotExist) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		template := &x509.Certificate{
			SerialNumber:          serial(),
			Subject:               pkix.Name{CommonName: fmt.Sprintf("k3s-%s@%d", name, now.Unix())},
			NotBefore:             now.Add(-time.Hour),
			NotAfter:              now.Add(caLife),
			KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
			BasicConstraintsValid: true,
			IsCA:                  true,
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, err
		}
		if err := writeKey(keyFile, key); err != nil {
			return nil, err
		}
		if err := writeFile(certFile, pemCert(der), 0o644); err != nil {
			return nil, err
		}
	}
	cert, err := readCert(certFile)
	if err != nil {
		return nil, err
	}
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key, certFile}, nil
}

// identity is what a certificate says about its holder.
type identity struct {
	name   string
	groups []string
	hosts  []string // DNS names and addresses: a serving certificate
}

// issue makes BASE.crt and BASE.key unless a valid pair for the same identity is there.
func (a *authority) issue(base string, id identity) error {
	certFile, keyFile := base+".crt", base+".key"
	slices.Sort(id.hosts)
	id.hosts = slices.Compact(id.hosts)
	if cert, err := readCert(certFile); err == nil && a.stillGood(cert, id) {
		if _, err := readKey(keyFile); err == nil {
			return nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: id.name, Organization: id.groups},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(certLife),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if len(id.hosts) > 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, host := range id.hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := writeKey(keyFile, key); err != nil {
		return err
	}
	return writeFile(certFile, append(pemCert(der), pemCert(a.cert.Raw)...), 0o644)
}

func (a *authority) stillGood(cert *x509.Certificate, id identity) bool {
	if cert.CheckSignatureFrom(a.cert) != nil || time.Until(cert.NotAfter) < renewAt || cert.Subject.CommonName != id.name {
		return false
	}
	hosts := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	slices.Sort(hosts)
	return slices.Equal(hosts, id.hosts) && slices.Equal(cert.Subject.Organization, id.groups)
}

func serial() *big.Int {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // the kernel's random source is gone: nothing sensible can follow
	}
	return number
}

func pemCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

func readCert(path string) (*x509.Certificate, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func readKey(path string) (crypto.Signer, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(content)
	if block == nil {
		return nil, fmt.Errorf("%s: no key in it", path)
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

// randomHex returns n random bytes as text.
func randomHex(n int) string {
	raw := make([]byte, n)
	if _, err := rand.Read(raw); err != nil {
		panic(err)
	}
	return hex.EncodeToString(raw)
}

// kubeconfig renders one with certificates inside, so that it can be copied off the host.
func kubeconfig(server, caFile, certBase string) ([]byte, error) {
	encoded := map[string]string{}
	for key, path := range map[string]string{"ca": caFile, "cert": certBase + ".crt", "key": certBase + ".key"} {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		encoded[key] = base64.StdEncoding.EncodeToString(content)
	}
	return renderKubeconfig(server, encoded["ca"], map[string]any{
		"client-certificate-data": encoded["cert"],
		"client-key-data":         encoded["key"],
	})
}

func renderKubeconfig(server, ca string, user map[string]any) ([]byte, error) {
	return yaml.Marshal(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": "default",
		"clusters": []any{map[string]any{"name": "default", "cluster": map[string]any{
			"server": server, "certificate-authority-data": ca,
		}}},
		"contexts": []any{map[string]any{"name": "default", "context": map[string]any{"cluster": "default", "user": "default"}}},
		"users":    []any{map[string]any{"name": "default", "user": user}},
	})
}

// secretOf returns the secret part of a token: K10<hash>::user:secret, user:secret, or the bare secret.
func secretOf(token string) (caHash, secret string) {
	rest := token
	if body, full := strings.CutPrefix(token, "K10"); full {
		if hash, after, ok := strings.Cut(body, "::"); ok {
			caHash, rest = hash, after
		}
	}
	if _, after, ok := strings.Cut(rest, ":"); ok {
		return caHash, after
	}
	return caHash, rest
}
