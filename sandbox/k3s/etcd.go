package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// startEtcd runs the datastore inside the main process, reachable only by a socket in a 0700
// directory. fsync stays on: a killed host must keep what it acknowledged.
func startEtcd(ctx context.Context, l layout) (*embed.Etcd, string, error) {
	client := url.URL{Scheme: "unix", Path: l.server("db", "etcd.sock")}
	peer := url.URL{Scheme: "unix", Path: l.server("db", "peer.sock")}
	config := embed.NewConfig()
	config.Name = "k3s"
	config.Dir = l.server("db", "etcd")
	config.ListenClientUrls = []url.URL{client}
	config.ListenPeerUrls = []url.URL{peer}
	// What is advertised must have a port; nobody listens there, as there is no other member and
	// the API server is given the socket.
	config.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}
	config.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	config.LogLevel = "error"
	config.WarningUnaryRequestDuration = 500 * time.Millisecond // its zero value logs every request
	config.EnableGRPCGateway = false
	config.QuotaBackendBytes = 2 << 30
	config.SnapshotCount = 5000
	config.MaxRequestBytes = 3 << 20
	// One member: nothing to elect against, so the first leader may come at once.
	config.TickMs, config.ElectionMs = 50, 500
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, "", fmt.Errorf("start etcd in %s: %w", config.Dir, err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, client.String(), nil
	case err := <-etcd.Err():
		return nil, "", fmt.Errorf("etcd: %w", err)
	case <-time.After(60 * time.Second):
		etcd.Close()
		return nil, "", fmt.Errorf("etcd in %s did not become ready within 60 s", config.Dir)
	case <-ctx.Done():
		etcd.Close()
		return nil, "", ctx.Err()
	}
}
