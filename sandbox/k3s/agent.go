package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// runAgent joins this machine as a node of a server.
func runAgent(s *settings) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	log.SetFlags(0)
	log.Printf("starting agent %s", strings.TrimSpace(versionText()))
	l := s.layout

	server, err := serverURL(s.get("server", ""))
	if err != nil {
		return err
	}
	token, err := s.token()
	if err != nil {
		return fmt.Errorf("token-file: %w", err)
	}
	n, err := identify(s)
	if err != nil {
		return err
	}
	if err := requireTools(); err != nil {
		return err
	}
	if err := l.makeDirs("agent"); err != nil {
		return err
	}
	lock, err := l.claim()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := l.extractBundle(); err != nil {
		return err
	}
	prepareKernel()

	sup := newSupervisor()
	defer sup.stop()
	m := inspectMachine()
	if err := s.startContainerd(ctx, sup, m); err != nil {
		return err
	}
	images := newImageImporter(l)
	images.importAll(ctx, false)

	wantHash, secret := secretOf(token)
	var ca []byte
	// A server that is not up yet is waited for; a CA that is not the token's ends the join.
	err = either(ctx, sup, "server "+server, 10*time.Minute, func() error {
		info, err := clusterInfo(ctx, server, nil)
		ca = info.ca
		return err
	})
	if err != nil {
		return err
	}
	if wantHash == "" {
		log.Print("warning: the token names no CA: trusting the one the server shows, as k3s does")
	} else if wantHash != digest(ca) {
		return fmt.Errorf("the CA of %s is not the one the token names: wrong server, or someone in between", server)
	}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(ca)
	info, err := clusterInfo(ctx, server, trusted)
	if err != nil {
		return fmt.Errorf("%w: is this name or address in the server's certificate (tls-san)?", err)
	}
	clientCA := info.clientCA
	if err := writeFile(l.agent("server-ca.crt"), ca, 0o644); err != nil {
		return err
	}
	if err := writeFile(l.agent("client-ca.crt"), clientCA, 0o644); err != nil {
		return err
	}
	encoded := base64.StdEncoding.EncodeToString(ca)
	join, err := renderKubeconfig(server, encoded, map[string]any{"token": secret})
	if err != nil {
		return err
	}
	joinPath := l.agent("join.kubeconfig")
	if err := writeFile(joinPath, join, 0o600); err != nil {
		return err
	}
	// kubelet keeps its certificate here and renews it; kube-proxy and the routes use it too.
	certificate := l.agent("pki", "kubelet-client-current.pem")
	own, err := renderKubeconfig(server, encoded, map[string]any{"client-certificate": certificate, "client-key": certificate})
	if err != nil {
		return err
	}
	if err := writeFile(l.agent("kubeproxy.kubeconfig"), own, 0o600); err != nil {
		return err
	}
	podRange := s.all("cluster-cidr", "10.42.0.0/16")[0]
	if err := s.startNode(sup, n, m, podRange, true, map[string]string{"bootstrap-kubeconfig": joinPath}); err != nil {
		return err
	}
	if err := either(ctx, sup, "this node's certificate", 2*time.Minute, func() error {
		_, err := os.Stat(certificate)
		return err
	}); err != nil {
		return fmt.Errorf("%w: is the token right?", err)
	}
	config, err := restConfigOf(l.agent("kubeproxy.kubeconfig"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	keeper := &nodeKeeper{layout: l, self: n, podRange: podRange, cni: s.get("flannel-backend", "vxlan") != "none", client: client}
	go keeper.run(ctx)
	if err := sup.component("kube-proxy", s.proxyArgs(n, podRange)); err != nil {
		return err
	}
	go images.watch(ctx)
	if err := either(ctx, sup, "kubelet", 2*time.Minute, kubeletHealthy); err != nil {
		return err
	}
	log.Printf("joined %s as %s", server, n.name)
	notify("READY=1")
	return untilEnd(ctx, sup)
}

func serverURL(text string) (string, error) {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Scheme != "https" || parsed.Host == "" {
		return "", fmt.Errorf("server: %q is not of the form https://HOST:6443", text)
	}
	return "https://" + parsed.Host, nil
}

// joinInfo is what a server says in public about itself.
type joinInfo struct {
	ca       []byte // signs the servers' certificates
	clientCA []byte // signs the clients' certificates
}

// clusterInfo asks for it. Without trusted roots nobody is verified: the caller then compares
// the CA with the hash in the token, and asks again with that CA before using anything else.
func clusterInfo(ctx context.Context, server string, trusted *x509.CertPool) (joinInfo, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: trusted, InsecureSkipVerify: trusted == nil},
		DisableKeepAlives: true,
	}}
	address := server + "/api/v1/namespaces/kube-public/configmaps/cluster-info"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return joinInfo{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return joinInfo{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return joinInfo{}, err
	}
	if response.StatusCode != http.StatusOK {
		return joinInfo{}, fmt.Errorf("%s answers %s", address, response.Status)
	}
	var object struct {
		Data map[string]string `json:"data"`
	}
	if err := json.Unmarshal(body, &object); err != nil {
		return joinInfo{}, fmt.Errorf("%s: %w", address, err)
	}
	config, err := clientcmd.Load([]byte(object.Data["kubeconfig"]))
	if err != nil {
		return joinInfo{}, err
	}
	if config.Clusters["default"] == nil || object.Data["client-ca"] == "" {
		return joinInfo{}, fmt.Errorf("%s: names no CA", address)
	}
	return joinInfo{config.Clusters["default"].CertificateAuthorityData, []byte(object.Data["client-ca"])}, nil
}
