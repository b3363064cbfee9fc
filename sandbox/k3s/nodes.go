package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	certificates "k8s.io/api/certificates/v1"
	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// routeProtocol marks the routes that this program made, so that it removes no others.
const routeProtocol = 99

// nodeKeeper follows the cluster's nodes: this node's pod range becomes the CNI configuration,
// the other nodes' ranges become routes. On a server it also names the nodes to CoreDNS.
type nodeKeeper struct {
	layout   layout
	self     node
	podRange string
	cni      bool // false with flannel-backend none
	client   kubernetes.Interface
	addons   *addons // nil on an agent

	hosts   string // what CoreDNS was last told
	labeled bool
}

func (k *nodeKeeper) run(ctx context.Context) {
	lastRules := time.Time{}
	last := ""
	for {
		if k.cni && time.Since(lastRules) > 10*time.Second {
			// Firewall tools flush tables at will: the rules are looked at again and again.
			if err := podRules(k.podRange); err != nil {
				log.Printf("warning: iptables: %v", err)
			}
			lastRules = time.Now()
		}
		err := k.round(ctx)
		pause := 2 * time.Second
		if err != nil || !k.labeled && k.addons != nil {
			pause = 300 * time.Millisecond
		}
		if err != nil && err.Error() != last && ctx.Err() == nil {
			log.Printf("nodes: %v", err)
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (k *nodeKeeper) round(ctx context.Context) error {
	list, err := k.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	if k.cni {
		for _, item := range list.Items {
			if item.Name == k.self.name && item.Spec.PodCIDR != "" {
				if err := writeCNI(k.layout, item.Spec.PodCIDR); err != nil {
					return err
				}
			}
		}
		if err := k.syncRoutes(list.Items); err != nil {
			return err
		}
	}
	if k.addons == nil {
		return nil
	}
	if err := k.tellCoreDNS(ctx, list.Items); err != nil {
		return err
	}
	if err := k.labelServer(ctx, list.Items); err != nil {
		return err
	}
	return k.approveServing(ctx, list.Items)
}

func addressesOf(item core.Node) (internal string, all []string) {
	for _, address := range item.Status.Addresses {
		if address.Type == core.NodeInternalIP && internal == "" {
			internal = address.Address
		}
		all = append(all, address.Address)
	}
	return internal, all
}

// syncRoutes makes one route per other node, and removes those of nodes that left.
func (k *nodeKeeper) syncRoutes(items []core.Node) error {
	wanted := map[string]net.IP{}
	for _, item := range items {
		if internal, _ := addressesOf(item); item.Name != k.self.name && item.Spec.PodCIDR != "" && internal != "" {
			wanted[item.Spec.PodCIDR] = net.ParseIP(internal)
		}
	}
	existing, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for index, route := range existing {
		if route.Dst == nil {
			continue
		}
		if gateway, ok := wanted[route.Dst.String()]; ok && route.Gw.Equal(gateway) {
			delete(wanted, route.Dst.String())
		} else if !ok {
			if err := netlink.RouteDel(&existing[index]); err != nil {
				return fmt.Errorf("remove route %s: %w", route.Dst, err)
			}
		}
	}
	for cidr, gateway := range wanted {
		_, destination, err := net.ParseCIDR(cidr)
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{Dst: destination, Gw: gateway, Protocol: routeProtocol}); err != nil {
			return fmt.Errorf("route %s via %s: %w", cidr, gateway, err)
		}
		log.Printf("route %s via %s", cidr, gateway)
	}
	return nil
}

// tellCoreDNS keeps NodeHosts, the file by which pods resolve node names.
func (k *nodeKeeper) tellCoreDNS(ctx context.Context, items []core.Node) error {
	if slices.Contains(k.addons.cluster.all("disable", ""), "coredns") {
		return nil
	}
	lines := []string{k.self.ip.String() + " " + k.self.name}
	for _, item := range items {
		if internal, _ := addressesOf(item); item.Name != k.self.name && internal != "" {
			lines = append(lines, internal+" "+item.Name)
		}
	}
	slices.Sort(lines)
	hosts := strings.Join(lines, "\n") + "\n"
	if hosts == k.hosts {
		return nil
	}
	kind := metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
	if err := k.addons.applyFields(ctx, kind, "kube-system", "coredns", map[string]any{"data": map[string]any{"NodeHosts": hosts}}); err != nil {
		return err
	}
	k.hosts = hosts
	return nil
}

// labelServer gives this node its role: a kubelet may not set that label itself.
func (k *nodeKeeper) labelServer(ctx context.Context, items []core.Node) error {
	if k.labeled {
		return nil
	}
	for _, item := range items {
		if item.Name != k.self.name {
			continue
		}
		fields := map[string]any{"metadata": map[string]any{"labels": map[string]any{"node-role.kubernetes.io/control-plane": "true"}}}
		if err := k.addons.applyFields(ctx, metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, "", item.Name, fields); err != nil {
			return err
		}
		k.labeled = true
	}
	return nil
}

// approveServing signs off the serving certificates that agents' kubelets ask for, provided the
// request names the asking node and addresses which that node has.
func (k *nodeKeeper) approveServing(ctx context.Context, items []core.Node) error {
	requests := k.client.CertificatesV1().CertificateSigningRequests()
	list, err := requests.List(ctx, metav1.ListOptions{
		ResourceVersion: "0", FieldSelector: "spec.signerName=" + certificates.KubeletServingSignerName,
	})
	if err != nil {
		return err
	}
	for index := range list.Items {
		request := &list.Items[index]
		if len(request.Status.Conditions) > 0 {
			continue
		}
		if err := servingRequestFits(request, items); err != nil {
			log.Printf("certificate request %s not approved: %v", request.Name, err)
			continue
		}
		request.Status.Conditions = []certificates.CertificateSigningRequestCondition{{
			Type: certificates.CertificateApproved, Status: core.ConditionTrue, Reason: "K3sNode",
			Message: "names and addresses are those of the node that asks",
		}}
		if _, err := requests.UpdateApproval(ctx, request.Name, request, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

func servingRequestFits(request *certificates.CertificateSigningRequest, items []core.Node) error {
	block, _ := pem.Decode(request.Spec.Request)
	if block == nil {
		return fmt.Errorf("no request in it")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return err
	}
	name, isNode := strings.CutPrefix(request.Spec.Username, "system:node:")
	if !isNode || !slices.Contains(request.Spec.Groups, "system:nodes") {
		return fmt.Errorf("%s is not a node", request.Spec.Username)
	}
	if parsed.Subject.CommonName != request.Spec.Username {
		return fmt.Errorf("%s asks for %s", request.Spec.Username, parsed.Subject.CommonName)
	}
	for _, item := range items {
		if item.Name != name {
			continue
		}
		_, known := addressesOf(item)
		known = append(known, name)
		for _, ip := range parsed.IPAddresses {
			if !slices.Contains(known, ip.String()) {
				return fmt.Errorf("%s is not an address of %s", ip, name)
			}
		}
		for _, host := range parsed.DNSNames {
			if !slices.Contains(known, host) {
				return fmt.Errorf("%s is not a name of %s", host, name)
			}
		}
		return nil
	}
	return fmt.Errorf("no node %s", name)
}

// writeCNI writes the pod network of this node: a bridge, addresses from the node's range.
// Masquerading is left to podRules: the plugin's own would hide pods from pods of other nodes.
func writeCNI(l layout, podCIDR string) error {
	content, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "cbr0",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": "cni0", "isGateway": true, "forceAddress": true,
				"ipMasq": false, "hairpinMode": true,
				"ipam": map[string]any{
					"type":   "host-local",
					"ranges": []any{[]any{map[string]any{"subnet": podCIDR}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(l.cniConf()+"/10-flannel.conflist", append(content, '\n'), 0o600)
}

// podRules keeps what flannel keeps in real k3s, under the same chain names, so that tools that
// remove them find them: pods' traffic is forwarded, and masqueraded when it leaves the pods.
func podRules(podRange string) error {
	chains := []struct{ table, parent, chain, comment string }{
		{"filter", "FORWARD", "FLANNEL-FWD", "flanneld forward"},
		{"nat", "POSTROUTING", "FLANNEL-POSTRTG", "flanneld masq"},
	}
	rules := map[string][][]string{
		"FLANNEL-FWD": {
			{"-s", podRange, "-j", "ACCEPT"},
			{"-d", podRange, "-j", "ACCEPT"},
		},
		"FLANNEL-POSTRTG": {
			{"-s", podRange, "-d", podRange, "-j", "RETURN"},
			{"-s", podRange, "!", "-d", "224.0.0.0/4", "-j", "MASQUERADE", "--random-fully"},
		},
	}
	for _, c := range chains {
		if iptables("-t", c.table, "-S", c.chain) != nil {
			if err := iptables("-t", c.table, "-N", c.chain); err != nil {
				return err
			}
		}
		for _, rule := range rules[c.chain] {
			if err := ensureRule(c.table, c.chain, rule); err != nil {
				return err
			}
		}
		if err := ensureRule(c.table, c.parent, []string{"-m", "comment", "--comment", c.comment, "-j", c.chain}); err != nil {
			return err
		}
	}
	return nil
}

func ensureRule(table, chain string, rule []string) error {
	if iptables(append([]string{"-t", table, "-C", chain}, rule...)...) == nil {
		return nil
	}
	return iptables(append([]string{"-t", table, "-A", chain}, rule...)...)
}

func iptables(args ...string) error {
	cmd := exec.Command("iptables", append([]string{"-w", "10"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
