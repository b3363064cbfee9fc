package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// cluster holds what every part of a server must agree on.
type cluster struct {
	*settings
	node
	podRange     string
	serviceRange string
	apiIP        net.IP // the service `kubernetes`
	dnsIP        net.IP
	domain       string
	port         int
	bootstrap    string // the secret part of the join token
}

func newCluster(s *settings, n node) (*cluster, error) {
	c := &cluster{settings: s, node: n}
	c.podRange = s.all("cluster-cidr", "10.42.0.0/16")[0]
	c.serviceRange = s.all("service-cidr", "10.43.0.0/16")[0]
	c.domain = s.get("cluster-domain", "cluster.local")
	var err error
	if c.apiIP, err = addressIn(c.serviceRange, 1); err != nil {
		return nil, fmt.Errorf("service-cidr: %w", err)
	}
	if c.dnsIP, err = addressIn(c.serviceRange, 10); err != nil {
		return nil, fmt.Errorf("service-cidr: %w", err)
	}
	if given := s.all("cluster-dns", ""); len(given) > 0 {
		if c.dnsIP = net.ParseIP(given[0]); c.dnsIP == nil {
			return nil, fmt.Errorf("cluster-dns: %q is not an address", given[0])
		}
	}
	if c.port, err = strconv.Atoi(s.get("https-listen-port", "6443")); err != nil || c.port < 1 || c.port > 65535 {
		return nil, fmt.Errorf("https-listen-port: %q is not a port", s.get("https-listen-port", "6443"))
	}
	return c, nil
}

// writeCredentials makes the authorities, certificates, kubeconfigs, keys and the join token.
func (c *cluster) writeCredentials() error {
	l := c.layout
	serving, err := loadAuthority(l.tls(), "server-ca")
	if err != nil {
		return err
	}
	clients, err := loadAuthority(l.tls(), "client-ca")
	if err != nil {
		return err
	}
	proxies, err := loadAuthority(l.tls(), "request-header-ca")
	if err != nil {
		return err
	}
	apiHosts := []string{
		"localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + c.domain, c.name, c.ip.String(), c.apiIP.String(),
	}
	apiHosts = append(apiHosts, c.all("tls-san", "")...)
	if address := c.get("advertise-address", ""); address != "" {
		apiHosts = append(apiHosts, address)
	}
	for _, want := range []struct {
		by   *authority
		base string
		id   identity
	}{
		{serving, l.tls("serving-kube-apiserver"), identity{name: "kube-apiserver", hosts: apiHosts}},
		{serving, l.agent("serving-kubelet"), identity{name: c.name, hosts: []string{c.name, "localhost", "127.0.0.1", c.ip.String()}}},
		{clients, l.tls("client-admin"), identity{name: "system:admin", groups: []string{"system:masters"}}},
		{clients, l.tls("client-controller"), identity{name: "system:kube-controller-manager"}},
		{clients, l.tls("client-scheduler"), identity{name: "system:kube-scheduler"}},
		{clients, l.tls("client-kube-apiserver"), identity{name: "system:apiserver", groups: []string{"system:masters"}}},
		{clients, l.agent("client-kube-proxy"), identity{name: "system:kube-proxy"}},
		{clients, l.agent("client-kubelet"), identity{name: "system:node:" + c.name, groups: []string{"system:nodes"}}},
		{proxies, l.tls("client-auth-proxy"), identity{name: "system:auth-proxy"}},
	} {
		if err := want.by.issue(want.base, want.id); err != nil {
			return fmt.Errorf("certificate %s: %w", want.base, err)
		}
	}
	for from, to := range map[string]string{l.tls("client-ca.crt"): l.agent("client-ca.crt"), l.tls("server-ca.crt"): l.agent("server-ca.crt")} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = writeFile(to, content, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if _, err := os.Stat(l.tls("service.key")); errors.Is(err, os.ErrNotExist) {
		// ServiceAccount tokens are signed with a key of their own.
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err == nil {
			err = writeKey(l.tls("service.key"), key)
		}
		if err != nil {
			return err
		}
	}
	if err := c.writeKubeconfigs(); err != nil {
		return err
	}
	return c.writeToken(serving)
}

func (c *cluster) apiURL() string { return fmt.Sprintf("https://127.0.0.1:%d", c.port) }

func (c *cluster) writeKubeconfigs() error {
	l := c.layout
	for path, base := range map[string]string{
		l.cred("admin.kubeconfig"):      l.tls("client-admin"),
		l.cred("controller.kubeconfig"): l.tls("client-controller"),
		l.cred("scheduler.kubeconfig"):  l.tls("client-scheduler"),
		l.agent("kubelet.kubeconfig"):   l.agent("client-kubelet"),
		l.agent("kubeproxy.kubeconfig"): l.agent("client-kube-proxy"),
	} {
		content, err := kubeconfig(c.apiURL(), l.tls("server-ca.crt"), base)
		if err == nil {
			err = writeFile(path, content, 0o600)
		}
		if err != nil {
			return err
		}
	}
	mode, err := strconv.ParseUint(c.get("write-kubeconfig-mode", "0600"), 8, 32)
	if err != nil {
		return fmt.Errorf("write-kubeconfig-mode: %q is not an octal mode", c.get("write-kubeconfig-mode", ""))
	}
	content, err := os.ReadFile(l.cred("admin.kubeconfig"))
	if err != nil {
		return err
	}
	return writeFile(c.get("write-kubeconfig", "/etc/rancher/k3s/k3s.yaml"), content, os.FileMode(mode))
}

// writeToken settles the join token: the configured one, the one on disk, or a new one.
func (c *cluster) writeToken(serving *authority) error {
	configured, err := c.token()
	if err != nil {
		return fmt.Errorf("token-file: %w", err)
	}
	path := c.layout.server("token")
	if configured == "" {
		if old, err := os.ReadFile(path); err == nil {
			configured = strings.TrimSpace(string(old))
		} else {
			configured = randomHex(16)
		}
	}
	_, c.bootstrap = secretOf(configured)
	if c.bootstrap == "" || strings.ContainsAny(c.bootstrap, ",\"\n ") {
		return errors.New("token: it must not be empty nor contain blanks, commas or quotes")
	}
	ca, err := os.ReadFile(serving.file)
	if err != nil {
		return err
	}
	full := "K10" + digest(ca) + "::server:" + c.bootstrap + "\n"
	if err := writeFile(path, []byte(full), 0o600); err != nil {
		return err
	}
	link := c.layout.server("node-token")
	if _, err := os.Lstat(link); errors.Is(err, os.ErrNotExist) {
		if err := os.Symlink(path, link); err != nil {
			return err
		}
	}
	line := c.bootstrap + ",k3s-join,k3s-join,\"system:bootstrappers\"\n"
	return writeFile(c.layout.cred("join-tokens.csv"), []byte(line), 0o600)
}

// writeEncryptionConfig makes the key of secrets-encryption once, in the form real k3s uses.
func (c *cluster) writeEncryptionConfig() (string, error) {
	path := c.layout.cred("encryption-config.json")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return "", err
	}
	encrypted := map[string]any{"aescbc": map[string]any{"keys": []any{
		map[string]any{"name": "aescbckey", "secret": base64.StdEncoding.EncodeToString(key)},
	}}}
	content, err := yaml.Marshal(map[string]any{
		"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
		"resources": []any{map[string]any{
			"resources": []any{"secrets"},
			"providers": []any{encrypted, map[string]any{"identity": map[string]any{}}},
		}},
	})
	if err != nil {
		return "", err
	}
	return path, writeFile(path, content, 0o600)
}

// anonymousAccess lets a joining node read the cluster's CA, and nobody anything else: like real
// k3s, the API answers 401 without credentials.
const anonymousAccess = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /api/v1/namespaces/kube-public/configmaps/cluster-info
`

func (c *cluster) apiserverArgs(etcdURL string) ([]string, error) {
	l := c.layout
	access := l.server("etc", "authentication.yaml")
	if err := writeFile(access, []byte(anonymousAccess), 0o600); err != nil {
		return nil, err
	}
	args := map[string]string{
		"advertise-address":                  c.get("advertise-address", c.ip.String()),
		"bind-address":                       c.get("bind-address", "0.0.0.0"),
		"secure-port":                        strconv.Itoa(c.port),
		"allow-privileged":                   "true",
		"authorization-mode":                 "Node,RBAC",
		"authentication-config":              access,
		"token-auth-file":                    l.cred("join-tokens.csv"),
		"client-ca-file":                     l.tls("client-ca.crt"),
		"enable-admission-plugins":           "NodeRestriction",
		"enable-aggregator-routing":          "true",
		"etcd-servers":                       etcdURL,
		"storage-backend":                    "etcd3",
		"kubelet-certificate-authority":      l.tls("server-ca.crt"),
		"kubelet-client-certificate":         l.tls("client-kube-apiserver.crt"),
		"kubelet-client-key":                 l.tls("client-kube-apiserver.key"),
		"kubelet-preferred-address-types":    "InternalIP,ExternalIP,Hostname",
		"proxy-client-cert-file":             l.tls("client-auth-proxy.crt"),
		"proxy-client-key-file":              l.tls("client-auth-proxy.key"),
		"requestheader-allowed-names":        "system:auth-proxy",
		"requestheader-client-ca-file":       l.tls("request-header-ca.crt"),
		"requestheader-extra-headers-prefix": "X-Remote-Extra-",
		"requestheader-group-headers":        "X-Remote-Group",
		"requestheader-username-headers":     "X-Remote-User",
		"service-account-issuer":             "https://kubernetes.default.svc." + c.domain,
		"api-audiences":                      "https://kubernetes.default.svc." + c.domain + ",k3s",
		"service-account-key-file":           l.tls("service.key"),
		"service-account-signing-key-file":   l.tls("service.key"),
		"service-cluster-ip-range":           c.serviceRange,
		"service-node-port-range":            c.get("service-node-port-range", "30000-32767"),
		"tls-cert-file":                      l.tls("serving-kube-apiserver.crt"),
		"tls-private-key-file":               l.tls("serving-kube-apiserver.key"),
		"profiling":                          "false",
	}
	if c.is("secrets-encryption") {
		path, err := c.writeEncryptionConfig()
		if err != nil {
			return nil, err
		}
		args["encryption-provider-config"] = path
	}
	return arguments(args, c.arguments("kube-apiserver-arg")), nil
}

func (c *cluster) controllerArgs() []string {
	l := c.layout
	args := map[string]string{
		"kubeconfig":                       l.cred("controller.kubeconfig"),
		"authentication-kubeconfig":        l.cred("controller.kubeconfig"),
		"authorization-kubeconfig":         l.cred("controller.kubeconfig"),
		"bind-address":                     "127.0.0.1",
		"allocate-node-cidrs":              "true",
		"cluster-cidr":                     c.podRange,
		"service-cluster-ip-range":         c.serviceRange,
		"service-account-private-key-file": l.tls("service.key"),
		"root-ca-file":                     l.tls("server-ca.crt"),
		"client-ca-file":                   l.tls("client-ca.crt"),
		"requestheader-client-ca-file":     l.tls("request-header-ca.crt"),
		"use-service-account-credentials":  "true",
		"leader-elect":                     "false",
		"profiling":                        "false",
		// The default of 20 a second makes the controllers' first look at a new cluster take 5 s.
		"kube-api-qps":   "200",
		"kube-api-burst": "300",
	}
	for signer, ca := range map[string]string{
		"kube-apiserver-client": "client-ca", "kubelet-client": "client-ca",
		"kubelet-serving": "server-ca", "legacy-unknown": "client-ca",
	} {
		args["cluster-signing-"+signer+"-cert-file"] = l.tls(ca + ".crt")
		args["cluster-signing-"+signer+"-key-file"] = l.tls(ca + ".key")
	}
	return arguments(args, c.arguments("kube-controller-manager-arg"))
}

func (c *cluster) schedulerArgs() []string {
	path := c.layout.cred("scheduler.kubeconfig")
	return arguments(map[string]string{
		"kubeconfig":                path,
		"authentication-kubeconfig": path,
		"authorization-kubeconfig":  path,
		"bind-address":              "127.0.0.1",
		"leader-elect":              "false",
		"profiling":                 "false",
	}, c.arguments("kube-scheduler-arg"))
}
