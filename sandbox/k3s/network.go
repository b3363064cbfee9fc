package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
)

// node is who this machine is in the cluster.
type node struct {
	name string
	ip   net.IP
}

// identify settles the node's name and address. Real k3s insists on a default route; here an
// address is enough, so that a host without any way out works too.
func identify(s *settings) (node, error) {
	name := s.get("node-name", "")
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return node{}, err
		}
		name = host
	}
	name = strings.ToLower(name)
	if given := s.all("node-ip", ""); len(given) > 0 {
		ip := net.ParseIP(given[0]).To4()
		if ip == nil {
			return node{}, fmt.Errorf("node-ip %q is not an IPv4 address", given[0])
		}
		return node{name, ip}, nil
	}
	// Connecting a datagram socket sends nothing: it only asks the kernel for the route.
	if conn, err := net.Dial("udp4", "192.0.2.1:9"); err == nil {
		defer conn.Close()
		if local, ok := conn.LocalAddr().(*net.UDPAddr); ok && !local.IP.IsLoopback() {
			return node{name, local.IP.To4()}, nil
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return node{}, err
	}
	for _, link := range interfaces {
		if link.Name == "cni0" || link.Flags&net.FlagLoopback != 0 || link.Flags&net.FlagUp == 0 {
			continue
		}
		addresses, _ := link.Addrs()
		for _, address := range addresses {
			if prefix, ok := address.(*net.IPNet); ok && prefix.IP.To4() != nil && prefix.IP.IsGlobalUnicast() {
				log.Printf("no default route: taking %s of %s as node-ip", prefix.IP, link.Name)
				return node{name, prefix.IP.To4()}, nil
			}
		}
	}
	return node{}, errors.New("no IPv4 address found for this node: set node-ip")
}

// addressIn returns the n-th address of a range: 1 for the API service, 10 for DNS, as k3s does.
func addressIn(cidr string, n uint32) (net.IP, error) {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return nil, err
	}
	base := network.IP.To4()
	if base == nil {
		return nil, fmt.Errorf("%s: IPv4 only", cidr)
	}
	ip := make(net.IP, 4)
	binary.BigEndian.PutUint32(ip, binary.BigEndian.Uint32(base)+n)
	if !network.Contains(ip) {
		return nil, fmt.Errorf("%s is too small", cidr)
	}
	return ip, nil
}

// firstPodRange is the /24 that the first node of a new cluster will get.
func firstPodRange(cidr string) (string, error) {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return "", err
	}
	if ones, _ := network.Mask.Size(); ones > 24 {
		return network.String(), nil
	}
	return network.IP.String() + "/24", nil
}

// prepareKernel readies the kernel for pods: forwarding on, bridged traffic seen by iptables.
func prepareKernel() {
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward":                "1",
		"/proc/sys/net/ipv4/conf/all/forwarding":       "1",
		"/proc/sys/net/bridge/bridge-nf-call-iptables": "1",
	} {
		if old, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(old)) == value {
			continue
		}
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			log.Printf("warning: cannot set %s to %s: %v", path, value, err)
		}
	}
}
