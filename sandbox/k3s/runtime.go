package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

const defaultPause = "docker.io/rancher/mirrored-pause:3.10.2"

// machine is what this host can and cannot do; it is looked at, not assumed.
type machine struct {
	cgroupV2 bool
	// restrictOOM: without CAP_SYS_RESOURCE nobody may lower an oom_score_adj, and runc fails
	// on the pause container's -998.
	restrictOOM bool
}

func inspectMachine() machine {
	var m machine
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err == nil {
		m.cgroupV2 = fs.Type == unix.CGROUP2_SUPER_MAGIC
	}
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for _, line := range strings.Split(string(status), "\n") {
			if mask, ok := strings.CutPrefix(line, "CapEff:"); ok {
				if bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64); err == nil {
					m.restrictOOM = bits&(1<<unix.CAP_SYS_RESOURCE) == 0
				}
			}
		}
	}
	return m
}

const containerdConfig = `# Written by k3s at every start. To change it, write config-v3.toml.tmpl beside it:
# a Go template that may include this text with {{"{{"}} template "base" . {{"}}"}}.
version = 3
root = "{{ .Root }}"
state = "/run/k3s/containerd"

[grpc]
  address = "{{ .Socket }}"

[plugins.'io.containerd.internal.v1.opt']
  path = "{{ .Root }}"

[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"

[plugins.'io.containerd.cri.v1.runtime']
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = {{ .RestrictOOM }}

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{{ .CNIBin }}"]
  conf_dir = "{{ .CNIConf }}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "{{ .Runc }}"
  SystemdCgroup = false

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "{{ .Snapshotter }}"

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{{ .Pause }}"

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{{ .Registries }}"
`

func (s *settings) writeContainerdConfig(m machine) (string, error) {
	l := s.layout
	dir := l.agent("etc", "containerd")
	base, err := template.New("base").Parse(containerdConfig)
	if err != nil {
		return "", err
	}
	main := base
	override := dir + "/config-v3.toml.tmpl"
	if content, err := os.ReadFile(override); err == nil {
		if main, err = base.New("main").Parse(string(content)); err != nil {
			return "", fmt.Errorf("%s: %w", override, err)
		}
	}
	var out bytes.Buffer
	err = main.Execute(&out, map[string]any{
		"Root": l.agent("containerd"), "Socket": l.containerdSocket(), "RestrictOOM": m.restrictOOM,
		"CNIBin": l.binDir(), "CNIConf": l.cniConf(), "Runc": l.bin("runc"),
		"Snapshotter": s.get("snapshotter", "overlayfs"), "Pause": s.get("pause-image", defaultPause),
		"Registries": dir + "/certs.d",
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", override, err)
	}
	path := dir + "/config.toml"
	return path, writeFile(path, out.Bytes(), 0o600)
}

// startContainerd runs it and waits until its socket answers.
func (s *settings) startContainerd(ctx context.Context, sup *supervisor, m machine) error {
	l := s.layout
	config, err := s.writeContainerdConfig(m)
	if err != nil {
		return err
	}
	logPath := l.agent("containerd", "containerd.log")
	output, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer output.Close()
	path := "PATH=" + l.binDir() + ":" + searchPath()
	if err := sup.start("containerd", l.bin("containerd"), []string{"-c", config}, []string{path}, output); err != nil {
		return err
	}
	return waitFor(ctx, "containerd (see "+logPath+")", 60*time.Second, func() error {
		conn, err := net.Dial("unix", l.containerdSocket())
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// searchPath is the PATH that children need even where systemd gives a short one.
func searchPath() string {
	const standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if path := os.Getenv("PATH"); path != "" {
		return path + ":" + standard
	}
	return standard
}

// requireTools names the programs of the host that Kubernetes calls and that are not bundled.
func requireTools() error {
	os.Setenv("PATH", searchPath())
	for tool, pkg := range map[string]string{"iptables": "iptables", "iptables-save": "iptables", "mount": "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the host has no %s: install the package %s (real k3s carries its own copy, the sandbox's does not)", tool, pkg)
		}
	}
	return nil
}

// kubeletConfig is written as a drop-in, so that a user's later drop-ins win, as in k3s.
func (s *settings) kubeletConfig(m machine, dns net.IP, domain string, selfSigned bool) string {
	l := s.layout
	lines := []string{
		"apiVersion: kubelet.config.k8s.io/v1beta1",
		"kind: KubeletConfiguration",
		"address: 0.0.0.0",
		"authentication:",
		"  anonymous: {enabled: false}",
		"  webhook: {enabled: true, cacheTTL: 2m0s}",
		"  x509: {clientCAFile: " + l.agent("client-ca.crt") + "}",
		"authorization: {mode: Webhook}",
		"cgroupDriver: cgroupfs",
		"clusterDNS: [" + dns.String() + "]",
		"clusterDomain: " + domain,
		"containerRuntimeEndpoint: unix://" + l.containerdSocket(),
		"failSwapOn: false",
		"readOnlyPort: 0",
		"healthzBindAddress: 127.0.0.1",
		"serializeImagePulls: false",
		"staticPodPath: " + l.agent("pod-manifests"),
		"rotateCertificates: true",
		// The archive is the only source of these images here: never collect them.
		"imageGCHighThresholdPercent: 100",
		"evictionHard: {imagefs.available: 5%, nodefs.available: 5%}",
		"evictionMinimumReclaim: {imagefs.available: 10%, nodefs.available: 10%}",
	}
	if !m.cgroupV2 {
		// Kubernetes 1.35 and later refuse cgroup v1 unless told.
		lines = append(lines, "failCgroupV1: false", "enforceNodeAllocatable: []")
	}
	if selfSigned {
		lines = append(lines, "serverTLSBootstrap: true")
	} else {
		lines = append(lines, "tlsCertFile: "+l.agent("serving-kubelet.crt"), "tlsPrivateKeyFile: "+l.agent("serving-kubelet.key"))
	}
	if path := s.resolvConf(); path != "" {
		lines = append(lines, "resolvConf: "+path)
	}
	return strings.Join(lines, "\n") + "\n"
}

// resolvConf picks the file pods inherit their upstream name servers from. A file that only
// names this host's own resolver is of no use inside a pod: k3s writes another one then.
func (s *settings) resolvConf() string {
	if given := s.get("resolv-conf", ""); given != "" {
		return given
	}
	for _, path := range []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"} {
		if content, err := os.ReadFile(path); err == nil && namesUsableServer(string(content)) {
			return path
		}
	}
	path := s.layout.agent("etc", "resolv.conf")
	if err := writeFile(path, []byte("nameserver 8.8.8.8\n"), 0o644); err != nil {
		log.Printf("warning: %v", err)
		return ""
	}
	log.Printf("no usable name server in /etc/resolv.conf: pods get %s, as in k3s", path)
	return path
}

func namesUsableServer(content string) bool {
	for _, line := range strings.Split(content, "\n") {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == "nameserver" {
			if ip := net.ParseIP(fields[1]); ip != nil && !ip.IsLoopback() && !ip.IsUnspecified() && !ip.IsLinkLocalUnicast() {
				return true
			}
		}
	}
	return false
}

func (s *settings) kubeletArgs(n node, extra map[string]string) []string {
	args := map[string]string{
		"config-dir":        s.layout.agent("etc", "kubelet.conf.d"),
		"kubeconfig":        s.layout.agent("kubelet.kubeconfig"),
		"hostname-override": n.name,
		"node-ip":           n.ip.String(),
		"root-dir":          "/var/lib/kubelet",
		"cert-dir":          s.layout.agent("pki"),
	}
	labels := append([]string{"node.kubernetes.io/instance-type=k3s"}, s.all("node-label", "")...)
	args["node-labels"] = strings.Join(labels, ",")
	if taints := s.all("node-taint", ""); len(taints) > 0 {
		args["register-with-taints"] = strings.Join(taints, ",")
	}
	if s.is("protect-kernel-defaults") {
		args["protect-kernel-defaults"] = "true"
	}
	for name, value := range extra {
		args[name] = value
	}
	return arguments(args, s.arguments("kubelet-arg"))
}

func (s *settings) proxyArgs(n node, podRange string) []string {
	return arguments(map[string]string{
		"kubeconfig":                        s.layout.agent("kubeproxy.kubeconfig"),
		"hostname-override":                 n.name,
		"cluster-cidr":                      podRange,
		"proxy-mode":                        "iptables",
		"healthz-bind-address":              "127.0.0.1",
		"metrics-bind-address":              "127.0.0.1",
		"conntrack-max-per-core":            "0",
		"conntrack-tcp-timeout-established": "0s",
		"conntrack-tcp-timeout-close-wait":  "0s",
	}, s.arguments("kube-proxy-arg"))
}
