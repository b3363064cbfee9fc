package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// runServer brings up datastore, control plane and node, then waits for a signal or a failure.
func runServer(s *settings) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	began := time.Now()
	step := func(what string) { log.Printf("%s (%.1f s)", what, time.Since(began).Seconds()) }
	log.SetFlags(0)
	log.Printf("starting %s", strings.TrimSpace(versionText()))

	n, err := identify(s)
	if err != nil {
		return err
	}
	c, err := newCluster(s, n)
	if err != nil {
		return err
	}
	if err := requireTools(); err != nil {
		return err
	}
	if err := s.layout.makeDirs("server"); err != nil {
		return err
	}
	lock, err := s.layout.claim()
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := s.layout.extractBundle(); err != nil {
		return err
	}
	if err := c.writeCredentials(); err != nil {
		return err
	}
	prepareKernel()
	step("credentials and binaries are in place")

	sup := newSupervisor()
	defer sup.stop()
	m := inspectMachine()

	// The runtime and the images need no API server: both sides come up at the same time.
	images := newImageImporter(s.layout)
	runtimeReady := make(chan error, 1)
	go func() {
		err := s.startContainerd(ctx, sup, m)
		if err == nil {
			step("containerd answers")
			images.importAll(ctx, false)
			step("images are imported")
		}
		runtimeReady <- err
	}()

	store, err := startEtcd(ctx, s.layout)
	if err != nil {
		return err
	}
	go store.watch(sup.failed)
	// Last of all: the API server's final writes need it.
	defer store.close()
	defer sup.stop()
	step("etcd answers")
	apiArgs, err := c.apiserverArgs(store.url)
	if err != nil {
		return err
	}
	if err := sup.component("kube-apiserver", apiArgs); err != nil {
		return err
	}
	config, err := restConfigOf(s.layout.cred("admin.kubeconfig"))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := either(ctx, sup, "kube-apiserver", 120*time.Second, func() error { return apiReady(ctx, client) }); err != nil {
		return err
	}
	step("the API server is ready")

	if err := sup.component("kube-controller-manager", c.controllerArgs()); err != nil {
		return err
	}
	if err := sup.component("kube-scheduler", c.schedulerArgs()); err != nil {
		return err
	}
	deploy, err := newAddons(c, config)
	if err != nil {
		return err
	}
	keeper := &nodeKeeper{layout: s.layout, self: n, podRange: c.podRange, cni: s.get("flannel-backend", "vxlan") != "none", client: client, addons: deploy}
	if keeper.cni {
		if err := c.guessCNI(); err != nil {
			return err
		}
	}
	go keeper.run(ctx)
	if err := c.publishInfo(ctx, deploy); err != nil {
		return err
	}
	if err := deploy.writePackaged(ctx); err != nil {
		return err
	}
	go deploy.run(ctx)

	if err := <-runtimeReady; err != nil {
		return err
	}
	if err := c.startNode(sup, n, m, c.podRange, false, nil); err != nil {
		return err
	}
	go images.watch(ctx)
	if err := either(ctx, sup, "kubelet", 120*time.Second, kubeletHealthy); err != nil {
		return err
	}
	step("the kubelet is up: k3s is running")
	notify("READY=1")
	return untilEnd(ctx, sup)
}

// untilEnd waits for a signal (nil) or for a component that ended (an error: systemd restarts us).
func untilEnd(ctx context.Context, sup *supervisor) error {
	select {
	case <-ctx.Done():
		log.Print("stopping: containers keep running")
		notify("STOPPING=1")
		return nil
	case err := <-sup.failed:
		return err
	}
}

// either runs a wait, cut short when a component ends: no use in waiting for a dead process.
func either(ctx context.Context, sup *supervisor, what string, limit time.Duration, probe func() error) error {
	result := make(chan error, 1)
	go func() { result <- waitFor(ctx, what, limit, probe) }()
	select {
	case err := <-result:
		return err
	case err := <-sup.failed:
		return err
	}
}

func apiReady(ctx context.Context, client kubernetes.Interface) error {
	body, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(2 * time.Second).DoRaw(ctx)
	if err != nil {
		return err
	}
	if string(body) != "ok" {
		return fmt.Errorf("/readyz says %q", body)
	}
	return nil
}

func kubeletHealthy() error {
	client := http.Client{Timeout: 2 * time.Second}
	response, err := client.Get("http://127.0.0.1:10248/healthz")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("healthz answers %s", response.Status)
	}
	return nil
}

// startNode runs kubelet and kube-proxy.
func (s *settings) startNode(sup *supervisor, n node, m machine, podRange string, joins bool, extra map[string]string) error {
	dns, domain := s.all("cluster-dns", ""), s.get("cluster-domain", "cluster.local")
	address := net.ParseIP("10.43.0.10")
	if ranges := s.all("service-cidr", ""); len(ranges) > 0 {
		var err error
		if address, err = addressIn(ranges[0], 10); err != nil {
			return err
		}
	}
	if len(dns) > 0 {
		address = net.ParseIP(dns[0])
	}
	defaults := s.layout.agent("etc", "kubelet.conf.d", "00-k3s-defaults.conf")
	if err := writeFile(defaults, []byte(s.kubeletConfig(m, address, domain, joins)), 0o600); err != nil {
		return err
	}
	if err := sup.component("kubelet", s.kubeletArgs(n, extra)); err != nil {
		return err
	}
	if joins {
		return nil // kube-proxy follows when the kubelet has its certificate
	}
	return sup.component("kube-proxy", s.proxyArgs(n, podRange))
}

// guessCNI writes the CNI configuration that the first node of a new cluster will get, so that
// the node need not wait for it. nodeKeeper corrects it if the cluster decides otherwise.
func (c *cluster) guessCNI() error {
	if found, _ := filepath.Glob(c.layout.cniConf() + "/*"); len(found) > 0 {
		return nil
	}
	first, err := firstPodRange(c.podRange)
	if err != nil {
		return err
	}
	return writeCNI(c.layout, first)
}

// publishInfo puts the cluster's CA where a joining node can read it without credentials.
func (c *cluster) publishInfo(ctx context.Context, a *addons) error {
	ca, err := os.ReadFile(c.layout.tls("server-ca.crt"))
	if err != nil {
		return err
	}
	clientCA, err := os.ReadFile(c.layout.tls("client-ca.crt"))
	if err != nil {
		return err
	}
	content, err := renderKubeconfig(fmt.Sprintf("https://%s:%d", c.ip, c.port), base64.StdEncoding.EncodeToString(ca), map[string]any{})
	if err != nil {
		return err
	}
	return waitFor(ctx, "namespace kube-public", 60*time.Second, func() error {
		return a.applyFields(ctx, metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, "kube-public", "cluster-info", map[string]any{
			"data": map[string]any{"kubeconfig": string(content), "client-ca": string(clientCA)},
		})
	})
}

// restConfigOf reads a kubeconfig of this machine.
func restConfigOf(path string) (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", path)
}
