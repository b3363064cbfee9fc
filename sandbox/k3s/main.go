// Command k3s is the sandbox's stand-in for k3s: upstream Kubernetes linked into one file,
// with the part of k3s's surface that a provisioning tool meets. docs/sandbox-k3s.md lists
// what differs from the real one.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

const usage = `usage: k3s COMMAND [flags]

  server      run the control plane and a node
  agent       run a node that joins a server (--server URL --token TOKEN)
  kubectl     upstream kubectl, with k3s's kubeconfig
  ctr         containerd's ctr, on k3s's socket, namespace k8s.io
  --version   print the version

Settings: /etc/rancher/k3s/config.yaml, config.yaml.d/*.yaml, then flags of the same names.
This is the sandbox's stand-in for k3s, built from upstream Kubernetes.
`

func main() {
	name := filepath.Base(os.Args[0])
	// Components start through /proc/self/exe: without this, ps would call them all "exe".
	// It is cosmetic, so a kernel that refuses does no harm.
	_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
	// The components run as children of the main process: this same file under another name.
	switch name {
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllers.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kubectl", "ctr", "crictl":
		os.Exit(runTool(name, os.Args[1:]))
	}
	if len(os.Args) < 2 {
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	}
	command, args := os.Args[1], os.Args[2:]
	switch command {
	case "server", "agent":
		if err := runNode(command, args); err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(os.Stderr, "k3s %s: %v\n", command, err)
			os.Exit(1)
		}
	case "kubectl", "ctr", "crictl":
		os.Exit(runTool(command, args))
	case "--version", "-v", "version":
		fmt.Print(versionText())
	case "help", "--help", "-h":
		fmt.Print(usage)
	default:
		fmt.Fprintf(os.Stderr, "k3s: the sandbox's k3s has no command %q\n\n%s", command, usage)
		os.Exit(2)
	}
}

// runNode reads the settings and runs a server or an agent until a signal or a failure.
func runNode(role string, args []string) error {
	if len(args) > 0 && (args[0] == "--help" || args[0] == "-h") {
		fmt.Print(settingsHelp(role))
		return nil
	}
	settings, err := loadSettings(role, args, os.Environ())
	if err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("must run as root")
	}
	if role == "server" {
		return runServer(settings)
	}
	return runAgent(settings)
}

// runTool runs one of the command line tools that k3s carries. Only kubectl is part of this file.
func runTool(name string, args []string) int {
	switch name {
	case "kubectl":
		if os.Getenv("KUBECONFIG") == "" && !hasFlag(args, "--kubeconfig") {
			const path = "/etc/rancher/k3s/k3s.yaml"
			if file, err := os.Open(path); err == nil {
				file.Close()
				os.Setenv("KUBECONFIG", path)
			} else if errors.Is(err, os.ErrPermission) {
				fmt.Fprintf(os.Stderr, "k3s kubectl: cannot read %s: run as root, or start the server with write-kubeconfig-mode\n", path)
				return 1
			}
		}
		os.Args = append([]string{"kubectl"}, args...)
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			cmdutil.CheckErr(err) // prints and leaves with kubectl's own exit code
		}
		return 0
	case "ctr":
		layout := newLayout(defaultDataDir)
		if err := layout.extractBundle(); err != nil {
			fmt.Fprintf(os.Stderr, "k3s ctr: %v\n", err)
			return 1
		}
		env := os.Environ()
		env = setDefaultEnv(env, "CONTAINERD_ADDRESS", layout.containerdSocket())
		env = setDefaultEnv(env, "CONTAINERD_NAMESPACE", "k8s.io")
		path := layout.bin("ctr")
		err := syscall.Exec(path, append([]string{"ctr"}, args...), env)
		fmt.Fprintf(os.Stderr, "k3s ctr: %s: %v\n", path, err)
		return 1
	default:
		fmt.Fprintln(os.Stderr, "crictl is not part of the sandbox's k3s: use `k3s ctr`, or `k3s kubectl` for pods and logs")
		return 1
	}
}

func hasFlag(args []string, flag string) bool {
	for _, arg := range args {
		if arg == flag || strings.HasPrefix(arg, flag+"=") {
			return true
		}
	}
	return false
}

func setDefaultEnv(env []string, name, value string) []string {
	for _, entry := range env {
		if strings.HasPrefix(entry, name+"=") {
			return env
		}
	}
	return append(env, name+"="+value)
}
