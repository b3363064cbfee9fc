package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"sigs.k8s.io/yaml"
)

const configPath = "/etc/rancher/k3s/config.yaml"

type kind int

const (
	text    kind = iota // one value, the last wins
	boolean             // true or false
	list                // repeatable
)

// option is one setting of k3s. effect says what the sandbox does with it:
// "" it is honoured; "ignored: why" it is accepted and logged; "refused: why" it is an error.
type option struct {
	kind   kind
	effect string
}

// options are k3s's own names, as flags (--name) and as keys of config.yaml.
var options = map[string]option{
	"config":                            {text, ""},
	"data-dir":                          {text, ""},
	"bind-address":                      {text, ""},
	"https-listen-port":                 {text, ""},
	"advertise-address":                 {text, ""},
	"advertise-port":                    {text, "refused: the advertised port is always https-listen-port"},
	"tls-san":                           {list, ""},
	"cluster-cidr":                      {list, ""},
	"service-cidr":                      {list, ""},
	"service-node-port-range":           {text, ""},
	"cluster-dns":                       {list, ""},
	"cluster-domain":                    {text, ""},
	"write-kubeconfig":                  {text, ""},
	"write-kubeconfig-mode":             {text, ""},
	"write-kubeconfig-group":            {text, "refused: set write-kubeconfig-mode"},
	"token":                             {text, ""},
	"token-file":                        {text, ""},
	"agent-token":                       {text, "refused: one token serves servers and agents"},
	"server":                            {text, ""},
	"node-name":                         {text, ""},
	"with-node-id":                      {boolean, "refused: set node-name"},
	"node-ip":                           {list, ""},
	"node-external-ip":                  {list, "ignored: nodes are reached by node-ip"},
	"node-label":                        {list, ""},
	"node-taint":                        {list, ""},
	"resolv-conf":                       {text, ""},
	"disable":                           {list, ""},
	"disable-network-policy":            {boolean, "ignored: NetworkPolicy is never enforced in the sandbox"},
	"disable-kube-proxy":                {boolean, "refused: services need kube-proxy here"},
	"disable-cloud-controller":          {boolean, "ignored: there is no cloud controller"},
	"disable-helm-controller":           {boolean, "ignored: there is no helm controller"},
	"disable-scheduler":                 {boolean, "refused: the control plane runs whole"},
	"disable-agent":                     {boolean, "refused: a server is also a node here"},
	"disable-apiserver":                 {boolean, "refused: the control plane runs whole"},
	"disable-controller-manager":        {boolean, "refused: the control plane runs whole"},
	"default-local-storage-path":        {text, ""},
	"secrets-encryption":                {boolean, ""},
	"secrets-encryption-provider":       {text, "ignored: always aescbc"},
	"kubelet-arg":                       {list, ""},
	"kube-apiserver-arg":                {list, ""},
	"kube-controller-manager-arg":       {list, ""},
	"kube-scheduler-arg":                {list, ""},
	"kube-proxy-arg":                    {list, ""},
	"protect-kernel-defaults":           {boolean, ""},
	"pause-image":                       {text, ""},
	"snapshotter":                       {text, ""},
	"debug":                             {boolean, "ignored"},
	"log":                               {text, "ignored: the log goes to the journal"},
	"alsologtostderr":                   {boolean, "ignored: the log goes to the journal"},
	"cluster-init":                      {boolean, "ignored: the datastore is always etcd with one member"},
	"cluster-reset":                     {boolean, "refused: not in the sandbox"},
	"datastore-endpoint":                {text, "refused: the datastore is the embedded etcd"},
	"etcd-expose-metrics":               {boolean, "ignored"},
	"etcd-disable-snapshots":            {boolean, "ignored: snapshots are never taken"},
	"etcd-snapshot-schedule-cron":       {text, "ignored: snapshots are never taken"},
	"etcd-snapshot-retention":           {text, "ignored: snapshots are never taken"},
	"etcd-snapshot-dir":                 {text, "ignored: snapshots are never taken"},
	"etcd-arg":                          {list, "refused: etcd is embedded with fixed settings"},
	"flannel-backend":                   {text, ""},
	"flannel-iface":                     {text, "ignored: routes follow node-ip"},
	"flannel-ipv6-masq":                 {boolean, "ignored: IPv4 only"},
	"egress-selector-mode":              {text, "ignored: the API server reaches kubelets directly"},
	"embedded-registry":                 {boolean, "ignored: images are not shared between nodes"},
	"disable-default-registry-endpoint": {boolean, "ignored: no registry is configured"},
	"private-registry":                  {text, "ignored: registries.yaml is not read"},
	"system-default-registry":           {text, "refused: packaged images come from agent/images"},
	"airgap-extra-registry":             {list, "ignored: images are imported as they are named"},
	"prefer-bundled-bin":                {boolean, "ignored: iptables is always the host's"},
	"supervisor-metrics":                {boolean, "ignored"},
	"enable-pprof":                      {boolean, "ignored"},
	"helm-job-image":                    {text, "ignored: there is no helm controller"},
	"servicelb-namespace":               {text, "ignored: servicelb is never installed"},
	"nonroot-devices":                   {boolean, "ignored"},
	"container-runtime-endpoint":        {text, "refused: containerd is bundled"},
	"image-service-endpoint":            {text, "refused: containerd is bundled"},
	"docker":                            {boolean, "refused: containerd is bundled"},
	"rootless":                          {boolean, "refused: not in the sandbox"},
	"selinux":                           {boolean, "refused: not in the sandbox"},
	"kine-tls":                          {boolean, "refused: the datastore is the embedded etcd"},
	"vpn-auth":                          {text, "refused: not in the sandbox"},
}

// settings are the values of all sources, the last source winning.
type settings struct {
	role   string
	values map[string][]string
	layout layout
}

func (s *settings) has(name string) bool { return len(s.values[name]) > 0 }

func (s *settings) get(name, fallback string) string {
	if values := s.values[name]; len(values) > 0 {
		return values[len(values)-1]
	}
	return fallback
}

// all returns a repeatable value; commas separate values too, as k3s allows for lists of names.
func (s *settings) all(name, fallback string) []string {
	var found []string
	for _, value := range s.values[name] {
		for _, part := range strings.Split(value, ",") {
			if part = strings.TrimSpace(part); part != "" {
				found = append(found, part)
			}
		}
	}
	if len(found) == 0 && fallback != "" {
		return []string{fallback}
	}
	return found
}

// arguments returns values that must not be split: kubelet-arg and its like.
func (s *settings) arguments(name string) []string { return s.values[name] }

func (s *settings) is(name string) bool { return s.get(name, "false") == "true" }

// loadSettings reads config.yaml, its drop-ins, K3S_* variables and flags, in this order.
func loadSettings(role string, args, env []string) (*settings, error) {
	s := &settings{role: role, values: map[string][]string{}}
	flags, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	path := configPath
	if fromEnv := lookupEnv(env, "K3S_CONFIG_FILE"); fromEnv != "" {
		path = fromEnv
	}
	if named := flags["config"]; len(named) > 0 {
		path = named[len(named)-1]
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("--config: %w", err)
		}
	}
	files := []string{path}
	dropIns, _ := filepath.Glob(path + ".d/*.y*ml")
	sort.Strings(dropIns)
	for _, file := range append(files, dropIns...) {
		content, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := s.merge(file, content); err != nil {
			return nil, err
		}
	}
	for variable, name := range map[string]string{
		"K3S_TOKEN": "token", "K3S_TOKEN_FILE": "token-file", "K3S_URL": "server", "K3S_NODE_NAME": "node-name",
		"K3S_KUBECONFIG_MODE": "write-kubeconfig-mode", "K3S_KUBECONFIG_OUTPUT": "write-kubeconfig",
		"K3S_RESOLV_CONF": "resolv-conf", "K3S_DATA_DIR": "data-dir",
	} {
		if value := lookupEnv(env, variable); value != "" {
			s.values[name] = []string{value}
		}
	}
	for name, values := range flags {
		s.values[name] = values
	}
	s.layout = newLayout(s.get("data-dir", defaultDataDir))
	return s, s.validate()
}

// merge adds one YAML file. A key that ends in + appends to what earlier files gave.
func (s *settings) merge(file string, content []byte) error {
	var document map[string]any
	if err := yaml.Unmarshal(content, &document); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for key, raw := range document {
		name := strings.TrimSuffix(key, "+")
		known, ok := options[name]
		if !ok {
			// Real k3s skips unknown keys of its file with a warning, too.
			log.Printf("warning: %s: unknown key %q skipped", file, name)
			continue
		}
		values, err := stringsOf(raw)
		if err != nil {
			return fmt.Errorf("%s: key %q: %w", file, key, err)
		}
		if known.kind != list && len(values) > 1 {
			return fmt.Errorf("%s: key %q takes one value, not a list", file, key)
		}
		if strings.HasSuffix(key, "+") {
			values = append(s.values[name], values...)
		}
		s.values[name] = values
	}
	return nil
}

func stringsOf(raw any) ([]string, error) {
	switch value := raw.(type) {
	case nil:
		return nil, nil
	case []any:
		var all []string
		for _, item := range value {
			one, err := stringsOf(item)
			if err != nil {
				return nil, err
			}
			all = append(all, one...)
		}
		return all, nil
	case map[string]any:
		return nil, errors.New("a mapping is not a value")
	case float64:
		return []string{strings.TrimSuffix(fmt.Sprintf("%f", value), ".000000")}, nil
	default:
		return []string{fmt.Sprint(value)}, nil
	}
}

func parseFlags(args []string) (map[string][]string, error) {
	flags := map[string][]string{}
	short := map[string]string{"-t": "--token", "-s": "--server", "-d": "--data-dir", "-c": "--config"}
	for index := 0; index < len(args); index++ {
		arg := args[index]
		if long, ok := short[arg]; ok {
			arg = long
		}
		if !strings.HasPrefix(arg, "--") {
			return nil, fmt.Errorf("unexpected argument %q", arg)
		}
		name, value, inline := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		known, ok := options[name]
		if !ok {
			return nil, fmt.Errorf("unknown flag --%s", name)
		}
		if !inline {
			if known.kind == boolean {
				value = "true"
			} else if index+1 < len(args) {
				index++
				value = args[index]
			} else {
				return nil, fmt.Errorf("flag --%s needs a value", name)
			}
		}
		if known.kind == list {
			flags[name] = append(flags[name], value)
		} else {
			flags[name] = []string{value}
		}
	}
	return flags, nil
}

// validate refuses what would silently mean something else, and logs what has no effect here.
func (s *settings) validate() error {
	var names []string
	for name := range s.values {
		names = append(names, name)
	}
	sort.Strings(names)
	var problems []error
	for _, name := range names {
		known := options[name]
		if known.kind == boolean {
			if value := s.get(name, "false"); value != "true" && value != "false" {
				problems = append(problems, fmt.Errorf("%s: %q is neither true nor false", name, value))
				continue
			}
			if !s.is(name) {
				continue
			}
		}
		if why, refused := strings.CutPrefix(known.effect, "refused"); refused {
			problems = append(problems, fmt.Errorf("setting %q is not supported by the sandbox's k3s%s", name, why))
		} else if known.effect != "" && s.has(name) {
			log.Printf("setting %q is %s", name, known.effect)
		}
	}
	switch backend := s.get("flannel-backend", "vxlan"); backend {
	case "none":
		log.Printf("setting \"flannel-backend\": none: no CNI configuration is written")
	case "vxlan", "host-gw":
	default:
		problems = append(problems, fmt.Errorf("flannel-backend %q is not supported by the sandbox's k3s: it routes like host-gw", backend))
	}
	for _, name := range []string{"cluster-cidr", "service-cidr"} {
		if ranges := s.all(name, ""); len(ranges) > 1 {
			problems = append(problems, fmt.Errorf("%s: one IPv4 range, not %d: dual stack is not in the sandbox", name, len(ranges)))
		} else if len(ranges) == 1 {
			if _, _, err := net.ParseCIDR(ranges[0]); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if s.role == "agent" && !s.has("server") {
		problems = append(problems, errors.New("an agent needs `server` (https://HOST:6443) and `token`, as flags or in config.yaml"))
	}
	if s.role == "agent" && !s.has("token") && !s.has("token-file") {
		problems = append(problems, errors.New("an agent needs `token`: the text of /var/lib/rancher/k3s/server/token on the server"))
	}
	if s.role == "server" && s.has("server") {
		problems = append(problems, errors.New("a second server cannot join: the sandbox's control plane has one member. Use `k3s agent`"))
	}
	return errors.Join(problems...)
}

// token returns the configured join token, from its value or its file.
func (s *settings) token() (string, error) {
	if s.has("token") {
		return s.get("token", ""), nil
	}
	if path := s.get("token-file", ""); path != "" {
		content, err := os.ReadFile(path)
		return strings.TrimSpace(string(content)), err
	}
	return "", nil
}

func lookupEnv(env []string, name string) string {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

func settingsHelp(role string) string {
	var lines []string
	for name, known := range options {
		line := "  --" + name
		if known.effect != "" {
			line += "  (" + known.effect + ")"
		}
		lines = append(lines, line)
	}
	sort.Strings(lines)
	return "usage: k3s " + role + " [flags]\n\n" + strings.Join(lines, "\n") + "\n"
}
